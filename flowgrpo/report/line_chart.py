"""Lines over iterations or sampling steps, with a band for the spread and dashed lines for limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from flowgrpo.report.chart_frame import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Tip,
    bin_labels,
    bins,
    drawing,
    figure,
    legend,
    x_axis,
    y_axis,
)
from flowgrpo.report.markup import Html, join, tag
from flowgrpo.report.numbers import Scale, mean, number, present

MOST_POINTS = 300
MARKED_POINTS = 16
Values = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Series:
    """One line; `spread` is the half height of its band, in the unit of the values."""

    name: str
    values: Values
    spread: Values | None = None
    spread_name: str = "std"


@dataclass(frozen=True, slots=True)
class LineChart:
    """What a chart shows.

    Attributes:
        title: what is drawn.
        iterations: places on the x axis, increasing.
        series: lines, each as long as `iterations`; at most six.
        unit: written above the y axis.
        zero: whether the y axis starts at 0.
        limits: dashed horizontal lines, (name, value).
        notes: remarks below the chart.
        axis: what the places on the x axis count.
    """

    title: str
    iterations: Sequence[int]
    series: Sequence[Series]
    unit: str = ""
    zero: bool = False
    limits: Sequence[tuple[str, float]] = ()
    notes: Sequence[str] = ()
    axis: str = "iteration"


def line_chart(chart: LineChart) -> Html | None:
    """A figure of the lines, or None where none of them has a value.

    The y axis is logarithmic where all values are positive and span more than a factor of 200. More than 300 points
    are averaged in equal bins.
    """
    drawn, labels, remark = _thinned(chart)
    values = _extent(drawn)
    if not values:
        return None
    x = _x_scale(drawn.iterations)
    y = _y_scale(values, zero=drawn.zero)
    tip = Tip(labels, [x(place) for place in drawn.iterations], [_texts(drawn)])
    body = drawing(
        chart.title,
        _description(chart),
        tip,
        y_axis(y, chart.unit),
        x_axis(x, chart.iterations[0], chart.iterations[-1], chart.axis, HEIGHT - BOTTOM),
        *(_limit(value, y) for _, value in drawn.limits),
        *(_line(line, index, drawn.iterations, x, y) for index, line in enumerate(drawn.series)),
    )
    return figure(chart.title, body, now=_latest(chart), legend=_legend(chart), notes=(*chart.notes, remark))


def _latest(chart: LineChart) -> str:
    """The last value over iterations; of sampling steps none is the latest."""
    values = present(chart.series[0].values) if chart.axis == "iteration" else ()
    return f"{number(values[-1])}{_percent_sign(chart)}" if values else ""


def _percent_sign(chart: LineChart) -> str:
    return " %" if chart.unit.startswith("%") else ""


def _thinned(chart: LineChart) -> tuple[LineChart, list[str], str]:
    groups = bins(chart.iterations, MOST_POINTS)
    labels = bin_labels(chart.iterations, groups, chart.axis)
    size = len(groups[0]) if groups else 1
    if size == 1:
        return chart, labels, ""
    thin = _averager(groups)
    series = [replace(s, values=thin(s.values), spread=s.spread and thin(s.spread)) for s in chart.series]
    places = [chart.iterations[group[len(group) // 2]] for group in groups]
    return replace(chart, iterations=places, series=series), labels, f"Each point is the mean of {size} {chart.axis}s."


def _averager(groups: Sequence[range]) -> Callable[[Values], list[float | None]]:
    return lambda values: [mean(values[index] for index in group) for group in groups]


def _extent(chart: LineChart) -> list[float]:
    """Every value that has to fit on the y axis; limits too, unless they lie far beyond the data."""
    values = [edge for line in chart.series for pair in _edges(line) for edge in pair]
    if not values:
        return []
    reach = max(abs(value) for value in values) * 5
    return values + [limit for _, limit in chart.limits if abs(limit) <= reach or not reach]


def _edges(line: Series) -> list[tuple[float, ...]]:
    spread = line.spread or [None] * len(line.values)
    pairs = zip(line.values, spread, strict=True)
    return [(v,) if s is None else (v - s, v, v + s) for v, s in pairs if v is not None]


def _widened(low: float, high: float) -> tuple[float, float]:
    """A range that can be drawn: differences that are rounding beside the values themselves are not blown up."""
    if high - low > 1e-4 * max(abs(low), abs(high)):
        return low, high
    room = max(abs(low), abs(high)) * 0.1 or 1.0
    return low - room, high + room


def _x_scale(iterations: Sequence[int]) -> Scale:
    low, high = iterations[0], iterations[-1]
    return Scale(low, high, LEFT, WIDTH - RIGHT) if high > low else Scale(low - 1, low + 1, LEFT, WIDTH - RIGHT)


def _y_scale(values: Sequence[float], *, zero: bool) -> Scale:
    low, high = min(values), max(values)
    if low > 0 and high > 200 * low:
        return Scale(low / 1.5, high * 1.5, HEIGHT - BOTTOM, TOP, log=True)
    low, high = _widened(min(low, 0.0), high or 1.0) if zero else _widened(low, high)
    margin = 0.06 * (high - low)
    return Scale(low if zero and low == 0 else low - margin, high + margin, HEIGHT - BOTTOM, TOP)


def _line(line: Series, index: int, iterations: Sequence[int], x: Scale, y: Scale) -> Html:
    """Band, line and points; a missing value interrupts the line."""
    shapes, color = [], f"s{index + 1}"
    for run in _unbroken(line, iterations):
        if line.spread is not None:
            upper = [(x(place), y(value + (spread or 0))) for place, value, spread in run]
            lower = [(x(place), y(_floor(value - (spread or 0), y))) for place, value, spread in run]
            # A band of no width would be invisible: a lone value gets a bar.
            shape = {"d": _path(upper + lower[::-1]) + "Z", "class_": f"band {color}"}
            shapes.append(tag("path", **shape, stroke="currentColor" if len(run) == 1 else None))
        shapes.append(tag("path", d=_path([(x(place), y(value)) for place, value, _ in run]), class_=f"line {color}"))
        if len(iterations) <= MARKED_POINTS or len(run) == 1:
            dots = (tag("circle", cx=f"{x(p):.1f}", cy=f"{y(v):.1f}", r=3, class_=f"dot {color}") for p, v, _ in run)
            shapes.extend(dots)
    return join(shapes)


def _floor(value: float, y: Scale) -> float:
    return max(value, y.low) if y.log else value


def _unbroken(line: Series, iterations: Sequence[int]) -> list[list[tuple[int, float, float | None]]]:
    runs: list[list[tuple[int, float, float | None]]] = [[]]
    for place, value, spread in zip(iterations, line.values, line.spread or [None] * len(line.values), strict=True):
        if value is None:
            runs.append([])
        else:
            runs[-1].append((place, value, spread))
    return [run for run in runs if run]


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _limit(value: float, y: Scale) -> Html | None:
    if not y.low <= value <= y.high:
        return None
    place = f"{y(value):.1f}"
    return tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=place, y2=place, class_="limit")


def _legend(chart: LineChart) -> Html | None:
    lines = [(f"s{index + 1}", _with_spread(line)) for index, line in enumerate(chart.series)]
    limits = [("dashed", f"{name}: {number(value)}{_percent_sign(chart)}") for name, value in chart.limits]
    plain = len(lines) == 1 and chart.series[0].spread is None
    entries = ([] if plain else lines) + limits
    return legend(entries) if entries else None


def _with_spread(line: Series) -> str:
    return line.name if line.spread is None else f"{line.name} ± {line.spread_name}"


def _texts(chart: LineChart) -> list[str]:
    return ["\n".join(_reading(line, index) for line in chart.series) for index in range(len(chart.iterations))]


def _reading(line: Series, index: int) -> str:
    spread = line.spread[index] if line.spread else None
    tail = "" if spread is None else f" ± {number(spread)}"
    return f"{line.name} {number(line.values[index])}{tail}"


def _description(chart: LineChart) -> str:
    return " ".join(_summary(line, chart) for line in chart.series)


def _summary(line: Series, chart: LineChart) -> str:
    there = [(value, place) for value, place in zip(line.values, chart.iterations, strict=True) if value is not None]
    if not there:
        return f"{line.name}: no values."
    (first, start), (last, end) = there[0], there[-1]
    low, high, unit = min(there), max(there), f" ({chart.unit})" if chart.unit else ""
    return (
        f"{line.name}{unit}: {number(first)} at {chart.axis} {start}, {number(last)} at {chart.axis} {end}; "
        f"lowest {number(low[0])} at {low[1]}, highest {number(high[0])} at {high[1]}."
    )
