"""Selections: what is kept, and that the choice depends on keys alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from flowgrpo import recipe
from flowgrpo.objective import resolve_objective, select_units
from flowgrpo.select import best_of_n, every, random_steps

SAMPLES, STEPS = 12, 10


def units(samples: int = SAMPLES, steps: int = STEPS) -> tuple[Tensor, Tensor]:
    """(sample, step) of [B, S] units."""
    step = torch.arange(steps).expand(samples, steps)
    return torch.arange(samples)[:, None].expand(samples, steps), step


def random_keep(sample: Tensor, step: Tensor, *, share: float = 0.6, seed: int = 5, iteration: int = 2) -> Tensor:
    valid = torch.ones(sample.shape, dtype=torch.bool)
    return random_steps(
        valid.double(), valid, step=step, sample=sample, seed=seed, iteration=iteration, share=share, group=sample
    )


@pytest.mark.parametrize(
    ("steps", "share", "kept"), [(15, 0.6, 9), (10, 0.99, 9), (9, 0.6, 5), (7, 0.0, 1), (5, 1.0, 5), (100, 0.29, 29)]
)
def test_every_sample_trains_the_share_rounded_down_and_at_least_one(steps: int, share: float, kept: int) -> None:
    assert random_keep(*units(4, steps), share=share).sum(1).tolist() == [kept] * 4


def test_choice_depends_on_seed_iteration_and_sample_and_covers_all_steps() -> None:
    keep = random_keep(*units())
    assert torch.equal(keep, random_keep(*units()))
    assert not torch.equal(keep, random_keep(*units(), seed=6))
    assert not torch.equal(keep, random_keep(*units(), iteration=3))
    assert len({tuple(row) for row in keep.tolist()}) > 6
    counts = random_keep(*units(2000, 5), share=0.4).double().mean(0)
    assert (counts - 0.4).abs().max() < 0.05  # four standard errors: 4 sqrt(0.24 / 2000) = 0.044


def test_choice_does_not_depend_on_order_batching_or_layout() -> None:
    sample, step = units()
    keep = random_keep(sample, step)
    halves = torch.cat([random_keep(sample[i : i + 5], step[i : i + 5]) for i in range(0, SAMPLES, 5)])
    assert torch.equal(halves, keep)
    order = torch.randperm(SAMPLES * STEPS, generator=torch.Generator().manual_seed(0))
    assert torch.equal(random_keep(sample.flatten()[order], step.flatten()[order]), keep.flatten()[order])


def test_siblings_of_one_step_are_kept_together() -> None:
    sample, step = torch.tensor([0, 0, 0, 0]), torch.tensor([3, 3, 5, 5])
    keep = random_keep(sample, step, share=0.5)
    assert keep[0] == keep[1] and keep[2] == keep[3] and keep.sum() == 2


def extremes(
    values: list[float], group: list[int], best_of: int, scope: str = "group", valid: list[bool] | None = None
):
    advantages, owner = torch.tensor(values), torch.tensor(group)
    usable = torch.ones(len(values), dtype=torch.bool) if valid is None else torch.tensor(valid)
    keep = best_of_n(advantages, usable, group=owner, step=owner * 0, best_of=best_of, scope=scope)
    return keep.nonzero().flatten().tolist()


def test_best_and_worst_half_within_groups_or_over_the_batch() -> None:
    values, group = [5.0, 1.0, 3.0, 9.0, 7.0, 8.0, 6.0, 6.5], [0, 0, 0, 0, 1, 1, 1, 1]
    assert extremes(values, group, 2) == [1, 3, 5, 6]
    assert extremes(values, group, 2, "batch") == [1, 3]
    assert extremes(values, group, 4) == list(range(8))


def test_ties_go_to_the_lowest_position_and_nobody_is_kept_twice() -> None:
    assert extremes([1.0] * 6, [0] * 6, 4) == [0, 1, 2, 3]
    assert extremes([0.0, 2.0, 2.0, 0.0, 2.0, 0.0], [0] * 6, 2) == [0, 1]


def test_invalid_units_are_neither_ranked_nor_kept() -> None:
    assert extremes([9.0, 1.0, 2.0, 3.0, 0.0], [0] * 5, 2, valid=[False, True, True, True, False]) == [1, 3]


def test_each_step_of_a_chain_keeps_the_same_samples() -> None:
    sample, step = units()
    advantages = torch.randn(SAMPLES, 1, generator=torch.Generator().manual_seed(0)).expand(SAMPLES, STEPS)
    valid = torch.ones(sample.shape, dtype=torch.bool)
    keep = best_of_n(advantages, valid, group=sample // 6, step=step, best_of=4)
    assert torch.equal(keep, keep[:, :1].expand_as(keep)) and keep[:, 0].sum() == 8


def test_all_keeps_what_is_valid() -> None:
    valid = torch.tensor([True, False])
    assert torch.equal(every(torch.zeros(2), valid), valid)


def stubborn(advantages: Tensor, valid: Tensor, *, step: Tensor, **_: object) -> Tensor:
    """Wants every even step, of invalid samples too."""
    return step % 2 == 0


def wrong_shape(advantages: Tensor, valid: Tensor, **_: object) -> Tensor:
    return valid[:1]


@pytest.mark.parametrize("name", ["all", "random_steps", "best_of_n", f"{__file__}:stubborn"])
def test_units_of_invalid_samples_are_never_kept(name: str) -> None:
    sample, step = units()
    valid = sample != 3
    keep = select_units(
        resolve_objective(recipe.Objective(select=name)),
        sample.double(),
        valid,
        group=sample // 6,
        step=step,
        sample=sample,
        seed=1,
        iteration=0,
    )
    assert keep.shape == valid.shape and not keep[3].any() and keep[4].any()


def test_a_selection_of_another_shape_is_refused() -> None:
    objective = resolve_objective(recipe.Objective(select=f"{__file__}:wrong_shape"))
    valid = torch.ones(3, 1, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"returned shape \(1, 1\) for units \(3, 1\)"):
        select_units(objective, valid.double(), valid, group=valid, step=valid, sample=valid, seed=0, iteration=0)
