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


@reads("log_prob", "ref_log_prob")
def k1(record: Record) -> Tensor:
    """log_prob - ref_log_prob: unbiased for KL(policy || reference) on the policy's own samples, of any sign.

    As a loss it only teaches through the score: its gradient is that of log_prob, 0 in the mean over own samples.

    Source: Schulman, "Approximating KL Divergence" (2020), k1.

    Args:
        record: likelihood of the units.

    Returns:
        Tensor: [B, S].
    """
    return record.log_prob - record.ref_log_prob


@reads("log_prob", "ref_log_prob")
def k2(record: Record) -> Tensor:
    """(log_prob - ref_log_prob)^2 / 2: biased, never negative, and its gradient is that of the KL divergence.

    For sequences this is of the raw ELBO; ESPO further divides by the generation length, which beta can hold.

    Source: Schulman (2020), k2; MDPO and ESPO.

    Args:
        record: likelihood of the units.

    Returns:
        Tensor: [B, S], >= 0.
    """
    return k1(record).square() / 2


@reads("log_prob", "ref_log_prob", refuses=("length",))
def k3(record: Record) -> Tensor:
    """exp(ref_log_prob - log_prob) - (ref_log_prob - log_prob) - 1: unbiased and never negative.

    For tokens only. The gap of two sequence ELBOs is noise of several nats, whose exponential swamps everything.

    Source: Schulman (2020), k3; GRPO (arXiv 2402.03300), d1, DiffuCoder.

    Args:
        record: likelihood of the units.

    Returns:
        Tensor: [B, S], >= 0.

    Raises:
        ValueError: units are whole sequences.
    """
    if record.length is not None:
        raise ValueError(
            "kl k3 takes exp of a log-prob gap, which explodes on a sequence's ELBO; right would be k1 or k2"
        )
    gap = -k1(record)
    return gap.expm1() - gap


KLS: dict[str, Callable[[Record], Tensor]] = {
    "none": none,
    "mean_gap": mean_gap,
    "mean_gap_no_dt": mean_gap_no_dt,
    "k1": k1,
    "k2": k2,
    "k3": k3,
}
