"""What is wrong with one value, as a sentence that names what is allowed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

from flowgrpo.errors import did_you_mean
from flowgrpo.recipe import Section

EXPECTED = {
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "a text",
    "tuple_type": "a list, such as [a, b] or a,b",
    "dict_type": "a mapping, such as {name: value} or name=value,name=value",
    "model_type": "a section of keys",
}
COUNTS = {"missing": "an entry is missing", "too_long": "has more entries than it may have"}
BOUNDS = {"greater_than": "gt", "greater_than_equal": "ge", "less_than": "lt", "less_than_equal": "le"}
BOUND_WORDS = {"gt": "greater than", "ge": "at least", "lt": "less than", "le": "at most"}


def sentences(details: Iterable[Mapping[str, Any]]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Every fault with the place of its key; what a key's alternatives say of one value is one fault."""
    for place, group in groupby(details, key=_key_of):
        first, *others = group
        words = [word for other in others if other["type"] == "literal_error" for word in _allowed(other)]
        given = str(first["input"])
        yield place, sentence(first) + ((did_you_mean(given, words) or f"; or {', '.join(words)}") if words else "")


def _key_of(detail: Mapping[str, Any]) -> tuple[str | int, ...]:
    """pydantic adds the alternative that failed to the place of a value that may be of several types."""
    return tuple(part for part in detail["loc"] if not str(part).startswith(("constrained-", "literal[")))


def sentence(detail: Mapping[str, Any]) -> str:
    """One pydantic error as a sentence: what was given and what would be right."""
    kind, given, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind in EXPECTED:
        return f"expects {EXPECTED[kind]}, got {_shown(given)}"
    if kind in BOUNDS:
        bound = BOUNDS[kind]
        return f"must be {BOUND_WORDS[bound]} {context[bound]:g}, got {_shown(given)}"
    if kind == "literal_error":
        return unknown_name(str(given), _allowed(detail))
    if kind in COUNTS:
        return COUNTS[kind]
    return f"{detail['msg'][:1].lower()}{detail['msg'][1:]}, got {_shown(given)}"


def _allowed(detail: Mapping[str, Any]) -> list[str]:
    """The words of a literal that was missed."""
    expected: str = detail["ctx"]["expected"]
    return [word.strip().strip("'") for word in expected.replace(" or ", ", ").split(",")]


def unknown_name(given: str, allowed: list[str]) -> str:
    """A name that is none of a closed list."""
    return f"{given!r} is not allowed{did_you_mean(given, allowed)} (allowed: {', '.join(allowed)})"


def not_in_names(schema: type[Section], values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Faults of a section's fields that take a known name or a user's own function: (key, sentence)."""
    for key, given in values.items():
        extra: Any = schema.model_fields[key].json_schema_extra
        names = [] if extra is None else list(extra["names"])
        for name in (given if isinstance(given, list | tuple) else [given]) if names else ():
            if isinstance(name, str) and name not in names and ":" not in name:
                yield key, f"{unknown_name(name, names)[:-1]}, or your own as package.module:function)"


def _shown(value: Any) -> str:
    text = repr(str(value)) if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
