"""Reductions: which weight each unit has in the loss of one optimizer step.

loss = sum over units of weight * unit loss. Weights come from the whole optimizer step, not from a micro-batch, so
that the split into micro-batches cannot change the gradient.

A reduction is called `reduction(keep, leaf_of, edge_of)`. Pairs [P] of integers say which units (`edge_of`, positions
in the flattened `keep`) lie on the way to which sample (`leaf_of`): for chains one pair per unit, in trees one per
sample that descends from the edge.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def mean(keep: Tensor, leaf_of: Tensor, edge_of: Tensor) -> Tensor:
    """Mean over all kept units: 1 / (number of kept units).

    Args:
        keep: units of this optimizer step that are trained, bool, [B, S] or [E].
        leaf_of: sample of each pair, int64 [P].
        edge_of: unit of each pair, int64 [P].

    Returns:
        Tensor: weights in float64, shape of keep, 0 where not kept.
    """
    return keep.double() / keep.sum().clamp(min=1)


def sample_mean(keep: Tensor, leaf_of: Tensor, edge_of: Tensor) -> Tensor:
    """Mean over each sample's kept units, then over the samples that have any.

    Args:
        keep: units of this optimizer step that are trained, bool, [B, S] or [E].
        leaf_of: sample of each pair, int64 [P].
        edge_of: unit of each pair, int64 [P].

    Returns:
        Tensor: weights in float64, shape of keep, 0 where not kept.
    """
    counts = _units_per_sample(keep, leaf_of, edge_of)
    shares = 1 / (counts.clamp(min=1) * (counts > 0).sum().clamp(min=1))
    return _onto_units(shares, keep, leaf_of, edge_of)


def step_sum(keep: Tensor, leaf_of: Tensor, edge_of: Tensor) -> Tensor:
    """Sum over each sample's kept units, then mean over the samples that have any.

    Args:
        keep: units of this optimizer step that are trained, bool, [B, S] or [E].
        leaf_of: sample of each pair, int64 [P].
        edge_of: unit of each pair, int64 [P].

    Returns:
        Tensor: weights in float64, shape of keep, 0 where not kept.
    """
    counts = _units_per_sample(keep, leaf_of, edge_of)
    shares = counts.clamp(max=1) / (counts > 0).sum().clamp(min=1)
    return _onto_units(shares, keep, leaf_of, edge_of)


def _units_per_sample(keep: Tensor, leaf_of: Tensor, edge_of: Tensor) -> Tensor:
    samples = int(leaf_of.max()) + 1 if leaf_of.numel() else 0
    return keep.new_zeros(samples).double().index_add(0, leaf_of, keep.flatten()[edge_of].double())


def _onto_units(shares: Tensor, keep: Tensor, leaf_of: Tensor, edge_of: Tensor) -> Tensor:
    """Add up, on each kept unit, the shares [samples] of the samples that it leads to."""
    weights = keep.new_zeros(keep.numel()).double().index_add(0, edge_of, shares[leaf_of])
    return weights.reshape(keep.shape) * keep


REDUCTIONS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "mean": mean,
    "sample_mean": sample_mean,
    "step_sum": step_sum,
}
