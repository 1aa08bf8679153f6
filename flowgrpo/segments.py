"""Statistics of groups of a vector: sums, extremes and deviations by integer index, in the vector's order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor


def numbered(group: Tensor) -> tuple[Tensor, int]:
    """Groups renumbered from 0, and how many there are."""
    names, index = group.unique(return_inverse=True)
    return index, len(names)


def sums(values: Tensor, index: Tensor, groups: int) -> Tensor:
    return values.new_zeros(groups).index_add(0, index, values)


def extremum(values: Tensor, mask: Tensor, index: Tensor, groups: int, which: Literal["amax", "amin"]) -> Tensor:
    """Largest or smallest value of each group among those in the mask."""
    worst = float("-inf") if which == "amax" else float("inf")
    return values.new_full((groups,), worst).scatter_reduce(0, index, values.masked_fill(~mask, worst), which)


def first_of(mask: Tensor, index: Tensor, groups: int) -> Tensor:
    """The first position of each group that is in the mask, as a mask."""
    position = mask.new_ones(len(mask)).cumsum(0)
    return mask & (position == extremum(position.double(), mask, index, groups, "amin")[index])


def deviations(rewards: Tensor, valid: Tensor, index: Tensor) -> Tensor:
    """Reward minus group mean, 0 where not valid, and exactly 0 where all rewards of a group are equal."""
    groups = int(index.max()) + 1 if len(index) else 0
    # Measured from the group's maximum: the mean of equal numbers need not be that number after rounding.
    below = (rewards - extremum(rewards, valid, index, groups, "amax")[index]).masked_fill(~valid, 0.0)
    counts = sums(valid.double(), index, groups).clamp(min=1)
    return (below - (sums(below, index, groups) / counts)[index]).masked_fill(~valid, 0.0)


def is_flat(rewards: Tensor, valid: Tensor, group: Tensor, ddof: int, min_std: float) -> Tensor:
    """Members of groups whose spread is below `min_std`, [N] bool."""
    index, _ = numbered(group)
    return stds(deviations(rewards, valid, index), valid, index, ddof)[index] < min_std


def stds(deviation: Tensor, valid: Tensor, index: Tensor, ddof: int) -> Tensor:
    """Standard deviation of each group, 0 where it has no more than ddof members."""
    groups = int(index.max()) + 1 if len(index) else 0
    counts = sums(valid.double(), index, groups)
    return (sums(deviation.square(), index, groups) / (counts - ddof).clamp(min=1)).sqrt()
