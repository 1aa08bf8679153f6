"""What a scored track leaves on disk and on the terminal.

table.csv      a row per cell: kind, name, accuracy, interval, pessimistic score, counts
results.json   the same with the official counts beside it; pages and comparisons are made from it
official.csv   a row per picture with the columns of the published script
official.json  the published script's own result
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flowgrpo.benchmarks.intervals import Interval, intervals
from flowgrpo.benchmarks.judgements import Place
from flowgrpo.benchmarks.judges import Answer
from flowgrpo.benchmarks.tally import OVERALL, Cell, Count, Tally, official, official_rows, tally
from flowgrpo.benchmarks.tasks import Track
from flowgrpo.errors import UsageError, first_line
from flowgrpo.runfolder import write_atomically

OFFICIAL_COLUMNS = ("index", "prompt", "testpoint", "output", "result_json", "img_path")


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the table. Shares are in [0, 1]; `low` and `high` bound the 95 % interval of `accuracy`."""

    kind: str
    name: str
    accuracy: float | None
    low: float | None
    high: float | None
    pessimistic: float
    correct: int
    judged: int
    expected: int

    @property
    def invalid(self) -> float:
        """Share of the test points asked for that have no valid answer."""
        return 1 - self.judged / self.expected if self.expected else 0.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One model on one track as pages and comparisons need it."""

    model: str
    judge: str
    counts: Tally

    def lines(self) -> list[Line]:
        """Overall first, then by kind as `tally` orders them."""
        found = intervals(self.counts)
        cells = [_line(cell, self.counts.count(cell), found) for cell in self.counts.cells]
        return [_overall(self.counts, found), *cells]


@dataclass(frozen=True, slots=True)
class Scored:
    """One model on one track."""

    model: str
    judge: str
    track: Track
    samples: int
    pictures: Mapping[Place, Path]
    answers: Mapping[Place, Answer]
    counts: Tally

    @classmethod
    def of(
        cls,
        model: str,
        judge: str,
        track: Track,
        samples: int,
        pictures: Mapping[Place, Path],
        answers: Mapping[Place, Answer],
    ) -> Scored:
        return cls(model, judge, track, samples, pictures, answers, tally(track, answers, samples, pictures))

    @property
    def entry(self) -> Entry:
        return Entry(self.model, self.judge, self.counts)

    def gaps(self) -> list[str]:
        """What is missing, in sentences; nothing where every picture was judged."""
        counts = self.counts
        failed = [answer.error for answer in self.answers.values() if not answer.complete]
        waiting = counts.pictures - counts.missing - counts.judged - len(failed)
        found = [f"{counts.missing} of {counts.pictures} pictures do not exist"] if counts.missing else []
        found += [f"{waiting} pictures have not been judged yet"] if waiting else []
        found += [f"{len(failed)} pictures got no valid answer, the first: {failed[0]}"] if failed else []
        return found


def _line(cell: Cell, count: Count, found: Mapping[Cell, Interval]) -> Line:
    low, high = found.get(cell, (None, None))
    numbers = (count.correct, count.total, count.expected)
    return Line(*cell, count.accuracy, low, high, count.pessimistic, *numbers)


def _overall(counts: Tally, found: Mapping[Cell, Interval]) -> Line:
    low, high = found.get(OVERALL, (None, None))
    total = sum((counts.count(cell) for cell in counts.of_kind("dimension")), Count())
    numbers = (total.correct, total.total, total.expected)
    return Line(*OVERALL, counts.overall, low, high, counts.overall_pessimistic, *numbers)


def write_results(scored: Scored, folder: Path) -> None:
    """Write the files of a track; see the module.

    Raises: RunError: the folder cannot be written.
    """
    lines = scored.entry.lines()
    counted = official(official_rows(scored.track, scored.answers, scored.samples))
    summary = {
        "model": scored.model,
        "judge": scored.judge,
        "track": scored.track.name,
        "samples": scored.samples,
        "pictures": scored.counts.pictures,
        "judged": scored.counts.judged,
        "gaps": scored.gaps(),
        "table": [asdict(line) | {"invalid": line.invalid} for line in lines],
        "official": asdict(counted),
    }
    write_atomically(folder / "results.json", json.dumps(summary, indent=1, ensure_ascii=False))
    write_atomically(folder / "counts.json", json.dumps(_counts_json(scored)))
    write_atomically(folder / "table.csv", _csv(_table_header(), map(_table_row, lines)))
    write_atomically(folder / "official.csv", _csv(OFFICIAL_COLUMNS, _official_rows(scored)))
    write_atomically(folder / "official.json", json.dumps(_official_json(counted), indent=2, ensure_ascii=False))


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(header)
    table.writerows(rows)
    return out.getvalue()


def _table_header() -> tuple[str, ...]:
    return ("kind", "name", "accuracy", "low", "high", "pessimistic", "correct", "judged", "expected", "invalid")


def _table_row(line: Line) -> tuple[Any, ...]:
    shares = (line.accuracy, line.low, line.high, line.pessimistic)
    written = ("" if share is None else f"{share:.6f}" for share in shares)
    return (line.kind, line.name, *written, line.correct, line.judged, line.expected, f"{line.invalid:.6f}")


def _official_json(counted: Any) -> dict[str, Any]:
    """The two objects of the published file."""

    def named(triples: Mapping[str, Sequence[float]]) -> dict[str, Any]:
        return {name: dict(zip(("correct", "total", "accuracy"), held, strict=True)) for name, held in triples.items()}

    return {
        "primary_dimensions": named(counted.primary_dimensions),
        "sub_dimensions": named(counted.sub_dimensions),
    }


def _official_rows(scored: Scored) -> Iterable[Sequence[Any]]:
    for task in scored.track.tasks:
        names = json.dumps([point.name for point in task.points], ensure_ascii=False)
        for place in ((task.index, k) for k in range(scored.samples)):
            answer, picture = scored.answers.get(place), scored.pictures.get(place, "")
            result = ""
            if answer is not None and answer.complete:
                scores = [int(value is True) for value in answer.verdicts]
                result = json.dumps({"analysis": list(answer.reasons), "score": scores}, ensure_ascii=False)
            output = answer.error if answer else "not judged"
            yield task.index, task.prompt, names, output, result, str(picture)


def _counts_json(scored: Scored) -> dict[str, Any]:
    counts = scored.counts
    cells = [
        [*cell, [[task, held.correct, held.total, held.expected] for task, held in by_task.items()]]
        for cell, by_task in counts.cells.items()
    ]
    head = {"model": scored.model, "track": scored.track.name, "judge": scored.judge}
    return {**head, "pictures": counts.pictures, "judged": counts.judged, "missing": counts.missing, "cells": cells}


def read_entry(folder: Path, track: str) -> Entry:
    """What an earlier call left in its `--out` folder about a track.

    Raises: UsageError: there is nothing, or it is not ours.
    """
    file = folder / track / "counts.json"
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        cells = {(kind, name): {row[0]: Count(*row[1:]) for row in rows} for kind, name, rows in held["cells"]}
        counts = Tally(cells, held["pictures"], held["judged"], held["missing"])
        return Entry(held["model"], held["judge"], counts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"{folder} holds no results of track {track!r} to compare with: {first_line(error)}"
        ) from error
