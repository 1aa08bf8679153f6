"""What all charts share: the figure around them, the axes, and the values that a pointer or the arrow keys bring up.

A chart is drawn at a fixed size in its own units and scales with its column, so that its text stays legible from a
phone to a desktop. Values to show are in the attribute `data-tip` (JSON), read by the page's one small script.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flowgrpo.report.markup import Html, join, note, tag
from flowgrpo.report.numbers import Scale, tick_labels, whole_ticks

WIDTH, HEIGHT = 380, 204
LEFT, RIGHT, TOP, BOTTOM = 48, 8, 20, 34


@dataclass(frozen=True, slots=True)
class Tip:
    """Values on a grid of places: `texts[row][column]` is shown near (`xs[column]`, `ys[row]`)."""

    columns: Sequence[str]
    xs: Sequence[float]
    texts: Sequence[Sequence[str]]
    ys: Sequence[float] = ()
    rows: Sequence[str] = ()

    def as_json(self) -> str:
        values = {
            "columns": list(self.columns),
            "xs": [round(x, 1) for x in self.xs],
            "texts": [list(row) for row in self.texts],
            "ys": [round(y, 1) for y in self.ys],
            "rows": list(self.rows),
        }
        return json.dumps(values, separators=(",", ":"), ensure_ascii=False)


def bins(iterations: Sequence[int], most: int) -> list[range]:
    """Consecutive index ranges of equal length, at most `most`, that cover all iterations (the last may be shorter)."""
    size = max(1, -(-len(iterations) // most))
    return [range(start, min(start + size, len(iterations))) for start in range(0, len(iterations), size)]


def bin_labels(places: Sequence[int], groups: Iterable[range], noun: str = "iteration") -> list[str]:
    """ "iteration 7" or "iterations 7 to 9" for each bin."""
    ends = ((places[group[0]], places[group[-1]]) for group in groups)
    return [f"{noun} {first}" if first == last else f"{noun}s {first} to {last}" for first, last in ends]


def figure(title: str, drawing: Html, *, now: str = "", legend: Html | None = None, notes: Iterable[str] = ()) -> Html:
    """A titled chart with its latest value, legend and remarks."""
    caption = tag("figcaption", tag("span", title), tag("span", now, class_="now") if now else None)
    return tag("figure", caption, legend, drawing, *(note(line) for line in notes if line), class_="chart")


def drawing(title: str, description: str, tip: Tip, *parts: object, height: float = HEIGHT) -> Html:
    """The SVG element: named and described for screen readers, reachable by keyboard."""
    return tag(
        "svg",
        tag("title", title),
        tag("desc", description),
        *parts,
        tag("line", class_="cross", x1=0, x2=0, y1=TOP, y2=height - BOTTOM, visibility="hidden"),
        viewBox=f"0 0 {WIDTH} {height:g}",
        role="img",
        tabindex="0",
        data_tip=tip.as_json(),
    )


def legend(entries: Iterable[tuple[str, str]]) -> Html:
    """Named swatches: pairs of (class of the swatch, label)."""
    items = (tag("li", tag("i", class_=f"swatch {kind}"), label) for kind, label in entries)
    return tag("ul", *items, class_="legend")


def x_axis(scale: Scale, low: int, high: int, label: str, bottom: float) -> Html:
    """Baseline, whole-number ticks and the axis title below them."""
    ticks = whole_ticks(low, high)
    marks = (
        tag("text", tick, x=f"{scale(tick):.1f}", y=bottom + 13, text_anchor=_anchor(scale, tick), class_="tick")
        for tick in ticks
    )
    base = tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=bottom, y2=bottom, class_="axis")
    title = tag("text", label, x=(LEFT + WIDTH - RIGHT) / 2, y=bottom + 28, text_anchor="middle", class_="label")
    return join([base, *marks, title])


def binned_x_axis(iterations: Sequence[int], columns: Scale, count: int, bottom: float) -> Html:
    """The axis below `count` columns: the first and the last iteration lie under the middles of the outer ones."""
    low, high = iterations[0], iterations[-1]
    if low == high:
        return x_axis(Scale(low - 1, low + 1, columns(0), columns(count)), low, high, "iteration", bottom)
    return x_axis(Scale(low, high, columns(0.5), columns(count - 0.5)), low, high, "iteration", bottom)


def y_axis(scale: Scale, unit: str) -> Html:
    """Horizontal grid lines with their values, and the unit above the axis."""
    ticks = scale.ticks()
    lines = []
    for tick, label in zip(ticks, tick_labels(ticks), strict=True):
        y = f"{scale(tick):.1f}"
        lines.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid"))
        lines.append(tag("text", label, x=LEFT - 6, y=y, dy="0.32em", text_anchor="end", class_="tick"))
    return join([*lines, tag("text", unit, x=2, y=TOP - 9, class_="label")])


def _anchor(scale: Scale, tick: float) -> str:
    """Keeps the last label inside the drawing."""
    return "end" if scale(tick) > WIDTH - RIGHT - 12 else "middle"
