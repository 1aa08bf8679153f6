"""Reductions: weights by hand, on chains and trees, and that micro-batches do not show."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from flowgrpo.reductions import REDUCTIONS, mean, sample_mean, step_sum

KEEP = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])


def chains(keep: Tensor) -> tuple[Tensor, Tensor]:
    return torch.arange(len(keep)).repeat_interleave(keep.shape[1]), torch.arange(keep.numel())


def check(weights: Tensor, want: list) -> None:
    torch.testing.assert_close(weights, torch.tensor(want, dtype=torch.float64), rtol=1e-15, atol=0)


def test_chains_by_hand() -> None:
    """Sample 0 trains two steps, sample 1 one, sample 2 none."""
    check(mean(KEEP, *chains(KEEP)), [[1 / 3, 1 / 3, 0], [1 / 3, 0, 0], [0, 0, 0]])
    check(sample_mean(KEEP, *chains(KEEP)), [[1 / 4, 1 / 4, 0], [1 / 2, 0, 0], [0, 0, 0]])
    check(step_sum(KEEP, *chains(KEEP)), [[1 / 2, 1 / 2, 0], [1 / 2, 0, 0], [0, 0, 0]])


def test_a_shared_edge_counts_once_for_each_sample_below_it() -> None:
    """Edge 0 leads to leaves 0 and 1; edges 1 and 2 to leaf 0; edge 3 to leaf 1."""
    keep = torch.ones(4, dtype=torch.bool)
    leaf_of, edge_of = torch.tensor([0, 1, 0, 0, 1]), torch.tensor([0, 0, 1, 2, 3])
    check(mean(keep, leaf_of, edge_of), [1 / 4] * 4)
    check(sample_mean(keep, leaf_of, edge_of), [1 / 6 + 1 / 4, 1 / 6, 1 / 6, 1 / 4])
    check(step_sum(keep, leaf_of, edge_of), [1, 1 / 2, 1 / 2, 1 / 2])
    check(step_sum(torch.tensor([True, False, False, False]), leaf_of, edge_of), [1, 0, 0, 0])


@pytest.mark.parametrize("reduction", REDUCTIONS.values(), ids=REDUCTIONS.keys())
def test_nothing_kept_gives_no_weight_and_no_nan(reduction) -> None:
    keep = torch.zeros(2, 3, dtype=torch.bool)
    assert torch.equal(reduction(keep, *chains(keep)), torch.zeros(2, 3, dtype=torch.float64))


@pytest.mark.parametrize("reduction", REDUCTIONS.values(), ids=REDUCTIONS.keys())
def test_order_of_pairs_does_not_matter(reduction) -> None:
    leaf_of, edge_of = chains(KEEP)
    torch.testing.assert_close(reduction(KEEP, leaf_of.flip(0), edge_of.flip(0)), reduction(KEEP, leaf_of, edge_of))
