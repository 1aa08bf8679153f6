"""Countdown: reach a target with + - * / from given numbers, each used exactly once."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from reward_models.tasks.answers import INSTRUCTION, extract_answer
from reward_models.tasks.expressions import ExpressionError, evaluate
from reward_models.tasks.problems import (
    NO_ANSWER,
    Problem,
    Split,
    TaskError,
    Verdict,
    draw_problems,
    judged,
    solution_text,
    styled,
)

TASK = "countdown"
PROMPTS = {
    "plain": "numbers {numbers} target {target}",
    "chat": "Use each of the numbers {numbers} exactly once, with + - * / and parentheses, to make {target}. "
    f"The answer is the expression alone. {INSTRUCTION}",
}
SPELLINGS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-"})
PARSES, NUMBERS = 0.1, 0.2
"""Partial credit of an expression, and of using the right numbers; the rest needs the right value with them."""

Term = tuple[int, str, int]
"""(value, text, level of its last operator: 1 for + and -, 2 for * and /, 3 for a number)."""


def generate(
    split: Split,
    *,
    seed: int,
    count: int,
    style: str = "plain",
    size: int = 3,
    largest: int = 9,
    largest_target: int = 99,
) -> list[Problem]:
    """Solvable problems. Problems with the same numbers, in any order, and the same target share a split.

    Args:
        split: "train" or "heldout".
        seed: of the problems.
        count: how many.
        style: key of `PROMPTS`; "plain" expects the bare expression.
        size: numbers per problem, >= 2.
        largest: numbers are drawn from 1 ... largest.
        largest_target: targets lie in 1 ... largest_target.

    Raises:
        TaskError: options out of range, or too few problems.
    """
    if size < 2 or largest < 1 or largest_target < 1:
        raise TaskError(f"countdown needs size >= 2 and positive limits, got {size}, {largest}, {largest_target}")
    make = partial(_make, style=style, size=size, largest=largest, largest_target=largest_target)
    return draw_problems(make, split, task=TASK, seed=seed, count=count)


def problem(numbers: Sequence[int], target: int, solution: str, *, style: str) -> Problem:
    """A problem in one of the styles; `solution` is an expression, or empty where none is known."""
    tagged = style != "plain"
    prompt = styled(style, PROMPTS, TASK, numbers=" ".join(map(str, numbers)), target=target)
    metadata = {"task": TASK, "numbers": list(numbers), "target": target, "tagged": tagged}
    return Problem(prompt, metadata, solution_text(solution, tagged=tagged) if solution else "")


def verify(text: str, metadata: Mapping[str, Any]) -> Verdict:
    """Check an expression: exact value, each number once, nothing but numbers, + - * / and parentheses.

    "expression = target" and the signs × ÷ − are understood.

    Args:
        text: what the model wrote.
        metadata: `numbers`, `target`, and whether the answer is `tagged`.

    Returns:
        Verdict: partial is 0.1 for an expression, up to 0.3 with the share of the right numbers, 1 if correct.
    """
    answer = extract_answer(text, tagged=metadata.get("tagged", True))
    if answer is None:
        return NO_ANSWER
    target = int(metadata["target"])
    expression = _without_result(answer.translate(SPELLINGS), target)
    try:
        value = evaluate(expression)
    except ExpressionError:
        return judged(answer, False, 0.0)
    overlap = _overlap(Counter(map(int, re.findall(r"\d+", expression))), Counter(metadata["numbers"]))
    return judged(answer, overlap == 1 and value == target, PARSES + NUMBERS * overlap)


def _without_result(answer: str, target: int) -> str:
    """Drop "= target" at the end."""
    expression, sign, result = answer.rpartition("=")
    return expression if sign and result.strip() == str(target) else answer


def _overlap(used: Counter[int], given: Counter[int]) -> float:
    """Numbers in common over numbers in either, 1 only for equal multisets."""
    return (used & given).total() / max(1, (used | given).total())


def _make(
    rng: random.Random, *, style: str, size: int, largest: int, largest_target: int
) -> tuple[str, Problem] | None:
    numbers = [rng.randint(1, largest) for _ in range(size)]
    terms: list[Term] = [(number, str(number), 3) for number in numbers]
    while len(terms) > 1:
        rng.shuffle(terms)
        terms.append(rng.choice(_combined(terms.pop(), terms.pop())))
    target, expression, _ = terms[0]
    if not 1 <= target <= largest_target:
        return None
    return f"{TASK}:{sorted(numbers)}:{target}", problem(numbers, target, expression, style=style)


def _combined(a: Term, b: Term) -> list[Term]:
    """All ways to join two terms into a positive whole number."""
    joined = [_join(a, "+", b, a[0] + b[0]), _join(a, "*", b, a[0] * b[0])]
    if a[0] > b[0]:
        joined.append(_join(a, "-", b, a[0] - b[0]))
    if a[0] % b[0] == 0:
        joined.append(_join(a, "/", b, a[0] // b[0]))
    return joined


def _join(a: Term, operator: str, b: Term, value: int) -> Term:
    """With parentheses only where they are needed."""
    level = 1 if operator in "+-" else 2
    left = a[1] if a[2] >= level else f"({a[1]})"
    right = b[1] if b[2] > level or (b[2] == level and operator in "+*") else f"({b[1]})"
    return value, f"{left}{operator}{right}", level
