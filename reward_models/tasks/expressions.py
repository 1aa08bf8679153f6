"""Arithmetic in text, evaluated exactly by a small parser: nothing that a model writes is ever executed."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

LONGEST = 300
"""Characters of the longest expression that is read; nesting is bounded with it."""
LARGEST_BITS = 4096
"""Powers of more bits are refused."""


class ExpressionError(ValueError):
    """The text is no expression of the grammar, or has no value."""


@dataclass(frozen=True, slots=True)
class Operator:
    """A binary operator: how tightly it binds, its function, and whether it groups from the right."""

    level: int
    function: Callable[[Fraction, Fraction], Fraction]
    from_right: bool = False


@dataclass(frozen=True, slots=True)
class Grammar:
    """Operators by symbol, and a pattern of tokens whose group "number" is a number."""

    operators: Mapping[str, Operator]
    tokens: re.Pattern[str]


SIGN_LEVEL = 3


def power(base: Fraction, exponent: Fraction) -> Fraction:
    """base ** exponent for whole exponents and results of bounded size."""
    if exponent.denominator != 1:
        raise ExpressionError("a power needs a whole exponent")
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if bits * abs(exponent.numerator) > LARGEST_BITS:
        raise ExpressionError("a power is too large")
    return base**exponent.numerator


ARITHMETIC = Grammar(
    operators={
        "+": Operator(1, lambda a, b: a + b),
        "-": Operator(1, lambda a, b: a - b),
        "*": Operator(2, lambda a, b: a * b),
        "/": Operator(2, lambda a, b: a / b),
    },
    tokens=re.compile(r"\s*(?:(?P<number>\d+)|(?P<symbol>[-+*/()]))"),
)
"""Whole numbers, + - * / and parentheses."""

PYTHON = Grammar(
    operators={
        **ARITHMETIC.operators,
        "//": Operator(2, lambda a, b: Fraction(a // b)),
        "**": Operator(4, power, from_right=True),
    },
    tokens=re.compile(r"\s*(?:(?P<number>\d+\.?\d*|\.\d+)|(?P<symbol>\*\*|//|[-+*/()]))"),
)
"""What Python evaluates of digits, + - * / ( ) and dots, bar numbers with leading zeros."""


def evaluate(text: str, grammar: Grammar = ARITHMETIC) -> Fraction:
    """Value of an expression.

    Args:
        text: at most `LONGEST` characters.
        grammar: what is allowed.

    Returns:
        Fraction: the exact value.

    Raises:
        ExpressionError: not an expression, a division by 0, or too long or large.
    """
    tokens = deque(_tokens(text, grammar))
    try:
        value = _parse(tokens, grammar, least=0)
    except ZeroDivisionError as error:
        raise ExpressionError("division by 0") from error
    if tokens:
        raise ExpressionError(f"unexpected {tokens[0]!r}")
    return value


def _tokens(text: str, grammar: Grammar) -> list[str]:
    if len(text) > LONGEST:
        raise ExpressionError(f"longer than {LONGEST} characters")
    text, place, tokens = text.strip(), 0, []
    while place < len(text):
        match = grammar.tokens.match(text, place)
        if match is None:
            raise ExpressionError(f"unexpected {text[place:].strip()[:1]!r}")
        tokens.append(match.group().strip())
        place = match.end()
    return tokens


def _parse(tokens: deque[str], grammar: Grammar, least: int) -> Fraction:
    """An operand and all operators after it that bind at least as tightly as `least`."""
    value = _operand(tokens, grammar)
    while tokens and tokens[0] in grammar.operators and grammar.operators[tokens[0]].level >= least:
        operator = grammar.operators[tokens.popleft()]
        right = _parse(tokens, grammar, operator.level + (not operator.from_right))
        value = operator.function(value, right)
    return value


def _operand(tokens: deque[str], grammar: Grammar) -> Fraction:
    if not tokens:
        raise ExpressionError("it ends too early")
    token = tokens.popleft()
    if token in "+-":
        value = _parse(tokens, grammar, SIGN_LEVEL)
        return -value if token == "-" else value
    if token == "(":
        value = _parse(tokens, grammar, 0)
        if not tokens or tokens.popleft() != ")":
            raise ExpressionError("a parenthesis is not closed")
        return value
    return _number(token)


def _number(token: str) -> Fraction:
    if not token[-1].isdigit() and not token[0].isdigit():
        raise ExpressionError(f"unexpected {token!r}")
    if not token.isascii():
        raise ExpressionError("digits must be 0 to 9")
    if token.isdigit() and len(token) > 1 and token[0] == "0" and token.strip("0"):
        raise ExpressionError(f"{token!r} has leading zeros")
    return Fraction(token)
