"""Pairwise scorers whose judge is a vision-language model behind a server. All take the options of `Server`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from reward_models import verdicts
from reward_models.comparisons import Pair, Seed
from reward_models.http import parsers, templates
from reward_models.http.chat import Chat, Picture, Question, Reply, picture
from reward_models.http.parsers import Unreadable
from reward_models.http.server import LONG, SHORT, Server, card_of, checked_weights, column, from_answers, on_server
from reward_models.http.templates import Template, template
from reward_models.pairwise import COMPONENTS, Comparer, Tournament, pairwise_scorer
from reward_models.scorer import Metadata, Scorer
from reward_models.scores import Scores, as_scores


@on_server
def unifiedreward_pair(
    server: Server,
    *,
    axes: Mapping[str, float] | None = None,
    both_orders: bool = False,
    rounds: int | None = None,
    rating: str = "win_rate",
) -> Scorer:
    """Pairwise preference by UnifiedReward 2.0's pair score: soft verdicts in short replies.

    Args:
        server: The model.
        axes: Weights of Alignment, Coherence and Style in the verdict; None weighs them equally.
        both_orders: Judge each pair in either order.
        rounds: Comparisons per picture in a seeded partial tournament, at least 2; None is all pairs.
        rating: "win_rate" or "bradley_terry".

    Returns:
        The scorer, of kind "pairwise".
    """
    weights = checked_weights(axes, parsers.AXES)
    words = template(templates.PAIR, file=server.template)
    chat = server.chat(words, max_tokens=SHORT)
    compare = _comparer(words, chat, lambda reply: parsers.soft_verdict(reply.text, weights))
    tournament = Tournament(both_orders=both_orders, rounds=rounds, rating=rating)
    return pairwise_scorer(compare, name="unifiedreward_pair", tournament=tournament, **card_of(chat, weights))


@on_server
def unifiedreward_think(
    server: Server, *, both_orders: bool = False, rounds: int | None = None, rating: str = "win_rate"
) -> Scorer:
    """Pairwise preference by UnifiedReward-Think, the judge of Pref-GRPO (arXiv 2508.20751).

    Args:
        server: The model.
        both_orders: Judge each pair in either order.
        rounds: Comparisons per picture in a seeded partial tournament, at least 2; None is all pairs.
        rating: "win_rate" or "bradley_terry".

    Returns:
        The scorer, of kind "pairwise".
    """
    words = template(templates.THINK, file=server.template)
    chat = server.chat(words, max_tokens=LONG)

    def read(reply: Reply) -> float:
        return _said(verdicts.think(reply.text), reply.text)

    tournament = Tournament(both_orders=both_orders, rounds=rounds, rating=rating)
    return pairwise_scorer(
        _comparer(words, chat, read), name="unifiedreward_think", tournament=tournament, **card_of(chat)
    )


@on_server
def unifiedreward_flex(
    server: Server,
    *,
    both_orders: bool = False,
    rounds: int | None = None,
    overall_weight: float = 1.0,
    category_weight: float = 1.0,
    category_weights: Sequence[float] = (),
) -> Scorer:
    """Pairwise preference by UnifiedReward-Flex: win rates on the whole and by category (arXiv 2602.02380).

    Args:
        server: The model.
        both_orders: Judge each pair in either order.
        rounds: Comparisons per picture in a seeded partial tournament, at least 2; None is all pairs.
        overall_weight: Weight of the win rate on the whole.
        category_weight: Weight of the mean win rate over categories.
        category_weights: Weights within that mean, in the order in which categories first appear; others weigh 1.

    Returns:
        The scorer, of kind "pairwise"; further components: "overall" and "categories", the two parts of the score.

    Raises:
        ScorerError: A weight is negative, or both are 0.
    """
    checked_weights({"overall_weight": overall_weight, "category_weight": category_weight}, ())
    words = template(templates.FLEX, file=server.template)
    chat = server.chat(words, max_tokens=LONG)
    weights = _FlexWeights(overall_weight, category_weight, tuple(category_weights))
    return Scorer(
        name="unifiedreward_flex",
        kind="pairwise",
        range=(0.0, 1.0),
        components=(*COMPONENTS, "overall", "categories"),
        function=partial(
            _flex_scores,
            words=words,
            chat=chat,
            tournament=Tournament(both_orders=both_orders, rounds=rounds),
            weights=weights,
        ),
        **card_of(chat, weights),
    )


@dataclass(frozen=True, slots=True)
class _FlexWeights:
    """Of the win rate on the whole, of the mean over categories, and of the categories within it."""

    overall: float
    category: float
    within: tuple[float, ...]


def _flex_scores(
    images: Tensor,
    prompts: list[str],
    metadata: Metadata,
    group: list[int],
    seed: Seed,
    *,
    words: Template,
    chat: Chat,
    tournament: Tournament,
    weights: _FlexWeights,
) -> Scores:
    heard: dict[Pair, verdicts.FlexReply] = {}

    def read(reply: Reply) -> verdicts.FlexReply:
        said = verdicts.flex(reply.text)
        _said(said.overall, reply.text)
        return said

    def compare(images: Tensor, prompts: list[str], first: Tensor, second: Tensor) -> Scores:
        pairs = [Pair(a, b) for a, b in zip(first.tolist(), second.tolist(), strict=True)]
        answers = chat.ask(_pairs(words, images, prompts, pairs), read)
        heard.update({pair: answer.value for pair, answer in zip(pairs, answers, strict=True) if answer.value})
        return from_answers(column(answers, lambda said: said.overall), answers)

    held = pairwise_scorer(compare, name="unifiedreward_flex", tournament=tournament, version=chat.template)
    whole = held.function(images, prompts, metadata, group, seed)
    rates = verdicts.category_rates(list(heard), list(heard.values()), group)
    mean = verdicts.category_mean(rates, weights.within, count=len(group))
    mixed = verdicts.flex_mix(whole.scores, mean, overall_weight=weights.overall, category_weight=weights.category)
    parts = {**whole.components, "overall": whole.scores, "categories": mean}
    scores = as_scores(mixed, components=parts, errors=whole.errors, cost=whole.cost)
    return replace(scores, comparisons=whole.comparisons)


def _comparer(words: Template, chat: Chat, read: Callable[[Reply], float]) -> Comparer:
    def compare(images: Tensor, prompts: list[str], first: Tensor, second: Tensor) -> Scores:
        pairs = [Pair(a, b) for a, b in zip(first.tolist(), second.tolist(), strict=True)]
        answers = chat.ask(_pairs(words, images, prompts, pairs), read)
        return from_answers(column(answers, float), answers)

    return compare


def _pairs(words: Template, images: Tensor, prompts: Sequence[str], pairs: Sequence[Pair]) -> list[Question]:
    shown: dict[int, Picture] = {i: picture(images[i]) for i in {i for pair in pairs for i in pair}}
    return [Question(words.fill(prompt=prompts[a]), (shown[a], shown[b])) for a, b in pairs]


def _said(verdict: float, text: str) -> float:
    if math.isnan(verdict):
        raise Unreadable(f"the reply names no winner: {text[-80:]!r}")
    return verdict
