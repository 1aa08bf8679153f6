"""Text to values: YAML files with line numbers, and words converted by the type that the schema expects.

A scalar stays text until the schema says what it is. So `3e-4` is a number where a number is expected (YAML 1.1 reads
it as a string), and `no` or `1e5` stays text where a name is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml

NUMBER = re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)([eE][-+]?\d+)?")
NULLS = ("", "~", "null", "none")
STANDARD_TAG = "tag:yaml.org,2002:"


class Plain(str):
    """An unquoted word whose type is still open."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Item:
    """What stands at one key of a YAML mapping: an unconverted value (a dict of items for a mapping), and its line."""

    value: Any
    line: int


class ValueSyntaxError(Exception):
    """Text that is no YAML or means nothing here; `line` counts from 1."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def read_mapping(text: str) -> dict[str, Item]:
    """Top-level items of a YAML document; sections hold a dict of items in turn.

    Raises: ValueSyntaxError: not YAML, not a mapping, a duplicate key, a key that is no word, or a YAML tag.
    """
    node = _compose(text)
    if not isinstance(node, yaml.MappingNode):
        raise ValueSyntaxError(1, "a recipe is a mapping of sections, such as 'train:' and indented keys below it")
    return _items(node)


def read_value(text: str) -> Any:
    """An unconverted value from the text of one YAML or JSON expression, such as `[a, b]` or `{"gold": 1}`.

    Raises: ValueSyntaxError: the text is neither.
    """
    return without_lines(_value(_compose(text)))


def _compose(text: str) -> yaml.Node:
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ValueSyntaxError(line, f"not valid YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ValueSyntaxError(1, f"not valid YAML: {str(error).splitlines()[0]}") from error
    if node is None:
        raise ValueSyntaxError(1, "the file is empty")
    return node


def _items(node: yaml.MappingNode) -> dict[str, Item]:
    items: dict[str, Item] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise ValueSyntaxError(line, "a key must be a word, not a mapping or a list")
        key = key_node.value
        if key in items:
            raise ValueSyntaxError(line, f"duplicate key {key!r}, first given in line {items[key].line}")
        items[key] = Item(_value(value_node), line)
    return items


def _value(node: yaml.Node) -> Any:
    if not node.tag.startswith(STANDARD_TAG) or node.tag.startswith(STANDARD_TAG + "python"):
        raise ValueSyntaxError(node.start_mark.line + 1, f"YAML tags such as {node.tag} are not allowed")
    if isinstance(node, yaml.MappingNode):
        return _items(node)
    if isinstance(node, yaml.SequenceNode):
        return [without_lines(_value(child)) for child in node.value]
    return Plain(node.value) if node.style is None else str(node.value)  # type: ignore[attr-defined]


def without_lines(value: Any) -> Any:
    """A value of `read_mapping` as ordinary dicts, all the way down."""
    if isinstance(value, dict):
        return {key: without_lines(item.value) if isinstance(item, Item) else item for key, item in value.items()}
    return value


def core_value(text: str) -> Any:
    """YAML 1.2's core types: true, false, null, whole numbers, numbers (`3e-4` is one), else text."""
    low = text.lower()
    if low in ("true", "false"):
        return low == "true"
    if low in ("", "~", "null"):
        return None
    if not NUMBER.fullmatch(text):
        return str(text)
    return int(text) if re.fullmatch(r"[-+]?\d[\d_]*", text) else float(text)


def kinds(annotation: Any) -> Iterator[Any]:
    """The alternatives of a type: unions and `Annotated` taken apart."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from kinds(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for part in get_args(annotation):
            yield from kinds(part)
    else:
        yield annotation


def choices(annotation: Any) -> tuple[Any, ...]:
    """Allowed values of a `Literal` type; empty for any other."""
    return tuple(value for kind in kinds(annotation) if get_origin(kind) is Literal for value in get_args(kind))


def converted(value: Any, annotation: Any) -> Any:
    """`value` with its open words typed as `annotation` expects; what does not fit is left for the schema to refuse.

    Raises: ValueSyntaxError: text that starts as YAML or JSON and is none.
    """
    if isinstance(value, dict):
        return {key: converted(entry, _element(annotation, dict)) for key, entry in value.items()}
    if isinstance(value, list):
        return [converted(entry, _element(annotation, tuple)) for entry in value]
    return _word(value, list(kinds(annotation))) if isinstance(value, Plain) else value


def _element(annotation: Any, container: type) -> Any:
    for kind in kinds(annotation):
        if get_origin(kind) is container:
            arguments = get_args(kind)
            return arguments[1] if container is dict else arguments[0]
    return Any


def _word(text: Plain, alternatives: list[Any]) -> Any:
    if NoneType in alternatives and text.lower() in NULLS:
        return None
    for kind in alternatives:
        if get_origin(kind) in (dict, tuple):
            return converted(_collection(text, get_origin(kind)), kind)
    literals = [value for kind in alternatives for value in choices(kind)]
    if str in alternatives or any(isinstance(value, str) for value in literals):
        return str(text)
    if text.startswith(("[", "{")):  # where anything may stand, as in a scorer's options
        return converted(read_value(text), Any)
    return core_value(text)


def _collection(text: str, container: type) -> Any:
    """`a,b` as a list, `a=1,b=2` as a mapping, and anything that starts with a bracket as YAML or JSON."""
    if text.startswith(("[", "{")):
        return read_value(text)
    words = [word.strip() for word in text.split(",") if word.strip()]
    if container is dict and words and all("=" in word for word in words):
        pairs = (word.split("=", 1) for word in words)
        return {key.strip(): Plain(entry.strip()) for key, entry in pairs}
    return [Plain(word) for word in words]
