"""Where the randomness was: the trained steps of every iteration, as a path over the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from flowgrpo.report.chart_frame import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Tip,
    bin_labels,
    binned_x_axis,
    bins,
    drawing,
    figure,
    legend,
)
from flowgrpo.report.heat_chart import MOST_COLUMNS, cell, row_labels
from flowgrpo.report.markup import Html, join, note, tag
from flowgrpo.report.numbers import Scale, percent, usable
from flowgrpo.report.run_data import Row, RunData

MOST_STEPS = 200


@dataclass(frozen=True, slots=True)
class Window:
    """Steps of one iteration's plan: how many it has, and which are trained."""

    iteration: int
    steps: int
    trained: frozenset[int]


def window_section(run: RunData) -> Html | None:
    """A strip of trained and deterministic steps; None where no iteration says which it trained."""
    found = read_windows(run.metrics)
    if not found:
        return None
    return join([note(_summary(found)), tag("div", window_chart(found), class_="charts")])


def read_windows(metrics: Sequence[Row]) -> list[Window]:
    """Windows of the iterations that recorded theirs; a plan without a length ends at its last trained step."""
    found = []
    for row in metrics:
        given = row.get("trained_steps")
        numbers = [usable(step) for step in given] if isinstance(given, list) else []
        trained = frozenset(int(step) for step in numbers if step is not None and 0 <= step < MOST_STEPS)
        steps = max(int(min(usable(row.get("steps")) or 0, MOST_STEPS)), *(step + 1 for step in trained), 0)
        if isinstance(given, list) and steps:
            found.append(Window(int(row["iteration"]), steps, trained))
    return found


def window_chart(windows: Sequence[Window]) -> Html:
    """Iterations from left to right, sampling steps from top to bottom; the share of a bin that trained a step."""
    iterations = [window.iteration for window in windows]
    groups = bins(iterations, MOST_COLUMNS)
    steps = max(window.steps for window in windows)
    height = max(6, min(18, 200 // steps))
    shares = [[_share(windows, group, step) for group in groups] for step in range(steps)]
    columns, bottom = Scale(0, len(groups), LEFT, WIDTH - RIGHT), TOP + height * steps
    tip = Tip(
        columns=bin_labels(iterations, groups),
        xs=[columns(index + 0.5) for index in range(len(groups))],
        texts=[[_reading(share) for share in row] for row in shares],
        ys=[TOP + (step + 0.5) * height for step in range(steps)],
        rows=[f"step {step}" for step in range(steps)],
    )
    body = drawing(
        "Trained steps",
        _summary(windows),
        tip,
        *(
            cell(
                columns, column, TOP + step * height, height, "" if share else "still", max(share, 0.15) if share else 1
            )
            for step, row in enumerate(shares)
            for column, share in enumerate(row)
            if share is not None
        ),
        row_labels(range(steps), height),
        binned_x_axis(iterations, columns, len(groups), bottom),
        height=bottom + BOTTOM,
    )
    names = legend([("trained", "trained"), ("still", "not trained")])
    size = len(groups[0])
    remark = f"Each cell is the share of {size} iterations that trained the step." if size > 1 else ""
    now = f"{len(windows[-1].trained)} of {windows[-1].steps} steps"
    return figure("Trained steps", body, now=now, legend=names, notes=[remark])


def _share(windows: Sequence[Window], group: range, step: int) -> float | None:
    """Share of a bin's iterations that trained a step, among those whose plan has it; None where no plan does."""
    there = [step in windows[index].trained for index in group if step < windows[index].steps]
    return sum(there) / len(there) if there else None


def _reading(share: float | None) -> str:
    if share is None:
        return "not in the plan"
    return {0.0: "not trained", 1.0: "trained"}.get(share, f"trained in {percent(share)} of the iterations")


def _summary(windows: Sequence[Window]) -> str:
    counts = sorted({len(window.trained) for window in windows})
    lengths = sorted({window.steps for window in windows})
    moves = sum(left.trained != right.trained for left, right in pairwise(windows))
    return (
        f"{_range(counts)} of {_range(lengths)} sampling steps are trained in an iteration; "
        f"which ones changed {moves} {'time' if moves == 1 else 'times'}."
    )


def _range(values: Sequence[int]) -> str:
    return str(values[0]) if len(values) == 1 else f"{values[0]} to {values[-1]}"
