"""Comparisons inside groups: who meets whom, who is shown first, and what the verdicts are worth to each member.

Groups are integers [N] of any values in any order, one per sample; a sample is named by its position in that list. A
verdict is what the picture shown first earns: 1 for a win, 0 for a loss, 1/2 for a tie, anything between for a soft
preference, NaN where the judge gave none. Everything is a pure function of its arguments.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

Seed = int | tuple[int, ...]
FEWEST_ROUNDS = 2


class Pair(NamedTuple):
    """Two samples by position, in the order in which a judge sees them."""

    first: int
    second: int


class Comparison(NamedTuple):
    """A judged pair; the verdict is in [0, 1], 1 where `first` won, or NaN where there is none."""

    first: int
    second: int
    verdict: float


def pairs(group: Sequence[int], *, seed: Seed, both_orders: bool = False, rounds: int | None = None) -> list[Pair]:
    """The pairs to judge, group by group.

    The order of presentation is a fair coin per pair: Pref-GRPO (arXiv 2508.20751) shows the lower index first, so that
    a judge with a liking for the first place rewards low indices. The coin is a hash of the seed, the group and the two
    members' ranks within it: batches, devices and the order of other groups do not change it.

    Args:
        group: N integers, equal for samples that are compared with each other.
        seed: Key of the coins; a run gives its seed and the iteration, so that they differ between iterations.
        both_orders: Judge each pair twice, once in either order.
        rounds: None for all pairs, G(G-1)/2 in a group of G. Otherwise a partial tournament of so many rounds, in each
            of which every member meets one other that is new to it (in an odd group one member sits out): about
            rounds·G/2 pairs, each member in `rounds` or `rounds` - 1 of them, all connected. G - 1 or more is all
            pairs.

    Returns:
        The pairs in the order of groups' first members; a group of one has none.

    Raises:
        ValueError: `rounds` is under 2, where a group would fall apart.
    """
    check_rounds(rounds)
    found: list[Pair] = []
    for label, members in members_of(group).items():
        for low, high in _schedule(len(members), (seed, label), rounds):
            pair = Pair(members[low], members[high])
            swapped = Pair(pair.second, pair.first)
            shown = (swapped, pair) if _hashed("order", seed, label, low, high) & 1 else (pair, swapped)
            found += shown if both_orders else shown[:1]
    return found


def check_rounds(rounds: int | None) -> None:
    """Refuse a tournament that leaves members without a chain of comparisons between them.

    Args:
        rounds: As `pairs` takes it.

    Raises:
        ValueError: It is under 2.
    """
    if rounds is not None and rounds < FEWEST_ROUNDS:
        raise ValueError(
            f"rounds is {rounds}; right would be at least {FEWEST_ROUNDS}, so that the members of a group stay "
            "connected, or None for all pairs"
        )


def members_of(group: Sequence[int]) -> dict[int, list[int]]:
    """Positions of each group's members, in the order of first appearance."""
    members: dict[int, list[int]] = {}
    for position, label in enumerate(group):
        members.setdefault(label, []).append(position)
    return members


def win_rates(comparisons: Sequence[Comparison], group: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Mean verdict of each sample over its valid comparisons (Pref-GRPO, arXiv 2508.20751, without its rounding).

    Over all pairs of a group of G with every verdict valid, the rates sum to G/2.

    Args:
        comparisons: Judged pairs; those without a verdict leave both their members' means.
        group: N integers, as `pairs` took them.

    Returns:
        Rates float64 [N] in [0, 1], NaN where a sample has no valid comparison; and where it has one, bool [N].

    Raises:
        ValueError: A comparison is between groups, or its verdict lies outside [0, 1].
    """
    first, second, verdict = _valid_columns(comparisons, group)
    points = _per_sample(first, verdict, len(group)) + _per_sample(second, 1 - verdict, len(group))
    return _where_heard(points / _appearances(first, second, len(group)), first, second)


def bradley_terry(
    comparisons: Sequence[Comparison], group: Sequence[int], *, most_steps: int = 2000, tolerance: float = 1e-10
) -> tuple[Tensor, Tensor]:
    """Log strengths under the Bradley-Terry model, P(i beats j) = s_i / (s_i + s_j).

    Unlike a win rate it takes into account whom a member met, which counts in partial tournaments. The likelihood is
    maximised by minorisation (Hunter, Annals of Statistics 32, 2004); one tie of every sample against an imagined
    sample of strength 1 keeps the strength of one that won or lost everything finite, and each group's scale fixed.

    Args:
        comparisons: As in `win_rates`; ties count half a win for either.
        group: N integers.
        most_steps: Bound of the iterations.
        tolerance: Stop when no log strength moves further.

    Returns:
        Log strengths float64 [N], 0 for one that equals the imagined sample, NaN where a sample has no valid
        comparison; and where it has one, bool [N].

    Raises:
        ValueError: As in `win_rates`.
    """
    first, second, verdict = _valid_columns(comparisons, group)
    count = len(group)
    wins = _per_sample(first, verdict, count) + _per_sample(second, 1 - verdict, count) + 0.5
    strength = torch.ones(count, dtype=torch.float64)
    for _ in range(most_steps):
        shared = 1 / (strength[first] + strength[second])
        faced = _per_sample(first, shared, count) + _per_sample(second, shared, count) + 1 / (strength + 1)
        strength, before = wins / faced, strength
        if not count or (strength / before).log().abs().max() < tolerance:
            break
    return _where_heard(strength.log(), first, second)


RATINGS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {"win_rate": win_rates, "bradley_terry": bradley_terry}
"""Name -> (comparisons, group [N]) -> (score float64 [N], valid bool [N])."""
RANGES: dict[str, tuple[float, float]] = {"win_rate": (0.0, 1.0), "bradley_terry": (-math.inf, math.inf)}


def win_matrix(comparisons: Sequence[Comparison], members: Sequence[int]) -> list[list[float | None]]:
    """How the members of one group fared against each other.

    Args:
        comparisons: Judged pairs of any groups.
        members: Positions of the G members that are wanted, in the order of rows and columns.

    Returns:
        G rows of G: the mean verdict of the row's member against the column's over their valid comparisons, None where
        they have none and on the diagonal. Opposite entries sum to 1.
    """
    place = {position: rank for rank, position in enumerate(members)}
    seen: dict[tuple[int, int], list[float]] = {}
    for first, second, verdict in comparisons:
        if first in place and second in place and not math.isnan(verdict):
            seen.setdefault((place[first], place[second]), []).append(verdict)
            seen.setdefault((place[second], place[first]), []).append(1 - verdict)
    means = {key: sum(values) / len(values) for key, values in seen.items()}
    ranks = range(len(members))
    return [[means.get((row, column)) for column in ranks] for row in ranks]


def _schedule(size: int, key: tuple[Seed, int], rounds: int | None) -> list[tuple[int, int]]:
    """Ranks of the members that meet, lower rank first, in ascending order."""
    if rounds is None or rounds >= size - 1:
        return list(combinations(range(size), 2))
    seats = sorted(range(size), key=lambda rank: _hashed("seat", *key, rank))
    met = [(seats[a], seats[b]) for index in range(rounds) for a, b in _round(size, index)]
    return sorted((min(pair), max(pair)) for pair in met)


def _round(size: int, index: int) -> Iterator[tuple[int, int]]:
    """One round of the circle method: mirror images about seat `index` of an odd ring meet.

    Two neighbouring rounds together visit all seats in one chain, because two reflections about neighbouring seats make
    a turn by two, and two is coprime to the ring's odd length.
    """
    ring = size - 1 + size % 2
    yield from (((index - step) % ring, (index + step) % ring) for step in range(1, ring // 2 + 1))
    if size % 2 == 0:
        yield index % ring, ring


def _hashed(*key: object) -> int:
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest())


def _valid_columns(comparisons: Sequence[Comparison], group: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """first and second int64 [C], verdict float64 [C], of the comparisons that have a verdict."""
    valid = [comparison for comparison in comparisons if not math.isnan(comparison.verdict)]
    for a, b, verdict in valid:
        if group[a] != group[b] or a == b:
            raise ValueError(f"samples {a} and {b} were compared; right would be two of one group")
        if not 0 <= verdict <= 1:
            raise ValueError(
                f"the verdict on samples {a} and {b} is {verdict:g}; right would be 1 (the first wins), 0, "
                "1/2 for a tie, a number between, or NaN for none"
            )
    first, second = (torch.tensor([c[k] for c in valid], dtype=torch.long) for k in (0, 1))
    return first, second, torch.tensor([c.verdict for c in valid], dtype=torch.float64)


def _per_sample(index: Tensor, values: Tensor, count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.float64).index_add(0, index, values)


def _appearances(first: Tensor, second: Tensor, count: int) -> Tensor:
    return torch.bincount(torch.cat([first, second]), minlength=count).double()


def _where_heard(scores: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    valid = _appearances(first, second, len(scores)) > 0
    return scores.masked_fill(~valid, torch.nan), valid
