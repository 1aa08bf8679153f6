"""Drawings of a benchmark's page: a radar of the dimensions, and bars with intervals. They need no script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from flowgrpo.report.chart_frame import legend
from flowgrpo.report.markup import Html, join, tag
from flowgrpo.report.numbers import Scale, percent

MOST_SERIES = 8
"""Colours of the stylesheet."""
SIZE, RADIUS = 380, 118
ROW, LEFT, RIGHT = 15, 128, 52
MARGIN = 46
"""Room beside the radar for the longest name of a dimension."""
RINGS = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class Shares:
    """One model: a share in [0, 1] per name, with the ends of its 95 % interval; None where nothing was judged."""

    model: str
    values: Sequence[float | None]
    lows: Sequence[float | None]
    highs: Sequence[float | None]


def radar(title: str, names: Sequence[str], series: Sequence[Shares]) -> Html | None:
    """One axis per name from 0 in the middle to 100 % at the rim; None for fewer than three names."""
    if len(names) < 3:
        return None
    count = len(names)
    rings = (tag("polygon", points=_corners([ring] * count), class_="axis", fill="none") for ring in RINGS)
    spokes = (_spoke(name, place, count) for place, name in enumerate(names))
    shapes = (_shape(shares, place) for place, shares in enumerate(series[:MOST_SERIES], start=1))
    height = SIZE * 0.8
    says = tag("title", title)
    box = f"{-MARGIN} {(SIZE - height) / 2:.0f} {SIZE + 2 * MARGIN} {height:.0f}"
    return _figure(title, tag("svg", says, *rings, *spokes, *shapes, viewBox=box, role="img"), series)


def bars(title: str, names: Sequence[str], series: Sequence[Shares]) -> Html:
    """A group of bars per name, from 0 to 100 %, with the 95 % interval as a line."""
    shown = series[:MOST_SERIES]
    group = ROW * len(shown) + 8
    x = Scale(0, 1, LEFT, SIZE - RIGHT)
    rows = []
    for place, name in enumerate(names):
        top = place * group + 4
        middle = top + ROW * len(shown) / 2
        rows.append(tag("text", name, x=LEFT - 6, y=middle, dy="0.35em", text_anchor="end", class_="on"))
        rows += [_bar(shares, place, top + ROW * i, i + 1, x) for i, shares in enumerate(shown)]
    height = group * len(names) + 4
    drawn = tag("svg", tag("title", title), *rows, viewBox=f"0 0 {SIZE} {height}", role="img")
    return _figure(title, drawn, series)


def _figure(title: str, drawn: Html, series: Sequence[Shares]) -> Html:
    shown = series[:MOST_SERIES]
    names = legend((f"s{i}", shares.model) for i, shares in enumerate(shown, start=1)) if len(shown) > 1 else None
    return tag("figure", tag("figcaption", tag("span", title)), names, drawn, class_="chart")


def _at(share: float, place: int, count: int) -> tuple[float, float]:
    angle = 2 * math.pi * place / count - math.pi / 2
    return SIZE / 2 + RADIUS * share * math.cos(angle), SIZE / 2 + RADIUS * share * math.sin(angle)


def _corners(shares: Sequence[float]) -> str:
    corners = (_at(share, place, len(shares)) for place, share in enumerate(shares))
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)


def _spoke(name: str, place: int, count: int) -> Html:
    x, y = _at(1, place, count)
    away, down = _at(1.08, place, count)
    side = "middle" if abs(away - SIZE / 2) < RADIUS / 4 else "start" if away > SIZE / 2 else "end"
    line = tag("line", x1=SIZE / 2, y1=SIZE / 2, x2=f"{x:.1f}", y2=f"{y:.1f}", class_="grid")
    return join([line, tag("text", name, x=f"{away:.1f}", y=f"{down:.1f}", dy="0.35em", text_anchor=side)])


def _shape(shares: Shares, place: int) -> Html:
    points = _corners([value or 0.0 for value in shares.values])
    parts = (tag("polygon", points=points, class_=look) for look in ("band", "line"))
    return tag("g", *parts, class_=f"s{place}")


def _bar(shares: Shares, place: int, top: float, number: int, x: Scale) -> Html:
    value, low, high = shares.values[place], shares.lows[place], shares.highs[place]
    middle = top + ROW / 2
    says = percent(value)
    written = tag("text", says, x=SIZE - RIGHT + 6, y=middle, dy="0.35em")
    if value is None:
        return written
    size = {"x": LEFT, "y": f"{top + 1.5:.1f}", "width": f"{x(value) - LEFT:.1f}", "height": ROW - 3}
    parts = [tag("rect", tag("title", f"{shares.model}: {says}"), **size, class_=f"bar s{number}")]
    if low is not None and high is not None:
        ends = {"x1": f"{x(low):.1f}", "x2": f"{x(high):.1f}", "y1": middle, "y2": middle}
        parts.append(tag("line", **ends, stroke="var(--ink)", stroke_width="1.5"))
    return join([*parts, written])
