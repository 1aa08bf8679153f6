"""Arithmetic: sums, differences and products of whole numbers."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from reward_models.tasks.answers import INSTRUCTION, extract_answer
from reward_models.tasks.expressions import evaluate
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

TASK = "arithmetic"
PROMPTS = {
    "plain": "{expression}=",
    "chat": f"What is {{expression}}? The answer is one whole number. {INSTRUCTION}",
}


def generate(
    split: Split,
    *,
    seed: int,
    count: int,
    style: str = "plain",
    terms: int = 2,
    largest: int = 99,
    operators: str = "+-*",
) -> list[Problem]:
    """Problems; those of the same numbers and operators, in any order, share a split.

    Args:
        split: "train" or "heldout".
        seed: of the problems.
        count: how many.
        style: key of `PROMPTS`; "plain" expects the bare number.
        terms: numbers per problem, >= 2.
        largest: numbers are drawn from 0 ... largest.
        operators: some of + - *; * binds tighter.

    Raises:
        TaskError: options out of range, or too few problems.
    """
    if terms < 2 or largest < 0 or not operators or set(operators) - set("+-*"):
        raise TaskError(f"arithmetic needs terms >= 2 and operators among + - *, got {terms} and {operators!r}")
    make = partial(_make, style=style, terms=terms, largest=largest, operators=operators)
    return draw_problems(make, split, task=TASK, seed=seed, count=count)


def verify(text: str, metadata: Mapping[str, Any]) -> Verdict:
    """Check a whole number; commas between its digits and a repeated "expression =" do not matter.

    Args:
        text: what the model wrote.
        metadata: `answer`, and whether it is `tagged`.

    Returns:
        Verdict: partial is the share of digits that are right, counted from the last, 0 if the sign is wrong.
    """
    answer = extract_answer(text, tagged=metadata.get("tagged", True))
    if answer is None:
        return NO_ANSWER
    number = re.fullmatch(r"([-−]?)\s*([0-9][0-9,]*)", answer.rpartition("=")[2].strip())
    if number is None:
        return judged(answer, False, 0.0)
    value = int(number[2].replace(",", "")[:100]) * (-1 if number[1] else 1)
    right = int(metadata["answer"])
    return judged(answer, value == right, _digits_right(value, right) * 0.9)


def _digits_right(value: int, right: int) -> float:
    if (value < 0) != (right < 0):
        return 0.0
    ours, theirs = str(abs(value))[::-1], str(abs(right))[::-1]
    return sum(a == b for a, b in zip(ours, theirs, strict=False)) / max(len(ours), len(theirs))


def _make(rng: random.Random, *, style: str, terms: int, largest: int, operators: str) -> tuple[str, Problem]:
    numbers = [rng.randint(0, largest) for _ in range(terms)]
    chosen = [rng.choice(operators) for _ in range(terms - 1)]
    expression = "".join(f"{number}{operator}" for number, operator in zip(numbers, [*chosen, ""], strict=True))
    answer, tagged = str(evaluate(expression)), style != "plain"
    metadata = {"task": TASK, "expression": expression, "answer": answer, "tagged": tagged}
    prompt = styled(style, PROMPTS, TASK, expression=expression)
    identity = f"{TASK}:{sorted(numbers)}:{''.join(sorted(chosen))}"
    return identity, Problem(prompt, metadata, solution_text(answer, tagged=tagged))
