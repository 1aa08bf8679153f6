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


@reads("log_prob", "old_log_prob")
def difference(record: Record) -> Tensor:
    """Log ratio of units of text: log_prob - old_log_prob, both on the same masks.

    For tokens the ratio of diffu-GRPO and coupled-GRPO. For whole sequences the unnormalised one that GDPO's paper
    writes; it grows with the length, so that a clip range fits one length only. `sequence` divides.

    Source: d1 (arXiv 2504.12216), DiffuCoder (arXiv 2506.20639), GDPO (ICLR 2026).

    Args:
        record: likelihood of the units.

    Returns:
        Tensor: [B, S].
    """
    return record.log_prob - record.old_log_prob


@reads("log_prob", "old_log_prob", "length")
def sequence(record: Record) -> Tensor:
    """Log ratio of whole sequences per token: (ELBO - ELBO_old) / |y|, |y| up to and including the first end token.

    Source: GSPO (arXiv 2507.18071), eq. 7, with the ELBO for the log-likelihood, as in published GDPO and ESPO code.

    Args:
        record: likelihood of the units, one per sequence.

    Returns:
        Tensor: [B, S].
    """
    return difference(record) / record.length


RATIOS: dict[str, Callable[[Record], Tensor]] = {
    "plain": plain,
    "unscaled": unscaled,
    "guard": guard,
    "difference": difference,
    "sequence": sequence,
}
