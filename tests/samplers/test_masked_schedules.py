"""Schedules and the steps of a row."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samplers import SCHEDULES, keyed_uniform, transfer_schedule
from samplers.masked_schedules import Turn, row_turns

TABLES = [name for name in SCHEDULES if name != "bernoulli"]


def uniforms(step: int, count: int) -> torch.Tensor:
    return keyed_uniform((1, step), (count,))


@settings(max_examples=60, deadline=None)
@given(masks=st.integers(0, 90), steps=st.integers(1, 40), name=st.sampled_from(sorted(SCHEDULES)))
def test_every_schedule_reveals_every_mask_once(masks: int, steps: int, name: str) -> None:
    numbers = SCHEDULES[name](masks, steps, uniforms)
    assert len(numbers) == steps and min(numbers) >= 0 and sum(numbers) == masks


def test_even_is_llada_s_table() -> None:
    assert transfer_schedule([32, 7, 3, 0], 5).tolist() == [[7, 7, 6, 6, 6], [2, 2, 1, 1, 1], [1, 1, 1, 0, 0], [0] * 5]


def test_masks_may_be_given_as_a_canvas() -> None:
    masked = torch.tensor([[True, True, False, True], [False, False, False, True]])
    assert torch.equal(transfer_schedule(masked, 2), transfer_schedule([3, 1], 2))


def test_dream_truncates_and_leaves_two_for_the_last_step() -> None:
    assert transfer_schedule([8], 8, "dream").tolist() == [[0, 1, 1, 1, 1, 1, 1, 2]]
    assert transfer_schedule([256], 256, "dream")[0, [0, -1]].tolist() == [0, 2]


def test_bernoulli_reveals_each_mask_at_a_uniform_step() -> None:
    """Over 200 rows of 50 masks and 5 steps each step has a fifth: 2,000 of 10,000, standard deviation 40."""
    total = torch.zeros(5)
    for row in range(200):
        numbers = SCHEDULES["bernoulli"](50, 5, lambda step, count, row=row: keyed_uniform((row, step), (count,)))
        total += torch.tensor(numbers)
    assert (total - 2000).abs().max() < 160


def test_a_random_schedule_has_no_table() -> None:
    with pytest.raises(ValueError, match="random"):
        transfer_schedule([4], 2, "bernoulli")


@pytest.mark.parametrize(("options", "message"), [({"steps": 0}, "at least 1, got 0"), ({"schedule": "evn"}, "'even'")])
def test_wrong_tables_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        transfer_schedule([4], **({"steps": 2} | options))


def turns(masked: list[int], **options) -> tuple[Turn, ...]:
    defaults = {"block_length": None, "steps": None, "schedule": SCHEDULES["even"], "uniforms": uniforms, "idle": False}
    return row_turns(masked, **(defaults | options))


def test_blocks_count_from_the_first_mask_and_share_the_steps() -> None:
    assert turns([3, 4, 5, 6, 7, 8], block_length=4, steps=3) == (
        Turn(3, 7, 2, 2),
        Turn(3, 7, 2, 0),
        Turn(7, 11, 2, 0),
    )


def test_blocks_without_masks_take_no_steps() -> None:
    assert turns([2, 9], block_length=2, steps=2) == (Turn(2, 4, 1, 0), Turn(8, 10, 1, 0))
    assert turns([]) == ()


def test_idle_steps_are_kept_only_on_request() -> None:
    long = {"steps": 12, "schedule": SCHEDULES["dream"]}
    kept = turns([0, 1, 2, 3, 4, 5], idle=True, **long)
    assert [turn.quota for turn in kept] == [0] * 7 + [1] * 4 + [2]
    assert [turn.quota for turn in turns([0, 1, 2, 3, 4, 5], **long)] == [1] * 4 + [2]


def test_too_few_steps_for_the_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="got 2 for 3"):
        turns([0, 1, 2], block_length=1, steps=2)


def test_noise_of_later_blocks_is_their_own() -> None:
    asked: list[int] = []

    def spy(step: int, count: int) -> torch.Tensor:
        asked.append(step)
        return uniforms(step, count)

    turns(list(range(8)), block_length=4, steps=6, schedule=SCHEDULES["bernoulli"], uniforms=spy)
    assert asked == [0, 1, 2, 3, 4, 5]
