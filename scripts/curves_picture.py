"""Curves of benchmark runs over seconds, as an SVG file: one panel per quantity, one line per run, named at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flowgrpo.report.markup import Html, join, tag
from flowgrpo.report.numbers import Scale, tick_labels

WIDTH, LEFT, RIGHT, HEAD, BODY, FOOT = 720, 52, 150, 30, 210, 40
NAME_GAP = 13.0
"""Pixels between the names of two lines that end close to each other."""
COLOURS = (
    *("#2a78d6", "#d1495b", "#2f9e6e", "#b07d1a", "#8458c7", "#158a9c"),
    *("#c2568f", "#6b7a2a", "#7a5c46", "#4f6d8f", "#8a8f99"),
)
STYLE = """
:root { --page: #ffffff; --ink: #16181d; --quiet: #5b616e; --line: #e2e3e6; }
@media (prefers-color-scheme: dark) {
  :root { --page: #191b1f; --ink: #eceef2; --quiet: #a3a9b5; --line: #2c2f36; }
}
rect { fill: var(--page); }
text { font: 11px system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; fill: var(--quiet); }
text.head { fill: var(--ink); font-weight: 600; font-size: 12px; }
.grid { stroke: var(--line); } polyline { fill: none; stroke-width: 2; stroke-linejoin: round; }
"""


@dataclass(frozen=True, slots=True)
class Curve:
    """One run's line: at least two points (seconds, value), in order."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Panel:
    """One quantity of all runs; a run has the same colour in every panel."""

    title: str
    curves: Sequence[Curve]


def picture(panels: Sequence[Panel], says: str) -> str:
    """Panels below each other over one axis of seconds.

    Args:
        panels: at least one, each with at least one curve.
        says: what is drawn, for who cannot see it.

    Returns:
        An SVG file's text.

    Raises:
        ValueError: there is nothing to draw.
    """
    if not panels or not all(panel.curves for panel in panels):
        raise ValueError("no run has been measured")
    names = list(dict.fromkeys(curve.name for panel in panels for curve in panel.curves))
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    last = max(second for panel in panels for curve in panel.curves for second, _ in curve.points)
    x, each = Scale(0, last, LEFT, WIDTH - RIGHT), HEAD + BODY + FOOT
    parts = [_panel(panel, x, i * each + HEAD, colours) for i, panel in enumerate(panels)]
    height = each * len(panels)
    box = {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {WIDTH} {height}", "role": "img"}
    back = tag("rect", width=WIDTH, height=height)
    return str(tag("svg", tag("title", says), tag("style", Html(STYLE)), back, *parts, **box)) + "\n"


def _panel(panel: Panel, x: Scale, top: float, colours: dict[str, str]) -> Html:
    values = [value for curve in panel.curves for _, value in curve.points]
    room = 0.05 * (max(values) - min(values)) or 0.5
    y = Scale(min(values) - room, max(values) + room, top + BODY, top)
    head = tag("text", panel.title, x=LEFT, y=top - 10, class_="head")
    foot = tag("text", "seconds of training", x=(LEFT + WIDTH - RIGHT) / 2, y=top + BODY + 30, text_anchor="middle")
    lines = [_line(curve, x, y, colours[curve.name]) for curve in panel.curves]
    return join([head, foot, *_grid(x, y, top), *lines, *_names(panel.curves, y, colours)])


def _grid(x: Scale, y: Scale, top: float) -> list[Html]:
    parts = []
    for tick, label in zip(y.ticks(), tick_labels(y.ticks()), strict=True):
        place = f"{y(tick):.1f}"
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=place, y2=place, class_="grid"))
        parts.append(tag("text", label, x=LEFT - 6, y=place, dy="0.35em", text_anchor="end"))
    for tick, label in zip(x.ticks(), tick_labels(x.ticks()), strict=True):
        parts.append(tag("text", label, x=f"{x(tick):.1f}", y=top + BODY + 15, text_anchor="middle"))
    return parts


def _line(curve: Curve, x: Scale, y: Scale, colour: str) -> Html:
    points = " ".join(f"{x(second):.1f},{y(value):.1f}" for second, value in curve.points)
    return tag("polyline", tag("title", curve.name), points=points, style=f"stroke: {colour}")


def _names(curves: Sequence[Curve], y: Scale, colours: dict[str, str]) -> list[Html]:
    """Names beside the ends of the lines, from the top down, moved apart where they would overlap."""
    parts, free = [], float("-inf")
    for curve in sorted(curves, key=lambda curve: y(curve.points[-1][1])):
        place = max(y(curve.points[-1][1]), free)
        free = place + NAME_GAP
        look = {"dy": "0.35em", "style": f"fill: {colours[curve.name]}"}
        parts.append(tag("text", curve.name, x=WIDTH - RIGHT + 8, y=f"{place:.1f}", **look))
    return parts


def smoothed(values: Sequence[float], width: int) -> list[float]:
    """Trailing means over up to `width` values, one per value."""
    windows = (values[max(0, i - width + 1) : i + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]
