"""Replies of judges that give numbers or answer questions. Pairwise verdicts in words: `reward_models.verdicts`.

Tolerant of what models add (markup, blanks, other words), strict in what counts: a number that is missing or out of its
range makes the whole reply `Unreadable`, and is never replaced by another one.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

AXES = ("Alignment", "Coherence", "Style")
LOWEST_MARK, HIGHEST_MARK = 1.0, 5.0

_NUMBER = r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?(?![\w.]*\d)"
_SEPARATOR = r"[\s*_`]*(?:\([^()\n]*\))?[\s*_`]*[:=][\s*_`]*"
_SUM_TOLERANCE = 0.02
_TRUTHS = {"1": True, "0": False, "true": True, "false": False, "1.0": True, "0.0": False, "yes": True, "no": False}
_SHOWN = 80


class Unreadable(ValueError):
    """The reply does not say what was asked for."""


def marks(text: str, axes: Sequence[str] = AXES) -> dict[str, float]:
    """Marks between 1 and 5 on several axes, as UnifiedReward 2.0 gives them (``Alignment Score (1-5): 3.5``).

    Args:
        text: The reply. Where an axis has several marks the last counts.
        axes: Names of the axes, as the reply spells them but for case.

    Returns:
        Axis -> mark.

    Raises:
        Unreadable: An axis has no mark, or one outside 1 to 5.
    """
    return {axis: _mark(rf"\b{re.escape(axis)}(?:\s+Score)?", axis, text) for axis in axes}


def final_mark(text: str) -> float:
    """The mark between 1 and 5 after ``Final Score``, as UnifiedReward 1 and 1.5 give it; the last one counts.

    Raises:
        Unreadable: There is none, or one outside 1 to 5.
    """
    return _mark(r"\bFinal\s+Score", "Final Score", text)


def soft_verdict(text: str, weights: Mapping[str, float]) -> float:
    """Verdict of a reply that divides 1 between two pictures on several axes, as UnifiedReward 2.0 does.

    Args:
        text: The reply: after each axis' name ``Image 1: x`` and ``Image 2: y``, x + y = 1.
        weights: Axis -> weight of its mean, all at least 0 and not all 0.

    Returns:
        Weighted mean of x / (x + y), in [0, 1]: 1 where the first picture is better.

    Raises:
        Unreadable: An axis with a weight is missing, or its numbers are no division of 1.
    """
    heard = {axis: _share(axis, text, tuple(weights)) for axis, weight in weights.items() if weight > 0}
    return sum(weights[axis] * share for axis, share in heard.items()) / sum(weights[axis] for axis in heard)


@dataclass(frozen=True, slots=True)
class Checks:
    """A judge's findings on one picture, point by point.

    Attributes:
        holds: Whether the picture meets each point.
        explanations: Why, for each point; empty texts where the reply gave no readable list of them.
    """

    holds: tuple[bool, ...]
    explanations: tuple[str, ...]


def checks(text: str, count: int) -> Checks:
    """Findings of a reply with ``<analysis>[...]</analysis>`` and ``<score>[...]</score>``, as for UniGenBench.

    Args:
        text: The reply. Of several elements of a name the last counts.
        count: Points that were asked about.

    Returns:
        The findings. An analysis that cannot be read, or is of another length, costs the explanations only.

    Raises:
        Unreadable: The scores are missing, not all 0 or 1, or not `count`.
    """
    listed = _element("score", text).strip().removeprefix("[").removesuffix("]")
    words = [word.strip(" \t\r\n'\"").lower() for word in listed.split(",")] if listed.strip() else []
    if len(words) != count or any(word not in _TRUTHS for word in words):
        raise Unreadable(f"the reply has no list of {count} scores 0 or 1: {_shown(listed or text)}")
    return Checks(tuple(_TRUTHS[word] for word in words), _explanations(_element("analysis", text), count))


def yes_probability(top: Sequence[tuple[str, float]]) -> float:
    """Probability of Yes among Yes and No, from the likeliest first tokens of a reply.

    Args:
        top: (token, log-probability). Spellings of a word (case, blanks, punctuation around it) count together; a
            word that is not among the tokens counts as impossible.

    Returns:
        p(yes) / (p(yes) + p(no)).

    Raises:
        Unreadable: Neither word is among the tokens, or the server sent none.
    """
    sums = {"yes": 0.0, "no": 0.0}
    for token, log_prob in top:
        word = token.strip(" \t\r\n.,!\"'*▁Ġ").lower()
        if word in sums and not math.isnan(log_prob):
            sums[word] += math.exp(min(log_prob, 0.0))
    total = sum(sums.values())
    if total == 0:
        seen = ", ".join(repr(token) for token, _ in top[:5]) or "none; the server may not support logprobs"
        raise Unreadable(f"neither Yes nor No is among the likeliest first tokens ({seen})")
    return sums["yes"] / total


def _mark(label: str, name: str, text: str) -> float:
    found = re.findall(rf"{label}{_SEPARATOR}({_NUMBER})", text, re.IGNORECASE)
    if not found:
        raise Unreadable(f"the reply has no mark for {name}: {_shown(text)}")
    mark = float(found[-1])
    if not LOWEST_MARK <= mark <= HIGHEST_MARK:
        raise Unreadable(f"the mark for {name} is {mark:g}, outside {LOWEST_MARK:g} to {HIGHEST_MARK:g}")
    return mark


def _share(axis: str, text: str, axes: tuple[str, ...]) -> float:
    """What the first picture gets on an axis: the two numbers between the axis' last heading and the next one."""
    any_axis = "|".join(re.escape(name) for name in axes)
    heading = rf"\b{re.escape(axis)}(?:\s+Score)?{_SEPARATOR}"
    sections = re.findall(rf"{heading}(.*?)(?=\b(?:{any_axis})\b|\Z)", text, re.DOTALL | re.IGNORECASE)
    body = sections[-1] if sections else ""
    found = [re.search(rf"\bImage\s*{number}{_SEPARATOR}({_NUMBER})", body, re.IGNORECASE) for number in (1, 2)]
    if None in found:
        raise Unreadable(f"the reply does not divide {axis} between the pictures: {_shown(text)}")
    first, second = (float(match.group(1)) for match in found if match)
    if min(first, second) < 0 or abs(first + second - 1) > _SUM_TOLERANCE:
        raise Unreadable(f"the reply divides {axis} as {first:g} and {second:g}, which is no division of 1")
    return first / (first + second)


def _element(name: str, text: str) -> str:
    found = re.findall(rf"<{name}>(.*?)</{name}>", text, re.DOTALL | re.IGNORECASE)
    return found[-1] if found else ""


def _explanations(text: str, count: int) -> tuple[str, ...]:
    for parse in (json.loads, ast.literal_eval):
        try:
            listed = parse(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(listed, list) and len(listed) == count:
            return tuple(str(entry) for entry in listed)
    return ("",) * count


def _shown(text: str) -> str:
    said = " ".join(text.split())
    return repr(said if len(said) <= _SHOWN else said[: _SHOWN - 3] + "...")
