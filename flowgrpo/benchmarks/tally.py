"""From answers to the table: shares of met test points, as the published script counts them and as it hides them.

A picture counts only where the judge gave a valid answer to every one of its test points; the script leaves the others
out of numerator and denominator. The overall score of the leaderboard is the unweighted mean of the primary dimensions'
accuracies, which no published script computes but every published row agrees with to 0.01.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flowgrpo.benchmarks.judgements import Place
from flowgrpo.benchmarks.judges import Answer
from flowgrpo.benchmarks.tasks import Point, Task, Track

Cell = tuple[str, str]
"""(kind, name): ("dimension", "Attribute"), ("test point", "Attribute - Color"), ("theme", "Art") or
("subtheme", "Art / Other")."""
OVERALL: Cell = ("overall", "Overall")
KINDS = ("dimension", "test point", "theme", "subtheme")


@dataclass(frozen=True, slots=True)
class Count:
    """Test points of pictures: met, judged, and asked for."""

    correct: int = 0
    total: int = 0
    expected: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.correct + other.correct, self.total + other.total, self.expected + other.expected)

    @property
    def accuracy(self) -> float | None:
        """Met among judged, in [0, 1]: the published number."""
        return self.correct / self.total if self.total else None

    @property
    def pessimistic(self) -> float:
        """Met among asked for: whatever was not judged counts as not met."""
        return self.correct / self.expected if self.expected else 0.0


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of one model on one track.

    Attributes:
        cells: by cell and, within it, by index of the task, so that tasks can be drawn again for intervals.
        pictures: asked for.
        judged: of them, with a complete answer.
        missing: of them, without a picture.
    """

    cells: Mapping[Cell, Mapping[int, Count]]
    pictures: int
    judged: int
    missing: int

    def count(self, cell: Cell) -> Count:
        return sum(self.cells[cell].values(), Count())

    def of_kind(self, kind: str) -> list[Cell]:
        return [cell for cell in self.cells if cell[0] == kind]

    @property
    def overall(self) -> float | None:
        """Unweighted mean of the primary dimensions' accuracies, of those that were judged at all."""
        return mean(self.count(cell).accuracy for cell in self.of_kind("dimension"))

    @property
    def overall_pessimistic(self) -> float:
        return mean(self.count(cell).pessimistic for cell in self.of_kind("dimension")) or 0.0


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are there; None without any."""
    held = [value for value in values if value is not None]
    return sum(held) / len(held) if held else None


def tally(track: Track, answers: Mapping[Place, Answer], samples: int, pictures: Iterable[Place]) -> Tally:
    """Count.

    Args:
        track: every task that was to be judged.
        answers: what is known, by (index, sample); a picture that is not in it was not judged.
        samples: pictures per prompt.
        pictures: those that exist.
    """
    cells: dict[Cell, dict[int, Count]] = {}
    for task in track.tasks:
        given = [answers[place] for k in range(samples) if (place := (task.index, k)) in answers]
        complete = [answer.verdicts for answer in given if answer.complete]
        for i, point in enumerate(task.points):
            count = Count(sum(verdicts[i] is True for verdicts in complete), len(complete), samples)
            for cell in _cells_of(task, point):
                held = cells.setdefault(cell, {})
                held[task.index] = held.get(task.index, Count()) + count
    places = {(task.index, k) for task in track.tasks for k in range(samples)}
    judged = sum(place in answers and answers[place].complete for place in places)
    return Tally(_ordered(cells, track), len(places), judged, len(places - set(pictures)))


def _cells_of(task: Task, point: Point) -> Iterator[Cell]:
    yield "dimension", point.dimension
    yield "test point", point.label
    if task.theme:
        yield "theme", task.theme
    if task.subtheme:
        yield "subtheme", f"{task.theme} / {task.subtheme}"


def _ordered(cells: Mapping[Cell, dict[int, Count]], track: Track) -> dict[Cell, dict[int, Count]]:
    """By kind; dimensions as the track orders them, test points with their dimension, themes by name."""
    known = {name: place for place, name in enumerate(track.dimensions)}

    def place(cell: Cell) -> tuple[int, int, str]:
        kind, name = cell
        first = known.get(name.partition("-")[0].strip(), len(known)) if kind in KINDS[:2] else 0
        return KINDS.index(kind), first, name

    return {cell: cells[cell] for cell in sorted(cells, key=place)}


@dataclass(frozen=True, slots=True)
class Official:
    """What the published script writes: name -> [met, judged, accuracy rounded to 4 digits].

    English primary names keep the blank that the script leaves behind ("Attribute ").
    """

    primary_dimensions: dict[str, list[float]]
    sub_dimensions: dict[str, list[float]]
    rows_skipped: int
    leaderboard_overall_percent: float | None
    """Not in the script: 100 times the unweighted mean of the primary accuracies before rounding."""


def official(rows: Iterable[tuple[Sequence[str], Sequence[Any] | None]]) -> Official:
    """Count exactly as the published script does (CodeGoat24/UniGenBench, eval_common.py, calculate_scores).

    Args:
        rows: per picture the names of its test points as the file spells them, and its scores; None where the judging
            failed. Only a value that equals 1 counts as met; a list that is too short leaves the last points out.
    """
    primary: dict[str, Count] = {}
    sub: dict[str, Count] = {}
    skipped = 0
    for names, scores in rows:
        skipped += scores is None
        for name, score in zip(names, scores or (), strict=False):
            one = Count(int(score == 1), 1, 1)
            dimension = name.partition("-")[0]
            primary[dimension] = primary.get(dimension, Count()) + one
            sub[name] = sub.get(name, Count()) + one
    overall = mean(count.accuracy for count in primary.values())
    percent = None if overall is None else 100 * overall
    return Official(_triples(primary), _triples(dict(sorted(sub.items()))), skipped, percent)


def _triples(counts: Mapping[str, Count]) -> dict[str, list[float]]:
    return {name: [count.correct, count.total, round(count.correct / count.total, 4)] for name, count in counts.items()}


def official_rows(
    track: Track, answers: Mapping[Place, Answer], samples: int
) -> Iterator[tuple[Sequence[str], Sequence[int] | None]]:
    """What `official` reads, of this project's answers."""
    for task in track.tasks:
        for place in ((task.index, k) for k in range(samples)):
            answer = answers.get(place)
            scores = [int(value is True) for value in answer.verdicts] if answer and answer.complete else None
            yield [point.name for point in task.points], scores
