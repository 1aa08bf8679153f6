"""Who meets whom, who is shown first, and what verdicts are worth."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_models.comparisons import Comparison, Pair, bradley_terry, pairs, win_matrix, win_rates

sizes = st.integers(1, 13)
seeds = st.integers(0, 2**31)


def meetings(found: list[Pair]) -> Counter:
    return Counter(frozenset(pair) for pair in found)


def degrees(found: list[Pair], count: int) -> list[int]:
    seen = Counter(member for pair in found for member in pair)
    return [seen[i] for i in range(count)]


def connected(found: list[Pair], count: int) -> bool:
    reached, before = {0}, set()
    while reached != before:
        before = set(reached)
        reached |= {member for pair in found if reached & set(pair) for member in pair}
    return len(reached) == count


@given(sizes, seeds)
def test_all_pairs_of_a_group_meet_once(size: int, seed: int) -> None:
    found = pairs([7] * size, seed=seed)
    assert len(found) == size * (size - 1) // 2 == len(meetings(found))
    assert pairs([7] * size, seed=seed) == found


def test_groups_do_not_mix_and_do_not_change_each_other() -> None:
    """Interleaved groups 5 and 2: each draws as it does alone."""
    group = [5, 2, 5, 2, 5, 2, 2]
    found = pairs(group, seed=3)
    assert all(group[a] == group[b] for a, b in found) and len(found) == 3 + 6
    for label in (5, 2):
        place = {position: rank for rank, position in enumerate(i for i, g in enumerate(group) if g == label)}
        alone = pairs([label] * len(place), seed=3)
        assert alone == [Pair(place[a], place[b]) for a, b in found if group[a] == label]


def test_the_order_is_a_fair_coin_of_seed_group_and_members() -> None:
    """20,000 coins: the share of lower-first lies within 4 standard deviations (0.0141) of a half, for each key."""
    drawn = [[a < b for a, b in pairs([label] * 5, seed=(1, label))] for label in range(2000)]
    assert abs(torch.tensor(drawn).double().mean() - 0.5) < 0.0141
    assert (torch.tensor(drawn).double().mean(0) - 0.5).abs().max() < 0.045
    for other in (pairs([0] * 12, seed=2), pairs([1] * 12, seed=1), pairs([0] * 12, seed=(1, 0))):
        differs = sum(a != b for a, b in zip(other, pairs([0] * 12, seed=1), strict=True))
        assert 20 <= differs <= 46, "66 coins"


def test_both_orders_judges_each_pair_in_either() -> None:
    once, twice = pairs([0] * 6, seed=4), pairs([0] * 6, seed=4, both_orders=True)
    assert twice[::2] == once and twice[1::2] == [Pair(b, a) for a, b in once]


@given(st.integers(2, 15), st.integers(2, 15), seeds)
def test_a_partial_tournament_is_even_and_connected(size: int, rounds: int, seed: int) -> None:
    found = pairs([0] * size, seed=seed, rounds=rounds)
    each = degrees(found, size)
    assert max(meetings(found).values()) == 1 and connected(found, size)
    if rounds >= size - 1:
        assert meetings(found) == meetings(pairs([0] * size, seed=seed))
    elif size % 2 == 0:
        assert set(each) == {rounds}
    else:
        assert sorted(each) == [rounds - 1] * rounds + [rounds] * (size - rounds), "each round has one that sits out"


def test_a_partial_tournament_depends_on_the_seed_and_covers_every_pair() -> None:
    """8 members, 3 rounds: a pair meets with probability 3/7; 400 tournaments, 4 standard deviations are 0.099."""
    met = Counter(pair for seed in range(400) for pair in meetings(pairs([0] * 8, seed=seed, rounds=3)))
    assert len(met) == 28 and all(abs(count / 400 - 3 / 7) < 0.1 for count in met.values())


@pytest.mark.parametrize("rounds", [1, 0, -3])
def test_too_few_rounds_are_refused(rounds: int) -> None:
    with pytest.raises(ValueError, match=f"rounds is {rounds}; right would be at least 2"):
        pairs([0, 0], seed=0, rounds=rounds)


def test_win_rates_by_hand() -> None:
    """0 beats 1, ties 2, and has no verdict against 3; 3 has none at all; 4 is alone."""
    comparisons = [Comparison(0, 1, 1.0), Comparison(2, 0, 0.5), Comparison(1, 2, 0.25), Comparison(3, 0, math.nan)]
    rates, valid = win_rates(comparisons, [1, 1, 1, 1, 9])
    assert rates.dtype == torch.float64 and valid.tolist() == [True, True, True, False, False]
    assert rates[:3].tolist() == [0.75, 0.125, 0.625] and rates[3:].isnan().all()


verdict = st.sampled_from([0.0, 0.25, 0.5, 1.0, math.nan])


@st.composite
def tables(draw, *, whole: bool = False) -> tuple[int, list[Comparison]]:
    size = draw(st.integers(2, 7))
    found = pairs([0] * size, seed=draw(seeds), both_orders=draw(st.booleans()))
    told = [draw(st.sampled_from([0.0, 0.5, 1.0]) if whole else verdict) for _ in found]
    return size, [Comparison(*pair, value) for pair, value in zip(found, told, strict=True)]


@given(tables(), seeds)
@pytest.mark.parametrize("rating", [win_rates, bradley_terry])
@settings(max_examples=40, deadline=None)
def test_scores_follow_members_through_any_order(rating, table: tuple[int, list[Comparison]], seed: int) -> None:
    size, comparisons = table
    where = torch.randperm(size, generator=torch.Generator().manual_seed(seed)).tolist()
    moved = [Comparison(where[a], where[b], value) for a, b, value in reversed(comparisons)]
    turned = [Comparison(b, a, 1 - value) for a, b, value in comparisons]
    (scores, valid), group = rating(comparisons, [0] * size), [0] * size
    for other, index in ((rating(moved, group), where), (rating(turned, group), list(range(size)))):
        torch.testing.assert_close(other[0][index], scores, equal_nan=True, rtol=1e-9, atol=1e-9)
        assert torch.equal(other[1][index], valid) and torch.equal(scores.isfinite(), valid)


@given(tables(whole=True))
def test_rates_of_a_whole_group_sum_to_half_its_size(table: tuple[int, list[Comparison]]) -> None:
    size, comparisons = table
    assert win_rates(comparisons, [0] * size)[0].sum().item() == pytest.approx(size / 2, rel=1e-12)


def test_a_judge_that_always_says_first_favours_nobody() -> None:
    """Standard deviation of a member's mean rate over 400 groups of 8: sqrt(1/4/7/400) = 0.0094. Undrawn: 1 to 0."""
    total = torch.zeros(8, dtype=torch.float64)
    for label in range(400):
        total += win_rates([Comparison(*pair, 1.0) for pair in pairs([label] * 8, seed=11)], [label] * 8)[0]
    assert (total / 400 - 0.5).abs().max() < 4 * 0.0094
    both = [Comparison(*pair, 1.0) for pair in pairs([0] * 8, seed=11, both_orders=True)]
    assert win_rates(both, [0] * 8)[0].tolist() == [0.5] * 8


@pytest.mark.parametrize(
    ("comparison", "words"),
    [
        (Comparison(0, 2, 1.0), "samples 0 and 2 were compared; right would be two of one group"),
        (Comparison(1, 1, 1.0), "samples 1 and 1 were compared"),
        (Comparison(0, 1, 2.0), "verdict on samples 0 and 1 is 2; right would be 1"),
        (Comparison(0, 1, -0.5), "is -0.5"),
    ],
)
def test_wrong_comparisons_are_refused(comparison: Comparison, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        win_rates([comparison], [0, 0, 1])


@given(tables())
@settings(max_examples=40, deadline=None)
def test_bradley_terry_explains_the_wins(table: tuple[int, list[Comparison]]) -> None:
    """At the maximum every sample's wins equal those the model expects, the imagined tie included."""
    size, comparisons = table
    strengths, valid = bradley_terry(comparisons, [0] * size, most_steps=20000)
    for i in valid.nonzero().flatten().tolist():
        won = expected = 0.0
        for a, b, value in comparisons:
            if not math.isnan(value) and i in (a, b):
                other = b if i == a else a
                won += value if i == a else 1 - value
                expected += torch.sigmoid(strengths[i] - strengths[other]).item()
        assert won + 0.5 == pytest.approx(expected + torch.sigmoid(strengths[i]).item(), abs=1e-6)


def test_bradley_terry_sees_whom_a_member_met() -> None:
    """1 and 2 win one of two each; 1 lost to the strongest and beat 3, 2 lost to 3 and beat the weakest."""
    comparisons = [Comparison(0, 1, 1.0), Comparison(1, 3, 1.0), Comparison(3, 2, 1.0), Comparison(2, 4, 1.0)]
    rates, strengths = win_rates(comparisons, [0] * 5)[0], bradley_terry(comparisons, [0] * 5)[0]
    assert rates[1] == rates[2] == 0.5 and strengths[1] > strengths[2] + 0.5


def test_bradley_terry_of_two_by_hand() -> None:
    """s for the winner, 1/s for the loser: wins 1 + 1/2 equal s^2 / (s^2 + 1) + s / (s + 1)."""
    strengths, _ = bradley_terry([Comparison(0, 1, 1.0)], [0, 0])
    s = strengths[0].exp().item()
    assert strengths[1].item() == pytest.approx(-strengths[0].item(), abs=1e-9)
    assert s**2 / (s**2 + 1) + s / (s + 1) == pytest.approx(1.5, abs=1e-9)


def test_a_win_matrix_is_of_its_members_in_their_order() -> None:
    comparisons = [Comparison(4, 2, 1.0), Comparison(2, 4, 0.5), Comparison(9, 2, math.nan), Comparison(0, 1, 1.0)]
    assert win_matrix(comparisons, [2, 4, 9]) == [[None, 0.25, None], [0.75, None, None], [None, None, None]]
    assert win_matrix([], [3]) == [[None]] and win_matrix([], []) == []


@given(tables(whole=True))
def test_win_matrix_rows_mean_to_the_win_rates(table: tuple[int, list[Comparison]]) -> None:
    size, comparisons = table
    matrix = win_matrix(comparisons, range(size))
    means = [sum(v for v in row if v is not None) / (size - 1) for row in matrix]
    assert means == pytest.approx(win_rates(comparisons, [0] * size)[0].tolist(), rel=1e-12)
