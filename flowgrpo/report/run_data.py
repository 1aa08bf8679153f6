"""What a run folder holds, read leniently: a report of a broken or half-finished run is worth more than an error."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowgrpo.errors import UsageError, did_you_mean
from flowgrpo.report.numbers import usable
from flowgrpo.runfolder import RunFolder, read_jsonl

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RunData:
    """One run. Rows are in file order; of an iteration written twice, the later row counts.

    `notes` says in sentences what is missing or unreadable.
    """

    folder: RunFolder
    recipe: Row
    metrics: tuple[Row, ...] = ()
    timing: tuple[Row, ...] = ()
    evaluations: tuple[Row, ...] = ()
    held_out_pictures: tuple[Row, ...] = ()
    """Rows of evaluations that are statistics of pictures and no scores."""
    events: tuple[Row, ...] = ()
    trees: tuple[Row, ...] = ()
    matrices: tuple[Row, ...] = ()
    images: Row | None = None
    answers: Row | None = None
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return str(self.recipe.get("name") or self.folder.path.name)

    @property
    def iterations(self) -> tuple[int, ...]:
        return tuple(int(row["iteration"]) for row in self.metrics)

    def setting(self, section: str, key: str) -> Any:
        """A value of the resolved recipe, or None where it is not recorded."""
        values = as_mapping(as_mapping(self.recipe.get("values")).get(section))
        return values.get(key)

    def column(self, key: str) -> tuple[float | None, ...]:
        """One logged key over all iterations; None where it is missing or not finite."""
        return tuple(usable(row.get(key)) for row in self.metrics)

    def logged(self, key: str) -> bool:
        return any(key in row for row in self.metrics)

    @property
    def keys(self) -> tuple[str, ...]:
        """Every key with a number in it, in order of first appearance."""
        seen = dict.fromkeys(key for row in self.metrics for key, value in row.items() if _numeric(value))
        return tuple(key for key in seen if key != "iteration")


def as_mapping(value: Any) -> Row:
    return value if isinstance(value, Mapping) else {}


def read_run(path: Path) -> RunData:
    """Read a run folder, complete or not.

    Raises: UsageError: there is no such folder, or it is not a run's.
    """
    _check_folder(path)
    folder, notes = RunFolder(path), list[str]()
    answers = as_mapping(_json(folder.answers, notes, "answers are left out")) if folder.answers.is_file() else None
    images = None if answers else as_mapping(_json(folder.images / "index.json", notes, "no pictures were drawn"))
    judged = _rows(folder.evaluations, notes, "no evaluation has finished")
    statistics = tuple(row for row in judged if str(row.get("scorer")).startswith("image/"))
    return RunData(
        folder=folder,
        recipe=as_mapping(_json(folder.recipe, notes, "the recipe is unknown")),
        metrics=_by_iteration(_rows(folder.metrics, notes, "no iteration has finished")),
        timing=_by_iteration(_rows(folder.timing, notes, "no iteration was timed")),
        evaluations=tuple(row for row in judged if row not in statistics),
        held_out_pictures=statistics,
        events=_rows(folder.events, notes, "no event was recorded"),
        trees=_rows(folder.trees, notes),
        matrices=_rows(folder.matrices, notes),
        images=images or None,
        answers=answers or None,
        notes=tuple(notes),
    )


def _check_folder(path: Path) -> None:
    if not path.is_dir():
        kind = "is a file, not a run folder" if path.exists() else "does not exist"
        siblings = (entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else ()
        raise UsageError(f"{path} {kind}; pass the folder of a run{did_you_mean(path.name, siblings)}")
    if _is_run(path):
        return
    inside = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and _is_run(entry))
    hint = f"; it contains the runs {', '.join(inside[:5])}" if inside else ""
    raise UsageError(f"{path} is not a run folder: it holds neither recipe.json nor metrics.jsonl{hint}")


def _is_run(path: Path) -> bool:
    folder = RunFolder(path)
    return folder.recipe.is_file() or folder.metrics.is_file()


def _json(path: Path, notes: list[str], consequence: str) -> Any:
    if not path.is_file():
        notes.append(f"{_shown(path)} is missing: {consequence}.")
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        notes.append(f"{_shown(path)} cannot be read ({type(error).__name__}): {consequence}.")
        return None


def _rows(path: Path, notes: list[str], consequence: str = "") -> tuple[Row, ...]:
    """Rows of a file; one without a consequence belongs to some recipes only, and nobody misses it."""
    if not path.is_file():
        if consequence:
            notes.append(f"{_shown(path)} is missing: {consequence}.")
        return ()
    try:
        rows = read_jsonl(path)
        lines = len([line for line in path.read_bytes().splitlines() if line.strip()])
    except (OSError, ValueError) as error:
        notes.append(f"{_shown(path)} cannot be read ({type(error).__name__}): {consequence or 'left out'}.")
        return ()
    if lines > len(rows):
        notes.append(
            f"{_shown(path)}: line {len(rows) + 1} is cut off or damaged; {lines - len(rows)} of {lines} left out."
        )
    elif not rows and consequence:
        notes.append(f"{_shown(path)} is empty: {consequence}.")
    return tuple(row for row in rows if isinstance(row, Mapping))


def _shown(path: Path) -> str:
    return "images/index.json" if path.name == "index.json" else path.name


def _by_iteration(rows: Iterable[Row]) -> tuple[Row, ...]:
    latest = {int(row["iteration"]): row for row in rows if usable(row.get("iteration")) is not None}
    return tuple(latest[iteration] for iteration in sorted(latest))


def _numeric(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
