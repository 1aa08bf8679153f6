"""Prompt files and which prompts an iteration trains on. Pure Python.

A prompt file is text (one prompt per line), JSON lines (`prompt` and any metadata, GenEval's schema included) or CSV or
TSV with a `prompt` column. Embedded sets are the keys of `EMBEDDED`, such as "shapes/train". "gsm8k:train.jsonl" is a
file of problems as it was published, read by `reward_models.tasks.files`; "gsm8k/plain:" leaves out the instruction.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from flowgrpo.assets import asset
from flowgrpo.errors import PromptError, did_you_mean, first_line

EMBEDDED = {
    **{f"shapes/{name}": f"prompts/{name}.jsonl" for name in ("train", "heldout", "combos")},
    **{
        f"tasks/{task}/{split}": f"prompts/tasks/{task}/{split}.jsonl"
        for task in ("arithmetic", "countdown", "sudoku")
        for split in ("train", "heldout")
    },
}


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt, the other fields of its row, and its line in the file, from 1."""

    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    line: int = 0


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Prompts of one file in its order, and what is odd about them."""

    name: str
    prompts: tuple[Prompt, ...]
    warnings: tuple[str, ...] = ()


def load_prompts(name_or_file: str | Path, *, limit: int | None = None) -> PromptSet:
    """Read an embedded set by name, a .txt, .jsonl, .csv or .tsv file, or a published file of problems.

    Args:
        name_or_file: "shapes/train" and the like, a path, or "TASK:path" and "TASK/plain:path" with TASK gsm8k, math,
            countdown or sudoku.
        limit: keep the first so many prompts.

    Raises: PromptError: unknown name, missing or empty file, text that is not UTF-8, or a row without a prompt; the
        message names the line.
    """
    name = str(name_or_file)
    problems = _problems(name)
    if problems is not None:
        return PromptSet(name, problems[:limit], tuple(_duplicates(problems, name)))
    path = asset(EMBEDDED[name]) if name in EMBEDDED else Path(name)
    if name not in EMBEDDED and not path.is_file():
        raise PromptError(_not_there(name))
    reader = READERS.get(path.suffix)
    if reader is None:
        raise PromptError(f"prompt file {name!r} must end in one of {', '.join(READERS)}")
    prompts = list(reader(_text(path, name), name))
    if not prompts:
        raise PromptError(f"prompt file {name!r} holds no prompt")
    return PromptSet(name, tuple(prompts[:limit]), tuple(_duplicates(prompts, name)))


def spread(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    """`count` prompts at equal distances through a set, so that each of its categories is likely to be seen."""
    count = min(count, len(prompts))
    return [prompts[i * len(prompts) // count] for i in range(count)]


def prompts_for(iteration: int, *, seed: int, count: int, size: int) -> list[int]:
    """Indices of the prompts of one iteration: a function of its arguments alone, whatever the number of ranks.

    Iterations read `count` at a time from an endless sequence of permutations of the `size` prompts, so that each
    prompt comes once per epoch. Where an iteration runs over the border of two epochs, its own prompts are moved
    further back in the second one: no prompt comes twice in an iteration, unless `count` exceeds `size`.

    Args:
        iteration: from 1.
        seed: the run's seed.
        count: prompts per iteration.
        size: prompts in the set.

    Returns: `count` indices in [0, size).
    """
    if iteration < 1 or count < 1 or size < 1:
        raise ValueError(f"iteration, count and size start at 1, got {iteration}, {count}, {size}")
    begin = (iteration - 1) * count
    drawn: list[int] = []
    first = _aligned_epoch(begin // size, count, size)
    order: list[int] = []
    for epoch in range(first, (begin + count - 1) // size + 1):
        order = _epoch(epoch, order, seed=seed, count=count, size=size)
        drawn += order[max(0, begin - epoch * size) : max(0, begin + count - epoch * size)]
    return drawn


def _aligned_epoch(epoch: int, count: int, size: int) -> int:
    """The last epoch up to this one that starts together with an iteration: its order depends on no earlier epoch."""
    if count > size:
        return epoch
    return next(candidate for candidate in range(epoch, -1, -1) if candidate * size % count == 0)


def _epoch(epoch: int, previous: list[int], *, seed: int, count: int, size: int) -> list[int]:
    """The order of one epoch, given the order of the epoch before (empty where that does not matter)."""
    order = list(range(size))
    key = hashlib.sha256(f"prompts:{seed}:{epoch}".encode()).digest()
    random.Random(int.from_bytes(key, "big")).shuffle(order)
    head = epoch * size % count
    if not previous or not head or count > size:
        return order
    taken = set(previous[-head:])
    early = [index for index in order if index not in taken][: count - head]
    moved = set(early)
    return early + [index for index in order if index not in moved]


def _problems(name: str) -> tuple[Prompt, ...] | None:
    """Problems of "TASK:path" or "TASK/STYLE:path"; None where the name has another form."""
    from reward_models.tasks.files import ROWS, load_problems
    from reward_models.tasks.problems import TaskError

    kind, colon, path = name.partition(":")
    task, _, style = kind.partition("/")
    if not colon or task not in ROWS:
        return None
    if style not in ("", "plain", "chat"):
        raise PromptError(f"{name!r}: the form of a {task} prompt is plain or chat, got {style!r}")
    try:
        found = load_problems(path, task, style=style or "chat")
    except TaskError as error:
        raise PromptError(str(error)) from error
    return tuple(Prompt(problem.prompt, problem.metadata, place) for place, problem in enumerate(found, start=1))


def _text(path: Path, name: str) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PromptError(f"prompt file {name!r} cannot be read: {error.strerror}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise PromptError(f"{name}:{line}: not UTF-8 text; save the file as UTF-8") from error


def _not_there(name: str) -> str:
    hint = did_you_mean(name, EMBEDDED)
    known = f"embedded sets: {', '.join(EMBEDDED)}"
    forms = f"or a path that ends in {', '.join(READERS)}, or gsm8k:, math:, countdown:, sudoku: and a published file"
    return f"prompt file {name!r} does not exist{hint} ({known}; {forms})"


def _numbered(text: str) -> Iterator[tuple[int, str]]:
    """Lines with something on them, numbered from 1. Only line feeds end a line: U+2028 may stand in a prompt."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.strip()


def _lines(text: str, name: str) -> Iterator[Prompt]:
    for number, line in _numbered(text):
        yield Prompt(line, {}, number)


def _json_lines(text: str, name: str) -> Iterator[Prompt]:
    for number, line in _numbered(text):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise PromptError(f"{name}:{number}: not valid JSON: {json_fault(error)}") from error
        if not isinstance(row, dict):
            raise PromptError(f'{name}:{number}: expects an object such as {{"prompt": "a red circle"}}')
        yield _row(row, name, number)


PUBLISHED_COLUMNS = {"Prompts": "prompt", "Prompt": "prompt", "Category": "category"}
"""Headers of DrawBench's and PartiPrompts' tables."""


def _table(text: str, name: str, delimiter: str = ",") -> Iterator[Prompt]:
    # PartiPrompts' columns are parted by tabs, and its quotes are part of the prompts.
    reader = csv.DictReader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE,
        strict=True,
    )
    try:
        header = reader.fieldnames or ()
        reader.fieldnames = [PUBLISHED_COLUMNS.get(column, column) for column in header]
        if "prompt" not in reader.fieldnames:
            raise PromptError(f"{name}:1: the header has no column 'prompt' (columns: {', '.join(header) or 'none'})")
        for row in reader:
            if None in row:
                raise PromptError(f"{name}:{reader.line_num}: more fields than the header has columns")
            yield _row(dict(row), name, reader.line_num)
    except csv.Error as error:
        raise PromptError(f"{name}:{reader.line_num}: not valid CSV: {error}") from error


def json_fault(error: Exception) -> str:
    """What JSON fails by; beside its syntax that is nesting without end and whole numbers of thousands of digits."""
    return f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else first_line(error)


def _row(row: dict[str, Any], name: str, number: int) -> Prompt:
    if "prompt" not in row:
        hint = did_you_mean("prompt", map(str, row))
        raise PromptError(f"{name}:{number}: no key 'prompt'{hint} (keys: {', '.join(map(str, row)) or 'none'})")
    text = row.pop("prompt")
    if not isinstance(text, str) or not text.strip():
        raise PromptError(f"{name}:{number}: 'prompt' must be a text that is not empty, got {text!r}")
    return Prompt(text.strip(), row, number)


def _duplicates(prompts: Sequence[Prompt], name: str) -> Iterator[str]:
    first: dict[str, int] = {}
    repeated = [prompt for prompt in prompts if first.setdefault(prompt.text, prompt.line) != prompt.line]
    if repeated:
        line, text = repeated[0].line, repeated[0].text
        yield f"{name}: {len(repeated)} repeated prompts, the first in line {line} (as in line {first[text]}): {text!r}"


READERS: dict[str, Callable[[str, str], Iterator[Prompt]]] = {
    ".txt": _lines,
    ".jsonl": _json_lines,
    ".csv": _table,
    ".tsv": partial(_table, delimiter="\t"),
}
