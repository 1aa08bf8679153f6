"""Weights of units in the surrogate: record -> [B, S], without gradient. The KL term is not weighted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flowgrpo.errors import RecipeError
from flowgrpo.records import reads

if TYPE_CHECKING:
    from torch import Tensor

    from flowgrpo.records import Record


@reads()
def uniform(record: Record, **_: Any) -> Tensor:
    """Every unit counts 1.

    Args:
        record: likelihood of the units.
        **_: what other weights need, ignored.

    Returns:
        Tensor: ones [B, S].
    """
    return record.log_prob.new_ones(record.log_prob.shape)


@reads("dt")
def inverse_dt(record: Record, **_: Any) -> Tensor:
    """1 / |dt|: with the `guard` ratio and the flow SDE, gradients of equal scale at all steps but the first.

    Source: GRPO-Guard (arXiv 2510.22319), eq. 10.

    Args:
        record: likelihood of the units.
        **_: what other weights need, ignored.

    Returns:
        Tensor: [B, S], > 0.
    """
    return 1 / record.dt.abs()


@reads("std")
def noise_level(record: Record, *, trained_std: Tensor | None = None, **_: Any) -> Tensor:
    """std over its mean over the trained steps: steps count as much as they can explore.

    Source: TempFlow-GRPO (arXiv 2508.04324), eq. 7 and 8, normalised to mean 1 over steps.

    Args:
        record: likelihood of the units.
        trained_std: transition std of each trained step of the plan, [steps].
        **_: what other weights need, ignored.

    Returns:
        Tensor: [B, S], > 0.

    Raises:
        RecipeError: trained_std is missing.
    """
    if trained_std is None:
        raise RecipeError("objective.weight: noise_level needs trained_std, the std of each trained step of the plan")
    return record.std / trained_std.mean()


WEIGHTS: dict[str, Callable[..., Tensor]] = {
    "uniform": uniform,
    "inverse_dt": inverse_dt,
    "noise_level": noise_level,
}
