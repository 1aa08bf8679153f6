"""A value per step and iteration as a strip of cells, on a logarithmic scale of magnitude; hue is the sign."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

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
)
from flowgrpo.report.markup import Html, join, note, tag
from flowgrpo.report.numbers import Scale, largest_magnitude, present, scientific

MOST_COLUMNS = 48
DECADES = 6
FAINTEST = 0.1

Matrix = Sequence[Sequence[float | None]]


@dataclass(frozen=True, slots=True)
class HeatChart:
    """`values[row][column]` of sampling step `steps[row]` in iteration `iterations[column]`; None was not trained."""

    title: str
    iterations: Sequence[int]
    steps: Sequence[int]
    values: Matrix
    notes: Sequence[str] = ()


def heat_chart(chart: HeatChart) -> Html | None:
    """A figure of the strip; None without a value; one sentence where every value is exactly 0.

    More than 48 iterations are binned; a cell then shows the value of largest magnitude in its bin.
    """
    groups = bins(chart.iterations, MOST_COLUMNS)
    cells = [[largest_magnitude(row[index] for index in group) for group in groups] for row in chart.values]
    magnitudes = [abs(value) for row in cells for value in present(row)]
    if not magnitudes:
        return None
    if not any(magnitudes):
        return tag(
            "figure",
            tag("figcaption", chart.title),
            note("Exactly 0 at every step of every iteration."),
            class_="chart",
        )
    row_height = max(14, min(26, 130 // len(cells)))
    bottom = TOP + row_height * len(cells)
    columns = Scale(0, len(groups), LEFT, WIDTH - RIGHT)
    tip = _tip(chart, cells, groups, columns, row_height)
    size = len(groups[0])
    remark = f"Each cell is the value of largest magnitude among {size} iterations." if size > 1 else ""
    return figure(
        chart.title,
        drawing(
            chart.title,
            _description(chart, cells),
            tip,
            _cells(cells, columns, row_height, _shade(magnitudes)),
            row_labels(chart.steps, row_height),
            binned_x_axis(chart.iterations, columns, len(groups), bottom),
            height=bottom + BOTTOM,
        ),
        now=f"largest {scientific(largest_magnitude(value for row in chart.values for value in row))}",
        legend=_legend(magnitudes, signed=any(value < 0 for row in cells for value in present(row))),
        notes=(*chart.notes, remark),
    )


def _shade(magnitudes: Sequence[float]) -> Scale:
    """Opacity of a magnitude: at most six decades below the largest count, what is less is faintest."""
    low, high = _decades(magnitudes)
    return Scale(low, high, FAINTEST, 1.0, log=True)


def _decades(magnitudes: Sequence[float]) -> tuple[float, float]:
    """One to six decades, so that nearly equal values look nearly equal."""
    high = max(magnitudes)
    low = max(min(value for value in magnitudes if value > 0), high * 10.0**-DECADES)
    return min(low, high / 10), high


def _cells(cells: Matrix, columns: Scale, row_height: float, shade: Scale) -> Html:
    return join(
        cell(columns, column, TOP + row * row_height, row_height, "minus" if value < 0 else "", _opacity(value, shade))
        for row, line in enumerate(cells)
        for column, value in enumerate(line)
        if value is not None
    )


def cell(columns: Scale, column: int, top: float, height: float, kind: str, opacity: float) -> Html:
    """One cell of a strip or matrix; `kind` is empty for the plain hue, "minus" for the other one, "still" for grey."""
    width = columns(1) - columns(0)
    gap = 1.0 if width > 5 else 0.3
    return tag(
        "rect",
        x=f"{columns(column) + gap / 2:.1f}",
        y=f"{top + 0.5:.1f}",
        width=f"{width - gap:.1f}",
        height=f"{height - 1:g}",
        class_=f"cell {kind}".strip(),
        fill_opacity=f"{opacity:.2f}",
    )


def _opacity(value: float, shade: Scale) -> float:
    return shade(max(abs(value), shade.low)) if value else FAINTEST / 2


def row_labels(steps: Sequence[int], row_height: float) -> Html:
    """Sampling steps to the left of their rows, every n-th where rows are low."""
    every = math.ceil(12 / row_height)
    labels = (
        tag("text", step, x=LEFT - 6, y=TOP + (row + 0.5) * row_height, dy="0.32em", text_anchor="end", class_="tick")
        for row, step in list(enumerate(steps))[::every]
    )
    return join([tag("text", "sampling step", x=2, y=TOP - 9, class_="label"), *labels])


def _tip(chart: HeatChart, cells: Matrix, groups: Sequence[range], columns: Scale, row_height: float) -> Tip:
    return Tip(
        columns=bin_labels(chart.iterations, groups),
        xs=[columns(index + 0.5) for index in range(len(groups))],
        texts=[["not trained" if value is None else scientific(value) for value in row] for row in cells],
        ys=[TOP + (row + 0.5) * row_height for row in range(len(cells))],
        rows=[f"step {step}" for step in chart.steps],
    )


def _legend(magnitudes: Sequence[float], *, signed: bool) -> Html:
    low, high = _decades(magnitudes)
    minus = tag("i", class_="ramp minus") if signed else None
    ends = ("−", "+") if signed else ("", "")
    items = (minus, f"{ends[0]} {scientific(low)} … {scientific(high)} {ends[1]}".strip(), tag("i", class_="ramp"))
    return tag("p", *items, class_="legend", aria_label=f"magnitudes, {math.ceil(math.log10(high / low))} decades")


def _description(chart: HeatChart, cells: Matrix) -> str:
    largest = (
        f"step {step}: {scientific(largest_magnitude(row))}" for step, row in zip(chart.steps, cells, strict=True)
    )
    return f"Value of largest magnitude per sampling step. {'; '.join(largest)}."
