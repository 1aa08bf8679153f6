"""Answers to the same prompts before, during and after training, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flowgrpo.report.markup import Html, join, note, table, tag
from flowgrpo.report.numbers import number, usable
from flowgrpo.report.run_data import Row, RunData, as_mapping

MOST_COLUMNS = 4
MOST_CHARACTERS = 600


def answer_section(run: RunData) -> Html | None:
    """One row per prompt, one column per time; None where the run's model writes no answers."""
    index = as_mapping(run.answers)
    prompts, columns = _sequence(index.get("prompts")), [as_mapping(entry) for entry in _sequence(index.get("columns"))]
    if not prompts or not columns:
        return None
    shown = columns if len(columns) <= MOST_COLUMNS else [*columns[: MOST_COLUMNS - 1], columns[-1]]
    rows = [
        (tag("bdi", str(prompt)), *(_cell(column, place) for column in shown)) for place, prompt in enumerate(prompts)
    ]
    labels = [str(column.get("label", "?")) for column in shown]
    return join(
        [
            note("The same prompts and seeds, decoded as in the evaluations; the number is the first scorer's."),
            table(("prompt", *labels), rows, "Answers before and after training", titled=True),
        ]
    )


def _cell(column: Row, place: int) -> Html:
    texts, scores = _sequence(column.get("texts")), _sequence(column.get("scores"))
    text = str(texts[place]) if place < len(texts) else "missing"
    score = usable(scores[place]) if place < len(scores) else None
    cut = text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS] + " …"
    return join([tag("bdi", cut), tag("small", f" {number(score)}") if score is not None else None])


def _sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()
