"""Surrogate losses: (log ratio, advantages) -> loss per unit, and where its gradient is cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Surrogate(NamedTuple):
    """Loss of each unit [B, S], and whether its gradient was cut because the ratio left the range below or above."""

    loss: Tensor
    clip_low: Tensor
    clip_high: Tensor


def clipped(log_ratio: Tensor, advantages: Tensor, *, low: float, high: float) -> Surrogate:
    """PPO's pessimistic bound: max(-A r, -A clamp(r, 1 - low, 1 + high)) with r = exp(log_ratio).

    The range is compared with r - 1 = expm1(log_ratio): next to 1 float32 has steps of 1e-7, a twentieth of the
    ranges in use.

    Source: PPO (arXiv 1707.06347), eq. 7, with separate ranges.

    Args:
        log_ratio: [B, S].
        advantages: [B, S], without gradient.
        low: how far r may fall below 1 where the advantage is negative, > 0.
        high: how far r may rise above 1 where the advantage is positive, > 0.

    Returns:
        Surrogate: loss [B, S] with gradient; clip_low and clip_high [B, S] bool, True exactly where it has none.
    """
    gap = log_ratio.expm1()
    clip_low = (advantages < 0) & (gap < -low)
    clip_high = (advantages > 0) & (gap > high)
    allowed = gap.masked_fill(clip_low, -low).masked_fill(clip_high, high)
    return Surrogate(-advantages * (1 + allowed), clip_low, clip_high)


SURROGATES: dict[str, Callable[..., Surrogate]] = {"clipped": clipped}
