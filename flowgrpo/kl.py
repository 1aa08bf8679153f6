"""Distances to the reference policy: record -> [B, S], with gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from flowgrpo.records import reads

if TYPE_CHECKING:
    from torch import Tensor

    from flowgrpo.records import Record


@reads()
def none(record: Record) -> Tensor:
    """No distance: zeros, and no forward pass of the reference.

    Args:
        record: likelihood of the units.

    Returns:
        Tensor: zeros [B, S].
    """
    return record.log_prob.new_zeros(record.log_prob.shape)


@reads("ref_gap", "std")
def mean_gap(record: Record) -> Tensor:
    """KL divergence of two Gaussian transitions of equal std: ref_gap / (2 std^2).

    Source: Flow-GRPO (arXiv 2505.05470), eq. 12, as a mean over latent elements instead of a sum; the form of the Wan
    script, and of every script for CPS.

    Args:
        record: likelihood of the units.

    Returns:
        Tensor: [B, S], >= 0.
    """
    return record.ref_gap / (2 * record.std.square())


@reads("ref_gap", "std", "dt")
def mean_gap_no_dt(record: Record) -> Tensor:
    """`mean_gap` times |dt|: ref_gap / (2 std^2 / |dt|).

    The Flow-GRPO scripts for SD3 and FLUX divide by the squared diffusion coefficient g, where std = g sqrt(|dt|). It
    makes steps of a short interval cheap; published betas for the `flow_sde` kernel belong to this form.

    Args:
        record: likelihood of the units.

    Returns:
        Tensor: [B, S], >= 0.
    """
    return mean_gap(record) * record.dt.abs()


KLS: dict[str, Callable[[Record], Tensor]] = {"none": none, "mean_gap": mean_gap, "mean_gap_no_dt": mean_gap_no_dt}
