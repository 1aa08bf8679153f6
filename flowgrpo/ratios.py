"""Log ratios of new to old policy: record -> [B, S], exactly 0 where both policies are one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from flowgrpo.records import reads

if TYPE_CHECKING:
    from torch import Tensor

    from flowgrpo.records import Record


@reads("eps_gap", "old_gap", "std")
def plain(record: Record) -> Tensor:
    """Log ratio of two Gaussian transitions of equal std.

        log p_new - log p_old = eps_gap / std - old_gap / (2 std^2)

    The difference of the two log densities without the terms that cancel: those are of order 1, where float32 has
    steps of 1e-7, and ratios move by 1e-6 to 1e-3.

    Source: Flow-GRPO (arXiv 2505.05470), eq. 5, with the mean over latent elements of its published code.

    Args:
        record: likelihood of the units.

    Returns:
        Tensor: [B, S].
    """
    return record.eps_gap / record.std - record.old_gap / (2 * record.std.square())


@reads("eps_gap", "old_gap", "std")
def unscaled(record: Record) -> Tensor:
    """Difference of the scores -(x_next - mean)^2 that Flow-CPS publishes in place of a log density.

        2 std eps_gap - old_gap

    This is 2 std^2 times the plain log ratio: no likelihood ratio, and it weighs steps of high noise more.

    Source: Flow-CPS (arXiv 2509.05952) and its code.

    Args:
        record: likelihood of the units.

    Returns:
        Tensor: [B, S].
    """
    return 2 * record.std * record.eps_gap - record.old_gap


@reads("eps_gap")
def guard(record: Record) -> Tensor:
    """Normalised log ratio of GRPO-Guard: eps_gap, per sample.

    std (log ratio + old_gap / (2 std^2)) without the cancelling terms. Its mean over the rollout's noise is 0 and its
    scale does not depend on std, so that one clip range fits all steps. Goes with the weight `inverse_dt`.

    Source: GRPO-Guard (arXiv 2510.22319), eq. 8; its code averages the correction over the batch, which is a bug.

    Args:
        record: likelihood of the units.

    Returns:
        Tensor: [B, S].
    """
    return record.eps_gap


RATIOS: dict[str, Callable[[Record], Tensor]] = {"plain": plain, "unscaled": unscaled, "guard": guard}
