"""Pairwise reward models: a judge of two pictures, and the tournament that makes scores of its verdicts.

After Pref-GRPO (arXiv 2508.20751): the pictures of one prompt are compared with each other, and the share of its
comparisons that a picture wins is its reward. What a judge is (a network in this process, a model behind a server, a
user's function) does not matter here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from reward_models.batching import call_in_slices
from reward_models.comparisons import RANGES, RATINGS, Comparison, Pair, Seed, check_rounds, members_of, pairs
from reward_models.cost import FREE
from reward_models.importing import near
from reward_models.scorer import Scorer
from reward_models.scores import ScorerError, Scores, as_scores

Judge = Callable[[list[str], Tensor, Tensor], Any]
"""(n prompts, images_a [n, 3, H, W], images_b [n, 3, H, W]) -> n verdicts: 1 where a wins, 0 where b does, 1/2 for a
tie, anything between for a soft preference, NaN where there is no verdict. It may raise: those comparisons are then
invalid."""

Comparer = Callable[[Tensor, list[str], Tensor, Tensor], Any]
"""(images [N, 3, H, W], N prompts, first int64 [n], second int64 [n]) -> n verdicts on those pairs of positions. For
judges that look at each picture once, however often it is compared; `by_pairs` makes one of a Judge. Verdicts may come
as Scores, whose errors then say why one is missing."""

COMPONENTS = ("comparisons", "first_wins")

_Function = TypeVar("_Function", bound=Callable[..., Any])
_MARK = "compares_two_pictures"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tournament:
    """How a group is compared: the options that every pairwise scorer has.

    Attributes:
        both_orders: Judge each pair twice, once in either order.
        rounds: Comparisons per member in a seeded partial tournament, at least 2; None is all pairs.
        rating: Key of `RATINGS`: what makes scores of verdicts.
    """

    both_orders: bool = False
    rounds: int | None = None
    rating: str = "win_rate"

    def __post_init__(self) -> None:
        check_rounds(self.rounds)
        if self.rating not in RATINGS:
            raise ValueError(
                f"unknown rating '{self.rating}'{near(self.rating, list(RATINGS))}; "
                f"right would be one of {', '.join(RATINGS)}"
            )


def pairwise_judge(function: _Function) -> _Function:
    """Mark a user's function as a `Judge`, so that its import path names a pairwise scorer.

    Args:
        function: As `Judge`; keyword arguments after the first three are its options.

    Returns:
        The same function.
    """
    setattr(function, _MARK, True)
    return function


def is_pairwise_judge(function: Callable[..., Any]) -> bool:
    """Whether `pairwise_judge` has marked the function."""
    return bool(getattr(function, _MARK, False))


def by_pairs(judge: Judge) -> Comparer:
    """A comparer that shows a judge the two pictures of each pair."""

    def compare(images: Tensor, prompts: list[str], first: Tensor, second: Tensor) -> Any:
        return judge([prompts[i] for i in first.tolist()], images[first], images[second])

    return compare


def pairwise_scorer(
    compare: Comparer, *, name: str, tournament: Tournament, max_batch: int | None = None, **card: Any
) -> Scorer:
    """A scorer that holds a tournament in each group.

    Args:
        compare: The judge; `by_pairs(judge)` for a plain one.
        name: The scorer's name.
        tournament: Who meets whom, and what the verdicts are worth.
        max_batch: Comparisons per call of the judge; halved for the rest of a batch that runs out of memory.
        **card: Further fields of the card.

    Returns:
        A scorer of kind "pairwise". Its scores are the rating of each picture within its group; a picture none of whose
        comparisons has a verdict (one that is alone in its group, too) is invalid. Components: "comparisons", how many
        of a picture's comparisons have a verdict; "first_wins", the mean verdict of these for the picture shown first,
        1/2 for a judge that does not mind the order. `Scores.comparisons` holds every verdict.
    """
    return Scorer(
        name=name,
        kind="pairwise",
        range=RANGES[tournament.rating],
        components=COMPONENTS,
        max_batch=max_batch,
        function=partial(_hold, compare=compare, tournament=tournament, label=name, limit=max_batch),
        **card,
    )


def _hold(
    images: Tensor,
    prompts: list[str],
    metadata: Sequence[Mapping[str, Any]],
    group: list[int],
    seed: Seed,
    *,
    compare: Comparer,
    tournament: Tournament,
    label: str,
    limit: int | None,
) -> Scores:
    _check_prompts(prompts, group, label)
    schedule = pairs(group, seed=seed, both_orders=tournament.both_orders, rounds=tournament.rounds)

    def ask(index: Tensor, texts: list[str], rows: list[Mapping[str, Any]]) -> Scores:
        answer = compare(images, prompts, index[:, 0], index[:, 1])
        told = answer if isinstance(answer, Scores) else None
        verdicts = _as_verdicts(told.scores if told else answer, len(index), label)
        silent = dict.fromkeys(range(len(index)), "the judge gave no verdict")
        errors, cost = (told.errors, told.cost) if told else ({}, FREE)
        return as_scores(verdicts, errors=silent | errors, cost=cost)

    index = torch.tensor(schedule, dtype=torch.long).view(-1, 2)
    texts = [prompts[pair.first] for pair in schedule]
    told = call_in_slices(ask, index, texts, [{}] * len(schedule), limit=limit, label=label)
    judged = zip(schedule, told.scores.tolist(), strict=True)
    comparisons = tuple(Comparison(*pair, verdict) for pair, verdict in judged)
    rates, _ = RATINGS[tournament.rating](comparisons, group)
    facts, reasons = _components(comparisons, len(group)), _reasons(schedule, told, len(group))
    scores = as_scores(rates, components=facts, errors=reasons, cost=told.cost)
    return replace(scores, comparisons=comparisons)


def _check_prompts(prompts: Sequence[str], group: Sequence[int], label: str) -> None:
    for name, members in members_of(group).items():
        different = {prompts[i] for i in members}
        if len(different) > 1:
            shown = " and ".join(repr(text) for text in sorted(different)[:2])
            raise ScorerError(f"scorer '{label}' got group {name} with {shown}; right would be one prompt per group")


def _as_verdicts(answer: Any, count: int, label: str) -> Tensor:
    verdicts = torch.as_tensor(answer, dtype=torch.float64)
    if verdicts.shape != (count,):
        raise ScorerError(
            f"scorer '{label}' returned verdicts {list(verdicts.shape)} for {count} comparisons; "
            "right would be one each"
        )
    wrong = verdicts[(verdicts < 0) | (verdicts > 1)]
    if len(wrong):
        raise ScorerError(
            f"scorer '{label}' returned the verdict {wrong[0].item():g}; right would be 1 where the first picture "
            "wins, 0 where the second does, 1/2 for a tie, a number between, or NaN for none"
        )
    return verdicts


def _components(comparisons: Sequence[Comparison], count: int) -> dict[str, Tensor]:
    heard, first_wins = torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
    for first, second, verdict in comparisons:
        if not math.isnan(verdict):
            heard[[first, second]] += 1
            first_wins[[first, second]] += verdict
    return dict(zip(COMPONENTS, (heard, first_wins / heard), strict=True))


def _reasons(schedule: Sequence[Pair], told: Scores, count: int) -> dict[int, str]:
    """For every sample, what to say if it turns out invalid."""
    reasons = dict.fromkeys(range(count), "there is no other picture of its group to compare it with")
    for position, pair in reversed(list(enumerate(schedule))):
        text = told.errors.get(position, "")
        reasons |= dict.fromkeys(pair, f"none of its comparisons has a verdict; the first: {text}")
    return reasons
