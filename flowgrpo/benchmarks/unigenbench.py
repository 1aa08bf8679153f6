"""UniGenBench's prompt files, checked row by row (arXiv 2508.20751; UniGenBench++, arXiv 2510.18701).

The published files are CSV with the columns `index`, `prompt_en` or `prompt_zh`, and `sub_dims_en` or `sub_dims_zh`, a
JSON object. JSON lines of the same keys are read as well; there the object may stand as it is.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowgrpo.assets import asset
from flowgrpo.benchmarks.tasks import Point, Task, Track
from flowgrpo.benchmarks.testpoints import DEFINITIONS, DIMENSIONS, ENGLISH, theme_names
from flowgrpo.errors import PromptError, did_you_mean
from flowgrpo.prompts import json_fault

TRACKS = ("en", "en_long", "zh", "zh_long")
FILE = "test_prompts_{track}.csv"
PICTURE = "{index}_{sample}"
_INDEX = r"[0-9]{1,9}"
DEMO = "shapes"
"""Name of the embedded track over the world of shapes."""
SAMPLES, SEED = 4, 3407
"""Pictures per prompt, and the seed of the first, as published."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Names of the fields in the JSON object of one language."""

    theme: str
    subtheme: str
    points: str
    cues: str


KEYS = {
    "en": Keys("Primary Categories", "Secondary Categories", "Testpoints", "Testpoint Description"),
    "zh": Keys("一级垂类", "二级垂类", "考点", "考点对应描述"),
}


def load_tracks(source: str | Path, names: tuple[str, ...] = ()) -> tuple[Track, ...]:
    """Read the tracks of a folder, the one of a file, or the embedded one.

    Args:
        source: a folder with the published `test_prompts_TRACK.csv` files, one .csv or .jsonl file, or "shapes".
        names: tracks of a folder to read; all that it holds by default.

    Returns: the tracks, in the order of `names` or of `TRACKS`.

    Raises: PromptError: no such file or track, or a faulty row; the message names file and line.
    """
    if str(source) == DEMO:
        return (load_track(asset("prompts/shapes/unigen.csv"), name=DEMO),)
    folder = Path(source)
    if not folder.is_dir():
        return (load_track(folder),)
    held = [name for name in TRACKS if (folder / FILE.format(track=name)).is_file()]
    for name in names:
        if name not in held:
            has = ", ".join(held) or "none"
            raise PromptError(f"{folder}: no track {name!r}{did_you_mean(name, held)} (tracks here: {has})")
    if not held:
        raise PromptError(f"{folder}: holds none of {', '.join(FILE.format(track=name) for name in TRACKS)}")
    return tuple(load_track(folder / FILE.format(track=name)) for name in names or held)


def load_track(path: Path, *, name: str | None = None) -> Track:
    """Read one file.

    A test point that stands twice in a row is kept and counts twice, as in the published script. Where a comma is
    missing between two texts of the JSON object (index 509 of the long English file) it is put in, with a warning.

    Args:
        path: .csv or .jsonl.
        name: of the track; by default from the file's name, `test_prompts_en.csv` being "en".

    Raises: PromptError: missing file, or a faulty row; the message names file and line.
    """
    rows = {".csv": _csv_rows, ".jsonl": _json_rows}.get(path.suffix)
    if not path.is_file() or rows is None:
        raise PromptError(f"{path}: expects a UniGenBench file that ends in .csv or .jsonl, or a folder of them")
    warnings: list[str] = []
    tasks = tuple(_task(row, f"{path}:{line}", line, warnings) for line, row in rows(path))
    if not tasks:
        raise PromptError(f"{path}: holds no prompt")
    _check_indices(tasks, path)
    return Track(name or path.stem.removeprefix("test_prompts_"), tasks, PICTURE, DIMENSIONS, tuple(warnings))


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise PromptError(
                    f"{path}:{reader.line_num}: expects {len(reader.fieldnames or ())} fields as in the header"
                )
            yield reader.line_num, dict(row)
    except csv.Error as error:
        raise PromptError(f"{path}:{reader.line_num}: not valid CSV: {error}") from error


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise PromptError(f"{path}:{number}: not valid JSON: {json_fault(error)}") from error
        if not isinstance(row, dict):
            raise PromptError(f"{path}:{number}: expects an object with index, prompt_en and sub_dims_en")
        yield number, row


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PromptError(f"{path}: not UTF-8 text at byte {error.start}; save the file as UTF-8") from error
    except OSError as error:
        raise PromptError(f"{path}: cannot be read: {error.strerror or error}") from error


def _task(row: Mapping[str, Any], place: str, line: int, warnings: list[str]) -> Task:
    language = next((known for known in KEYS if f"prompt_{known}" in row), None)
    if language is None or f"sub_dims_{language}" not in row or "index" not in row:
        expected = "index, prompt_en, sub_dims_en (or _zh)"
        raise PromptError(f"{place}: expects the columns {expected}, got {', '.join(map(str, row)) or 'none'}")
    prompt = row[f"prompt_{language}"]
    if not isinstance(prompt, str) or not prompt.strip():
        raise PromptError(f"{place}: 'prompt_{language}' must be a text that is not empty, got {prompt!r}")
    held = _object(row[f"sub_dims_{language}"], f"{place}: sub_dims_{language}", warnings)
    keys = KEYS[language]
    theme, subtheme = theme_names(str(held.get(keys.theme, "")), str(held.get(keys.subtheme, "")))
    return Task(_index(row["index"], place), prompt, _points(held, keys, place), theme, subtheme, line=line)


def _index(value: Any, place: str) -> int:
    if isinstance(value, bool | float) or not re.fullmatch(_INDEX, str(value)):
        raise PromptError(f"{place}: 'index' must be a whole number from 0, got {value!r}")
    return int(value)


def _object(value: Any, place: str, warnings: list[str]) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            value = _repaired(value, place, error)
            warnings.append(f"{place}: a comma between two texts was missing and is taken as meant")
    if not isinstance(value, dict):
        raise PromptError(f"{place}: expects a JSON object, got {type(value).__name__}")
    return value


def _repaired(text: str, place: str, error: Exception) -> Any:
    """Whole texts are matched one after the other, so that what stands inside a text is never touched."""
    try:
        return json.loads(re.sub(r'"(?:[^"\\]|\\.)*"(\s*(?="))?', _with_comma, text))
    except (ValueError, RecursionError):
        raise PromptError(f"{place}: not valid JSON: {json_fault(error)}") from error


def _with_comma(match: re.Match[str]) -> str:
    return match[0] if match[1] is None else f"{match[0]},"


def _points(held: Mapping[str, Any], keys: Keys, place: str) -> tuple[Point, ...]:
    names, cues = (_texts(held, key, place) for key in (keys.points, keys.cues))
    if len(names) != len(cues):
        raise PromptError(f"{place}: {len(names)} test points but {len(cues)} descriptions; right is one for each")
    for name in names:
        if name not in ENGLISH:
            raise PromptError(f"{place}: unknown test point {name!r}{did_you_mean(name, ENGLISH)}")
    return tuple(
        Point(name, cue, DEFINITIONS[ENGLISH[name]], ENGLISH[name]) for name, cue in zip(names, cues, strict=True)
    )


def _texts(held: Mapping[str, Any], key: str, place: str) -> list[str]:
    texts = held.get(key)
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        hint = did_you_mean(key, held) if texts is None else ""
        raise PromptError(f"{place}: {key!r} must be a list of texts that is not empty{hint}")
    return texts


def _check_indices(tasks: tuple[Task, ...], path: Path) -> None:
    first: dict[int, int] = {}
    for task in tasks:
        if first.setdefault(task.index, task.line) != task.line:
            raise PromptError(f"{path}:{task.line}: index {task.index} is already in line {first[task.index]}")
