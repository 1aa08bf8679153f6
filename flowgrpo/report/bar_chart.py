"""Stacked columns over iterations: what an amount is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flowgrpo.report.chart_frame import (
    BOTTOM,
    HEIGHT,
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
    y_axis,
)
from flowgrpo.report.markup import Html, join, tag
from flowgrpo.report.numbers import Scale, mean, number

MOST_BARS = 40


def bar_chart(
    title: str, iterations: Sequence[int], parts: Mapping[str, Sequence[float | None]], unit: str
) -> Html | None:
    """Columns that add up the parts; None without a positive value. More than 40 iterations are averaged in bins.

    Args:
        title: what is drawn.
        iterations: places on the x axis, increasing.
        parts: name -> amount per iteration, from bottom to top; at most eight.
        unit: written above the y axis.
    """
    groups = bins(iterations, MOST_BARS)
    amounts = {name: [mean(values[i] for i in group) or 0.0 for group in groups] for name, values in parts.items()}
    totals = [sum(column) for column in zip(*amounts.values(), strict=True)]
    if not any(totals):
        return None
    x, y = Scale(0, len(groups), LEFT, WIDTH - RIGHT), Scale(0, max(totals) * 1.05, HEIGHT - BOTTOM, TOP)
    labels = bin_labels(iterations, groups)
    texts = [_text(amounts, column, total) for column, total in enumerate(totals)]
    size = len(groups[0])
    body = drawing(
        title,
        f"Mean per iteration in {unit}: " + "; ".join(f"{name} {number(mean(v))}" for name, v in amounts.items()) + ".",
        Tip(labels, [x(column + 0.5) for column in range(len(groups))], [texts]),
        y_axis(y, unit),
        *(_column(amounts, column, x, y) for column in range(len(groups))),
        binned_x_axis(iterations, x, len(groups), HEIGHT - BOTTOM),
    )
    names = legend((f"s{index + 1}", name) for index, name in enumerate(amounts))
    remark = f"Each bar is the mean of {size} iterations." if size > 1 else ""
    return figure(title, body, now=f"mean {number(mean(totals))} {unit}", legend=names, notes=[remark])


def _column(amounts: Mapping[str, Sequence[float]], column: int, x: Scale, y: Scale) -> Html:
    width = x(1) - x(0)
    gap, base, rects = min(2.0, width * 0.2), 0.0, []
    for index, values in enumerate(amounts.values()):
        top = base + values[column]
        height = y(base) - y(top)
        if height > 0:
            place = {"x": f"{x(column) + gap / 2:.1f}", "y": f"{y(top):.2f}", "width": f"{width - gap:.1f}"}
            rects.append(tag("rect", **place, height=f"{max(0.2, height - 0.6):.2f}", class_=f"bar s{index + 1}"))
        base = top
    return join(rects)


def _text(amounts: Mapping[str, Sequence[float]], column: int, total: float) -> str:
    lines = (f"{name} {number(values[column])}" for name, values in amounts.items())
    return "\n".join([*lines, f"total {number(total)}"])
