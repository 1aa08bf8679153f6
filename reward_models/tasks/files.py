"""Files of problems in the formats in which the field shares them: GSM8K, MATH-500, Countdown, 4x4 Sudoku."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from reward_models.importing import near
from reward_models.tasks import countdown, sudoku
from reward_models.tasks.answers import INSTRUCTION
from reward_models.tasks.maths import NUMBER, last_boxed
from reward_models.tasks.problems import Problem, TaskError, solution_text

Row = Mapping[str, Any]
SHOWN = 5
"""Faults that a message lists."""


def load_problems(path: str | Path, task: str, *, style: str = "chat", limit: int | None = None) -> list[Problem]:
    """Read problems, all rows checked.

    Args:
        path: .jsonl, .json (a list) or .csv with a header.
        task: key of `ROWS`. gsm8k: `question`, `answer` ending in "#### number". math: `problem`, and `answer` or
            `solution` with a box. countdown: `nums` and `target`, or `input` "1,2,3" and `output`. sudoku: `Puzzle`
            and `Solution`, 16 digits each. Names of fields may be in capitals; further fields are ignored.
        style: "chat" with the instruction about answer tags, or "plain" without.
        limit: keep the first so many.

    Raises:
        TaskError: unknown task or format, unreadable or empty file, or wrong rows; names the first lines.
    """
    path = Path(path)
    if task not in ROWS:
        raise TaskError(f"no file format for task {task!r}{near(task, list(ROWS))}; there are {', '.join(ROWS)}")
    if path.suffix not in READERS:
        raise TaskError(f"{path}: a file of problems ends in {', '.join(READERS)}")
    problems, faults = [], []
    for line, row in _rows(path):
        try:
            problems.append(ROWS[task](row, style))
        except (TaskError, KeyError, TypeError, ValueError) as error:
            faults.append(f"{path}:{line}: {_reason(error)}")
    if faults:
        more = f"\n(and {len(faults) - SHOWN} more)" if len(faults) > SHOWN else ""
        raise TaskError("\n".join(faults[:SHOWN]) + more)
    if not problems:
        raise TaskError(f"{path} holds no problem")
    return problems[:limit]


def _reason(error: Exception) -> str:
    return f"the field {error} is missing" if isinstance(error, KeyError) else str(error)


def _rows(path: Path) -> Iterator[tuple[int, Row]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"{path} cannot be read: {error}") from error
    for line, row in READERS[path.suffix](text, path):
        if not isinstance(row, dict):
            raise TaskError(f"{path}:{line}: a row must be an object with named fields, got {type(row).__name__}")
        yield line, {str(key).lower(): value for key, value in row.items()}


def _json_lines(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    for line, content in enumerate(text.split("\n"), 1):  # U+2028 may stand in a problem
        if content.strip():
            yield line, _parsed(content, f"{path}:{line}")


def _json_list(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    rows = _parsed(text, str(path))
    if not isinstance(rows, list):
        raise TaskError(f"{path}: a .json file of problems holds one list")
    return enumerate(rows, 1)


def _csv(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(text.splitlines(keepends=True))
    return ((reader.line_num, row) for row in reader)


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{where}: not JSON: {error}") from error


READERS: dict[str, Callable[[str, Path], Iterator[tuple[int, Any]]]] = {
    ".jsonl": _json_lines,
    ".json": _json_list,
    ".csv": _csv,
}


def _gsm8k(row: Row, style: str) -> Problem:
    question, worked = _text(row, "question"), _text(row, "answer")
    _, sign, last = worked.rpartition("####")
    answer = last.strip().replace(",", "")
    if not sign or not NUMBER.fullmatch(answer):
        raise TaskError(f"the answer must end in '#### number', got {worked[-40:]!r}")
    return _question(question, answer, "gsm8k", style)


def _math(row: Row, style: str) -> Problem:
    question = _text(row, "problem")
    answer = _text(row, "answer") if row.get("answer") else last_boxed(_text(row, "solution"))
    if answer is None:
        raise TaskError(r"the solution has no \boxed{...} and there is no field 'answer'")
    return _question(question, answer, "math", style)


def _question(question: str, answer: str, task: str, style: str) -> Problem:
    if style not in ("plain", "chat"):
        raise TaskError(f"{task} has the styles plain, chat, not {style!r}")
    tagged = style == "chat"
    prompt = f"{question}\n{INSTRUCTION}" if tagged else question
    return Problem(prompt, {"task": task, "answer": answer, "tagged": tagged}, solution_text(answer, tagged=tagged))


def _countdown(row: Row, style: str) -> Problem:
    numbers, target = (row["nums"], row["target"]) if "nums" in row else (row["input"], row["output"])
    given = [_whole(part) for part in (re.findall(r"[^\s,\[\]]+", numbers) if isinstance(numbers, str) else numbers)]
    if len(given) < 2:
        raise TaskError(f"Countdown needs at least two numbers, got {numbers!r}")
    return countdown.problem(given, _whole(target), "", style=style)


def _sudoku(row: Row, style: str) -> Problem:
    return sudoku.problem(_text(row, "puzzle"), _text(row, "solution"), style=style)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not re.fullmatch(r"-?[0-9]+", str(value).strip()):
        raise TaskError(f"{value!r} is no whole number")
    return int(value)


def _text(row: Row, field: str) -> str:
    value = row[field]
    if not isinstance(value, str) or not value.strip():
        raise TaskError(f"the field {field!r} must be text, got {value!r}")
    return value.strip()


ROWS: dict[str, Callable[[Row, str], Problem]] = {
    "countdown": _countdown,
    "gsm8k": _gsm8k,
    "math": _math,
    "sudoku": _sudoku,
}
"""Task -> (row with lower-case names, style) -> problem."""
