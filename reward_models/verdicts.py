"""Replies of vision-language judges as verdicts: 1 where the first picture wins, 0 where the second does, 1/2 a tie.

The forms are those of the UnifiedReward judges that Pref-GRPO (arXiv 2508.20751) asks. Where its code counts a reply
that it cannot read as a tie, such a reply is NaN here: it says nothing, and half a win for both would pull their rates
together. A tie must be said.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reward_models.comparisons import Comparison, Pair, win_rates

WON, LOST, TIED, NONE = 1.0, 0.0, 0.5, math.nan

_ANSWER = r"<answer>(.*?)</answer>"
_TIE = re.compile(
    r"(?<!not )\bequal(?:ly)?\b|\b(?:tie|tied|draw)\b|\bno (?:clear |real )?(?:winner|difference)\b"
    r"|\bneither (?:\w+ )?is better\b|\bthe same quality\b",
    re.IGNORECASE,
)
_VOTING_CATEGORIES = 3
_UNNAMED = "category"


def think(text: str, *, first: str = "Image 1 is better", second: str = "Image 2 is better") -> float:
    """Verdict of a reply that reasons and then answers with one of two fixed sentences in an <answer> element.

    Read as UnifiedReward-Think is read: the first element counts, tag and sentences are case-sensitive, and the first
    sentence is looked for first, so an answer with both is a win of the first.

    Args:
        text: The reply.
        first: The sentence by which the picture shown first wins.
        second: The sentence by which the other one wins.

    Returns:
        1, 0, 1/2 for an answer that states a tie, NaN for any other.
    """
    found = re.search(_ANSWER, text, re.DOTALL)
    answer = found.group(1).strip() if found else ""
    return _sentence(answer, (first, second), _stated_tie(answer))


def edit(text: str, *, first: str = "Edited image 1 is better", second: str = "Edited image 2 is better") -> float:
    """Verdict of a reply of free form that names one of two sentences, as UnifiedReward-Edit's is read.

    Case does not matter. The <answer> element is read before the rest of the reply; without one the whole reply counts,
    and its last line may state a tie.

    Args:
        text: The reply.
        first: The sentence by which the picture shown first wins.
        second: The sentence by which the other one wins.

    Returns:
        1, 0, 1/2 for a stated tie, NaN where the reply says none of these.
    """
    found = re.search(_ANSWER, text, re.DOTALL | re.IGNORECASE)
    labels = (first.lower(), second.lower())
    answer = (found.group(1) if found else text).strip().lower()
    last_line = answer.rpartition("\n")[2]
    elsewhere = _sentence(text.lower(), labels, NONE)
    tie = _stated_tie(last_line)
    return _sentence(answer, labels, elsewhere if math.isnan(tie) else tie)


@dataclass(frozen=True, slots=True)
class FlexReply:
    """What a UnifiedReward-Flex reply says.

    Attributes:
        overall: Verdict on the whole; NaN where the reply cannot be read.
        categories: (name, verdict) of each category that votes, in order.
    """

    overall: float
    categories: tuple[tuple[str, float], ...] = ()


def flex(text: str) -> FlexReply:
    """Read a reply that is one JSON object with `winner` and `categories` of `name` and `cat_winner`.

    The object may stand between other words. The first three categories vote.

    Args:
        text: The reply.

    Returns:
        The verdicts. A winner field that names one picture decides, one that names both or states a tie is 1/2, any
        other is NaN.
    """
    reply = _json_object(text)
    listed = reply.get("categories")
    voting = listed[:_VOTING_CATEGORIES] if isinstance(listed, list) else []
    entries = [entry for entry in voting if isinstance(entry, dict)]
    votes = tuple((str(entry.get("name") or _UNNAMED), _winner(entry.get("cat_winner"))) for entry in entries)
    return FlexReply(_winner(reply.get("winner")), votes)


def category_rates(pairs: Sequence[Pair], replies: Sequence[FlexReply], group: Sequence[int]) -> dict[str, Tensor]:
    """Win rates in each category.

    Args:
        pairs: C judged pairs.
        replies: C replies.
        group: N integers, as the pairs were made from.

    Returns:
        Category, in order of first appearance -> float64 [N], over the comparisons whose reply carried it; NaN where a
        sample has none.
    """
    judged: dict[str, list[Comparison]] = {}
    for pair, reply in zip(pairs, replies, strict=True):
        for name, verdict in reply.categories:
            judged.setdefault(name, []).append(Comparison(*pair, verdict))
    return {name: win_rates(comparisons, group)[0] for name, comparisons in judged.items()}


def category_mean(rates: Mapping[str, Tensor], weights: Sequence[float] = (), *, count: int) -> Tensor:
    """Weighted mean of category rates.

    Args:
        rates: As `category_rates` gives them.
        weights: One per category in that order; categories beyond them weigh 1, weights beyond the categories nothing.
        count: N, also where no reply has a category.

    Returns:
        float64 [N]: the mean over the categories in which a sample has a rate, NaN where it has none.
    """
    total, weight_sum = torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
    padded = [*weights, *[1.0] * len(rates)]
    for weight, rate in zip(padded, rates.values(), strict=False):
        total += weight * rate.nan_to_num(0.0)
        weight_sum += weight * (~rate.isnan())
    return total / weight_sum


def flex_mix(
    overall: Tensor, categories: Tensor, *, overall_weight: float = 1.0, category_weight: float = 1.0
) -> Tensor:
    """Overall and category win rates as one reward.

    This is the intended formula: in Pref-GRPO's code a loop variable takes the place of the category weight.

    Args:
        overall: Win rates [N].
        categories: `category_mean` [N].
        overall_weight: Weight u of the former.
        category_weight: Weight d of the latter; u + d > 0.

    Returns:
        [N]: (u·overall + d·categories) / (u + d), and `overall` where a sample has no category.
    """
    mixed = (overall_weight * overall + category_weight * categories) / (overall_weight + category_weight)
    return torch.where(categories.isnan(), overall, mixed)


def _sentence(text: str, labels: tuple[str, str], otherwise: float) -> float:
    if labels[0] in text:
        return WON
    return LOST if labels[1] in text else otherwise


def _stated_tie(text: str) -> float:
    return TIED if _TIE.search(text) else NONE


def _winner(value: Any) -> float:
    text = value.lower() if isinstance(value, str) else ""
    first, second = (re.search(rf"\b(?:video|image) {number}\b", text) is not None for number in (1, 2))
    if first == second:
        return TIED if first else _stated_tie(text)
    return WON if first else LOST


def _json_object(text: str) -> dict[str, Any]:
    """The reply as an object, or the span from its first to its last brace; empty where neither is one."""
    for candidate in (text, text[text.find("{") : text.rfind("}") + 1]):
        try:
            value = json.loads(candidate)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            return value
    return {}
