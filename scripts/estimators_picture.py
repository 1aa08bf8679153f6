"""The picture of the estimators: where each lands around the exact ELBO, at three budgets, as an SVG file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flowgrpo.report.markup import Html, join, tag
from flowgrpo.report.numbers import Scale, tick_labels
from scripts.estimator_summary import Summary

PANELS = (2, 3, 12)
"""Budgets that are shown."""
WIDTH, LEFT, RIGHT = 720, 156, 60
ROW, HEAD, FOOT = 17, 26, 22
LABELS = {
    "one_step": "one step",
    "coupled": "coupled, as published",
    "coupled_independent": "same, masks independent",
    "uniform": "uniform, Bernoulli",
    "uniform_exact": "uniform, exact k",
    "independent_elbo": "two independent masks",
    "coupled_elbo": "complementary pair",
    "espo": "pairs, counts spread",
    "sdmc_2": "SDMC, 2 nodes",
    "sdmc_3": "SDMC, 3 nodes",
    "sdmc_2_floor": "SDMC, 2 nodes, floor",
    "sdmc_3_floor": "SDMC, 3 nodes, floor",
    "sdmc_2_bernoulli": "SDMC, 2 nodes, Bernoulli",
    "sdmc_3_bernoulli": "SDMC, 3 nodes, Bernoulli",
}
STYLE = """
:root { --page: #ffffff; --ink: #16181d; --quiet: #5b616e; --line: #e2e3e6; --zero: #8a8f99; --mark: #2a78d6; }
@media (prefers-color-scheme: dark) {
  :root { --page: #191b1f; --ink: #eceef2; --quiet: #a3a9b5; --line: #2c2f36; --zero: #7c828d; --mark: #6aabf7; }
}
rect { fill: var(--page); }
text { font: 11px system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; fill: var(--quiet); }
text.name { fill: var(--ink); }
text.head { fill: var(--ink); font-weight: 600; font-size: 12px; }
.grid { stroke: var(--line); } .zero { stroke: var(--zero); }
.std { stroke: var(--mark); stroke-width: 2.5; stroke-linecap: round; opacity: .55; }
.mean { fill: var(--mark); }
"""


def picture(rows: Iterable[Summary], budgets: Sequence[int] = PANELS) -> str:
    """One panel per budget; per estimator a dot at its bias and a bar of one standard deviation to both sides.

    Args:
        rows: at least one of a shown budget; others are left out.
        budgets: forwards of each panel, from top to bottom.

    Returns:
        An SVG file's text.

    Raises:
        ValueError: no row belongs to a panel.
    """
    given = list(rows)
    panels = [(budget, [row for row in given if row.forwards == budget]) for budget in budgets]
    shown = [row for _, found in panels for row in found]
    if not shown:
        raise ValueError(f"no estimator was measured at {', '.join(map(str, budgets))} forwards")
    reach = (min(row.bias - row.std for row in shown), max(row.bias + row.std for row in shown))
    x = Scale(min(reach[0], 0) - 0.2, max(reach[1], 0) + 0.2, LEFT, WIDTH - RIGHT)
    parts, top = [], 8.0
    for budget, found in panels:
        parts.append(_panel(budget, found, x, top))
        top += HEAD + ROW * len(found) + FOOT
    back = tag("rect", width=WIDTH, height=top)
    says = tag("title", "Estimate minus exact ELBO of every likelihood estimator: mean and standard deviation")
    box = {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {WIDTH} {top:g}", "role": "img"}
    return str(tag("svg", says, tag("style", Html(STYLE)), back, *parts, **box)) + "\n"


def _panel(budget: int, rows: Sequence[Summary], x: Scale, top: float) -> Html:
    first, last = top + HEAD, top + HEAD + ROW * len(rows)
    head = tag("text", f"{budget} forward passes: estimate − exact ELBO, nats", x=LEFT, y=top + 14, class_="head")
    side = tag("text", "rmse", x=WIDTH - 10, y=top + 14, text_anchor="end")
    ticks = x.ticks(8)
    lines = []
    for tick, label in zip(ticks, tick_labels(ticks), strict=True):
        place = f"{x(tick):.1f}"
        look = "zero" if abs(tick) < 1e-9 else "grid"
        lines.append(tag("line", x1=place, x2=place, y1=first, y2=last, class_=look))
        lines.append(tag("text", label, x=place, y=last + 13, text_anchor="middle"))
    return join([head, side, *lines, *(_row(row, x, first + ROW * (i + 0.5)) for i, row in enumerate(rows))])


def _row(row: Summary, x: Scale, y: float) -> Html:
    label, ends = LABELS.get(row.estimator, row.estimator), (row.bias - row.std, row.bias + row.std)
    says = tag("title", f"{label}: bias {row.bias:+.3f}, std {row.std:.3f}, rmse {row.rmse:.3f}")
    low, high = (f"{x(end):.1f}" for end in ends)
    return tag(
        "g",
        says,
        tag("text", label, x=LEFT - 8, y=y, dy="0.35em", text_anchor="end", class_="name"),
        tag("line", x1=low, x2=high, y1=y, y2=y, class_="std"),
        tag("circle", cx=f"{x(row.bias):.1f}", cy=y, r=3.5, class_="mean"),
        tag("text", f"{row.rmse:.2f}", x=WIDTH - 10, y=y, dy="0.35em", text_anchor="end"),
    )
