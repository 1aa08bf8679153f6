"""Rules of the sliding window: full width, never the last step, and functions of the iteration alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplers.windows import WINDOWS, exp_decay, frozen, linear_decay, progressive, rollover, window_start

OPTIONS = {"seed": 7, "decay": 0.1, "decay_from": 3}


@given(st.data())
@pytest.mark.parametrize("rule", WINDOWS)
def test_windows_stay_within_their_range_and_depend_on_the_iteration_alone(rule: str, data: st.DataObject) -> None:
    low = data.draw(st.integers(0, 5))
    width = data.draw(st.integers(1, 6))
    high = low + width + data.draw(st.integers(0, 12))
    motion = {"stride": data.draw(st.integers(1, 4)), "tau": data.draw(st.integers(1, 9))}
    iteration = data.draw(st.integers(0, 400))
    start = WINDOWS[rule](iteration, low=low, high=high, width=width, **motion, **OPTIONS)
    assert low <= start <= high - width
    assert start == WINDOWS[rule](iteration, low=low, high=high, width=width, **motion, **OPTIONS)


def starts(rule, count: int, **options: int) -> list[int]:
    return [rule(i, **options, **OPTIONS) for i in range(count)]


def test_rollover_visits_the_full_places_in_turn() -> None:
    assert starts(rollover, 9, low=1, high=8, width=3, stride=2, tau=2) == [1, 1, 3, 3, 5, 5, 1, 1, 3]
    assert starts(rollover, 3, low=2, high=5, width=3, stride=1, tau=1) == [2, 2, 2]


def test_progressive_is_window_start_from_any_first_step() -> None:
    moved = starts(progressive, 40, low=0, high=9, width=4, stride=2, tau=3)
    assert moved == [window_start(i, steps=10, width=4, stride=2, tau=3) for i in range(40)]
    assert starts(progressive, 40, low=3, high=12, width=4, stride=2, tau=3) == [start + 3 for start in moved]
    assert starts(frozen, 3, low=3, high=12, width=4, stride=2, tau=3) == [3, 3, 3]


def test_exp_decay_shortens_its_stays_by_the_formula() -> None:
    """tau 5: up to step 3 five iterations each, then ceil(5 exp(-0.1 (l - 3)))."""
    visited = starts(exp_decay, 60, low=0, high=20, width=2, stride=1, tau=5)
    stays = [visited.count(step) for step in range(12)]
    assert stays[:9] == [5, 5, 5, 5, 5, 5, 4, 4, 4]
    assert visited == sorted(visited)
    assert starts(exp_decay, 60, low=0, high=20, width=2, stride=0, tau=5) == [0] * 60


def test_linear_decay_shortens_its_stays_evenly_from_tau_to_one() -> None:
    visited = starts(linear_decay, 99, low=2, high=12, width=4, stride=2, tau=11)
    assert [visited.count(step) for step in (2, 4, 6)] == [11, 9, 7]  # 11 - 10 (l - 2) / 10
    assert visited == sorted(visited) and visited[-1] == 8
    assert starts(linear_decay, 30, low=2, high=12, width=4, stride=0, tau=5) == [2] * 30


def test_a_window_that_does_not_fit_is_refused() -> None:
    for rule in WINDOWS.values():
        with pytest.raises(ValueError, match="width 4 does not fit into the steps \\[2, 5\\)"):
            rule(0, low=2, high=5, width=4, stride=1, tau=1, **OPTIONS)
    with pytest.raises(ValueError, match="tau >= 1"):
        progressive(0, low=0, high=5, width=2, stride=1, tau=0)
