"""Counts, overall scores and intervals, on cases small enough to count by hand."""

from __future__ import annotations

import pytest

from flowgrpo.benchmarks.intervals import intervals, paired_differences
from flowgrpo.benchmarks.judges import Answer
from flowgrpo.benchmarks.tally import OVERALL, Count, official, official_rows, tally
from tests.benchmarks.bench_files import track

HELD = track([["Style", "Attribute - Color"], ["Attribute - Color", "Attribute - Color"], ["Style"]])
ANSWERS = {
    (0, 0): Answer((True, False)),
    (0, 1): Answer((True, None), error="no valid verdict"),
    (1, 0): Answer((True, False)),
    (1, 1): Answer((False, False)),
    (2, 0): Answer((False,)),
}
"""Picture (2, 1) was never judged, (0, 1) has no complete answer."""


def test_only_pictures_with_every_verdict_count_and_repeated_points_count_twice() -> None:
    counts = tally(HELD, ANSWERS, 2, ANSWERS)
    assert counts.count(("dimension", "Style")) == Count(1, 2, 4)
    assert counts.count(("dimension", "Attribute")) == Count(1, 5, 6)
    assert counts.count(("test point", "Attribute - Color")) == Count(1, 5, 6)
    assert counts.count(("theme", "Art")) == counts.count(("subtheme", "Art / Other")) == Count(2, 7, 10)
    assert (counts.pictures, counts.judged, counts.missing) == (6, 4, 1)


def test_overall_is_the_mean_of_dimensions_not_of_points() -> None:
    counts = tally(HELD, ANSWERS, 2, ANSWERS)
    assert counts.overall == pytest.approx((1 / 2 + 1 / 5) / 2)
    assert counts.overall_pessimistic == pytest.approx((1 / 4 + 1 / 6) / 2)


def test_a_failed_picture_is_not_a_zero_and_not_hidden() -> None:
    without = {place: answer for place, answer in ANSWERS.items() if place != (1, 1)}
    before, after = tally(HELD, ANSWERS, 2, ANSWERS), tally(HELD, without, 2, ANSWERS)
    cell = ("dimension", "Attribute")
    assert before.count(cell).accuracy == 1 / 5 and after.count(cell).accuracy == 1 / 3
    assert before.count(cell).pessimistic == after.count(cell).pessimistic == 1 / 6
    assert after.judged == before.judged - 1


def test_official_counts_agree_with_the_table() -> None:
    counted = official(official_rows(HELD, ANSWERS, 2))
    assert counted.primary_dimensions == {"Style": [1, 2, 0.5], "Attribute ": [1, 5, 0.2]}
    assert counted.rows_skipped == 2
    assert counted.leaderboard_overall_percent == pytest.approx(100 * tally(HELD, ANSWERS, 2, ANSWERS).overall)


def test_dimensions_stand_in_the_order_of_the_leaderboard() -> None:
    held = track([["Attribute - Color", "Other", "Style"]])
    counts = tally(held, {(0, 0): Answer((True, True, True))}, 1, [(0, 0)])
    assert [name for _, name in counts.of_kind("dimension")] == ["Style", "Attribute", "Other"]


def many(share: float, size: int = 60) -> dict[tuple[int, int], Answer]:
    return {(i, 0): Answer((i < share * size,)) for i in range(size)}


def test_an_interval_has_the_width_of_a_binomial_and_holds_its_middle() -> None:
    held = track([["Style"]] * 60)
    counts = tally(held, many(0.5), 1, many(0.5))
    low, high = intervals(counts)["dimension", "Style"]
    assert low < 0.5 < high and (high - low) / 2 == pytest.approx(1.96 * (0.25 / 60) ** 0.5, rel=0.1)
    assert intervals(counts)[OVERALL] == (low, high)


def test_pictures_of_one_prompt_are_no_further_evidence() -> None:
    """Four identical pictures per prompt leave the interval as it is; counted one by one they would halve it."""
    held = track([["Style"]] * 60)
    four = {(i, k): answer for (i, _), answer in many(0.5).items() for k in range(4)}
    one = intervals(tally(held, many(0.5), 1, many(0.5)))
    assert intervals(tally(held, four, 4, four)) == one


def test_pairing_removes_what_prompts_have_in_common() -> None:
    held = track([["Style"]] * 60)
    base, better = (tally(held, many(share), 1, many(share)) for share in (0.5, 0.6))
    low, high = paired_differences(base, better)["dimension", "Style"]
    assert 0 < low < 0.1 < high
    width = (high - low) / 2
    assert width == pytest.approx(1.96 * (0.1 * 0.9 / 60) ** 0.5, rel=0.15)
    assert paired_differences(base, base)[OVERALL] == (0.0, 0.0)


def test_nothing_judged_gives_no_number() -> None:
    counts = tally(HELD, {}, 2, [])
    assert counts.overall is None and counts.overall_pessimistic == 0 and intervals(counts) == {}
    assert official(official_rows(HELD, {}, 2)).leaderboard_overall_percent is None
