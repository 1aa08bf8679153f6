r"""The rewards of d1 as its code computes them, quirks included, for recipes that repeat published numbers.

Quirks: the two form rewards of GSM8K need each block's text on one line, and exclude each other; Countdown accepts the
powers, floor divisions and decimals that Python evaluates; given cells of a Sudoku are not checked; the bonus for a
\boxed answer can never be earned. The exact verifiers beside this file have none of them.

Source: d1 (arXiv 2504.12216), its reward functions.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

from reward_models.tasks.expressions import PYTHON, ExpressionError, evaluate
from reward_models.tasks.maths import equivalent, last_boxed
from reward_models.tasks.sudoku import empty_cells_right

_STRICT = re.compile(r"<reasoning>\n.*?\n</reasoning>\n<answer>\n.*?\n</answer>\n$")
_SOFT = re.compile(r"<reasoning>.*?</reasoning>\s*<answer>.*?</answer>")
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
TRAILING = 0.001
"""Cost of a character after the answer, once for each of two tags."""


def gsm8k_rewards(text: str, answer: str) -> dict[str, float]:
    """Rewards of a word problem.

    Args:
        text: what the model wrote.
        answer: the right number, compared as a string.

    Returns:
        dict[str, float]: `correctness` 0 or 2; `int`, `strict_format`, `soft_format` 0 or 0.5; `xmlcount` up to 0.5,
            less for trailing text; and their sum, `total`.
    """
    found = text.split("<answer>")[-1].split("</answer>")[0].strip()
    parts = {
        "correctness": 2.0 * (found == answer),
        "int": 0.5 * found.isdigit(),
        "strict_format": 0.5 * bool(_STRICT.match(text)),
        "soft_format": 0.5 * bool(_SOFT.match(text)),
        "xmlcount": _tag_count(text),
    }
    return parts | {"total": sum(parts.values())}


def _tag_count(text: str) -> float:
    score = 0.125 * ((text.count("<reasoning>\n") == 1) + (text.count("\n</reasoning>\n") == 1))
    if text.count("\n<answer>\n") == 1:
        score += 0.125 - TRAILING * len(text.split("\n</answer>\n")[-1])
    if text.count("\n</answer>") == 1:
        score += 0.125 - TRAILING * (len(text.split("\n</answer>")[-1]) - 1)
    return score


def countdown_reward(text: str, numbers: Sequence[int], target: int) -> float:
    """1 for a right expression, 0.1 for any other answer, 0 without answer tags."""
    answers = _ANSWER.findall(text)
    if not answers:
        return 0.0
    expression = answers[-1].strip()
    try:
        value = evaluate(expression, PYTHON)
    except ExpressionError:
        return 0.1
    used = Counter(map(int, re.findall(r"\d+", expression)))
    return 1.0 if used == Counter(numbers) and abs(value - target) < Fraction(1, 100_000) else 0.1


def sudoku_reward(text: str, puzzle: str, solution: str) -> float:
    """Share of the empty cells that are right, digits padded or cut to 16; 0 without answer tags or digits."""
    answers = _ANSWER.findall(text)
    digits = "".join(re.findall(r"\d", answers[-1])) if answers else ""
    return empty_cells_right(digits, puzzle, solution) if digits else 0.0


def math_rewards(text: str, solution: str) -> dict[str, float]:
    """Rewards of a MATH problem.

    Args:
        text: what the model wrote.
        solution: worked solution or answer; its last box counts, the whole if it has none.

    Returns:
        dict[str, float]: `correctness` 0 or 2; `format` 0.75 with an answer tag, else 0.25.
    """
    right = equivalent(_boxed_or_all(text), _boxed_or_all(solution))
    return {"correctness": 2.0 * right, "format": 0.5 * (("<answer>" in text) + 0.5)}


def _boxed_or_all(text: str) -> str:
    box = last_boxed(text)
    return text if box is None else box
