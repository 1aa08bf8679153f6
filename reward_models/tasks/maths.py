"""Word problems with a number as answer (GSM8K) and mathematics with an expression as answer (MATH)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from reward_models.tasks.answers import extract_answer
from reward_models.tasks.expressions import LONGEST
from reward_models.tasks.math_library import same_value
from reward_models.tasks.problems import NO_ANSWER, Verdict, judged

ATTEMPT = 0.1
"""Partial credit of an answer in the right form."""

NUMBER = re.compile(r"[-−]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?")


def verify_number(text: str, metadata: Mapping[str, Any]) -> Verdict:
    """Check a number by value: 42, 42.0, $42 and 1,000 = 1000. An answer with several different numbers is wrong.

    Args:
        text: what the model wrote.
        metadata: `answer`, and whether it is `tagged`.

    Returns:
        Verdict: partial is 0.1 for any single number.
    """
    answer = _answer(text, metadata)
    if answer is None:
        return NO_ANSWER
    if len(answer) > LONGEST:
        return judged(answer, False, 0.0)
    found = {number(match) for match in NUMBER.findall(answer)}
    single = len(found) == 1
    return judged(answer, found == {number(str(metadata["answer"]))}, ATTEMPT if single else 0.0)


def verify_expression(text: str, metadata: Mapping[str, Any]) -> Verdict:
    r"""Check an expression: right with the answer's normalised spelling (MATH's own grader) or its value (math-verify).

    Args:
        text: what the model wrote; the answer is in \boxed{...} or between answer tags.
        metadata: `answer`, and whether it is `tagged`.

    Returns:
        Verdict: partial is 0.1 for any answer.

    Raises:
        ScorerError: spellings differ, and math-verify (the extra ``math``) cannot be used.
    """
    answer = _answer(text, metadata)
    if answer is None:
        return NO_ANSWER
    gold = str(metadata["answer"])
    return judged(answer, equivalent(answer, gold) or same_value(gold, answer), ATTEMPT)


def number(text: str) -> Fraction:
    """Value of a decimal number, with or without commas between thousands."""
    return Fraction(text.replace(",", "").replace("−", "-"))


def _answer(text: str, metadata: Mapping[str, Any]) -> str | None:
    r"""The last \boxed{...} of the answer tag, else the tag's text; without a tag, the last box of the whole text."""
    tagged = extract_answer(text, tagged=True)
    box = last_boxed(text if tagged is None else tagged)
    if box is not None or tagged is not None:
        return box if box is not None else tagged
    return extract_answer(text, tagged=metadata.get("tagged", True))


def last_boxed(text: str) -> str | None:
    r"""Content of the last \boxed{...} or \fbox{...}, braces balanced; None where there is none or it is not closed."""
    start = max(text.rfind(r"\boxed{"), text.rfind(r"\fbox{"))
    if start < 0:
        return None
    inside = text[text.index("{", start) + 1 :]
    depth = 1
    for place, character in enumerate(inside):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if not depth:
            return inside[:place]
    return None


def equivalent(a: str, b: str) -> bool:
    """Whether two expressions have the same normalised spelling."""
    return normalised(a) == normalised(b)


def normalised(expression: str) -> str:
    """One spelling for what is written in several ways; see `RULES`."""
    for rule in RULES:
        expression = rule(expression)
    return expression


def _replace(pattern: str, by: str) -> Callable[[str], str]:
    compiled = re.compile(pattern)
    return lambda text: compiled.sub(by, text)


def _without_unit(text: str) -> str:
    r"""Drop a trailing \text{ unit}."""
    return text.split(r"\text{ ")[0] if text.count(r"\text{ ") == 1 else text


def _without_name(text: str) -> str:
    """Drop "x =" and the like, a left side of at most two characters."""
    left, _, right = text.partition("=")
    return right.lstrip() if text.count("=") == 1 and len(left.strip()) <= 2 else text


RULES: tuple[Callable[[str], str], ...] = (
    _replace(r"\n|\\!", ""),
    _replace(r"\\[td]frac", r"\\frac"),
    _replace(r"\\left(?![a-z])|\\right(?![a-z])", ""),
    _replace(r"\^\{\\circ\}|\^\\circ|°", ""),
    _replace(r"\\\$", ""),
    _without_unit,
    _replace(r"\\?%", ""),
    _replace(r"(^|[ {])\.(?=\d)", r"\g<1>0."),
    _without_name,
    _replace(r"\\sqrt\s*([^{\s\\])", r"\\sqrt{\1}"),
    _replace(r"\s", ""),
    _replace(r"\\frac([^{\\])([^{\\])", r"\\frac{\1}{\2}"),
    _replace(r"\\frac([^{\\])\{", r"\\frac{\1}{"),
    _replace(r"(\\frac\{[^{}]*\})([^{\\])", r"\1{\2}"),
    _replace(r"^0\.5$", r"\\frac{1}{2}"),
    _replace(r"^(-?\d+)/(-?\d+)$", r"\\frac{\1}{\2}"),
)
r"""Applied in order: line ends and thin spaces, kinds of \frac, \left and \right, degrees, dollars, units, per cent,
.5 -> 0.5, "x =", \sqrt2, blanks, \frac12, 0.5 and a/b as fractions."""
