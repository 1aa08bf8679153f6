"""The expression parser against Python's own grammar, and what it refuses."""

from __future__ import annotations

import ast
import random
from fractions import Fraction

import pytest

from reward_models.tasks.d1 import countdown_reward
from reward_models.tasks.expressions import ARITHMETIC, PYTHON, ExpressionError, evaluate


def _random_expression(rng: random.Random, depth: int) -> str:
    if depth == 0:
        return str(rng.randint(0, 9))
    left, right = (_random_expression(rng, rng.randrange(depth)) for _ in range(2))
    text = f"{left}{rng.choice(['+', '-', '*', '/', ' - ', '*-'])}{right}"
    return f"({text})" if rng.random() < 0.4 else text


def _by_syntax_tree(text: str) -> Fraction:
    """An independent evaluation, by Python's own grammar."""
    functions = {
        ast.Add: lambda a, b: a + b,
        ast.Sub: lambda a, b: a - b,
        ast.Mult: lambda a, b: a * b,
        ast.Div: lambda a, b: a / b,
        ast.Pow: lambda a, b: a**b,
        ast.FloorDiv: lambda a, b: Fraction(a // b),
    }

    def value(node: ast.expr) -> Fraction:
        if isinstance(node, ast.BinOp):
            return functions[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.UnaryOp):
            return -value(node.operand) if isinstance(node.op, ast.USub) else value(node.operand)
        assert isinstance(node, ast.Constant)
        return Fraction(str(node.value))

    return value(ast.parse(text, mode="eval").body)


def test_expressions_agree_with_pythons_grammar() -> None:
    rng = random.Random(0)
    checked = 0
    for _ in range(600):
        text = _random_expression(rng, rng.randint(1, 5))
        try:
            want = _by_syntax_tree(text)
        except ZeroDivisionError:
            with pytest.raises(ExpressionError, match="division by 0"):
                evaluate(text)
            continue
        assert evaluate(text) == want == evaluate(text, PYTHON), text
        checked += 1
    assert checked > 400
    for text in ("-2**2", "2**3**2", "2**-1", "7//2*2", "-7//2", "1.5*2", "(1+.5)*4", "2*-3"):
        assert evaluate(text, PYTHON) == _by_syntax_tree(text), text


@pytest.mark.parametrize(
    "text",
    [
        *("", "1+", "(1", "1)", "1 2", "2**3", "7//2", "1.5", "a", "1+*2", "()", "1,2", "__import__('os')", "0x1"),
        *("07", "1" * 301, "(" * 200, "9/(3-3)"),
    ],
)
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        evaluate(text, ARITHMETIC)


@pytest.mark.parametrize("text", ["9**9**9", "(9**99)**99", "2**0.5", "9**-9999999"])
def test_powers_are_bounded(text: str) -> None:
    with pytest.raises(ExpressionError):
        evaluate(text, PYTHON)
    assert countdown_reward(f"<answer>{text}</answer>", [9, 9, 9], 1) == 0.1
