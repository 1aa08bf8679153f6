"""What training changed: base against final on every evaluation set, with intervals and by category."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flowgrpo.report.chart_frame import legend
from flowgrpo.report.line_chart import LineChart, Series, line_chart
from flowgrpo.report.markup import Html, join, note, table, tag
from flowgrpo.report.numbers import MISSING, Scale, number, typeset, usable
from flowgrpo.report.run_data import Row, RunData, as_mapping

BAR_WIDTH, BAR_HEIGHT = 160, 20


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with the half width of its 95 % interval over `count` scores."""

    mean: float
    ci95: float | None
    count: int | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Base and latest evaluation of one scorer on one prompt set; `latest` is final only where `finished`."""

    prompts: str
    scorer: str
    base: Row | None
    latest: Row | None
    finished: bool
    share: bool
    """All means lie in [0, 1]: they are shown in percent, and a gain in points (hundredths)."""

    @property
    def name(self) -> str:
        return f"{self.prompts} · {self.scorer}"

    @property
    def latest_name(self) -> str:
        if self.finished or self.latest is None:
            return "final"
        return f"iteration {self.latest.get('iteration', '?')}"


def comparisons(run: RunData) -> tuple[Comparison, ...]:
    """One comparison per (prompt set, scorer), in order of first appearance.

    Of several base rows the best counts: the base is compared at its best guidance. Of the others the latest final
    row, or else the latest row of all.
    """
    pairs = dict.fromkeys((str(row.get("set")), str(row.get("scorer"))) for row in run.evaluations)
    return tuple(_comparison(run, prompts, scorer) for prompts, scorer in pairs)


def _comparison(run: RunData, prompts: str, scorer: str) -> Comparison:
    rows = [row for row in run.evaluations if (str(row.get("set")), str(row.get("scorer"))) == (prompts, scorer)]
    rows = [row for row in rows if estimate(row) is not None]
    bases = {row.get("guidance_scale"): row for row in rows if row.get("label") == "base"}
    final = [row for row in rows if row.get("label") == "final"]
    later = final or [row for row in rows if row.get("label") != "base"]
    means = [e.mean for row in rows for e in (estimate(row), *map(estimate, _categories(row).values())) if e]
    return Comparison(
        prompts=prompts,
        scorer=scorer,
        base=max(bases.values(), key=lambda row: float(row["mean"]), default=None),
        latest=later[-1] if later else None,
        finished=bool(final),
        share=all(0 <= value <= 1 for value in means),
    )


def estimate(row: Any) -> Estimate | None:
    """The mean of an evaluation row or of one of its categories; None without a finite one."""
    values = as_mapping(row)
    middle, count = usable(values.get("mean")), usable(values.get("n"))
    if middle is None:
        return None
    return Estimate(middle, usable(values.get("ci95")), None if count is None else int(count))


def gain(base: Estimate | None, latest: Estimate | None) -> Estimate | None:
    """Difference of two means; its interval takes them as independent."""
    if base is None or latest is None:
        return None
    known = base.ci95 is not None and latest.ci95 is not None
    return Estimate(latest.mean - base.mean, math.hypot(base.ci95 or 0, latest.ci95 or 0) if known else None, None)


def level_text(value: Estimate | None, *, share: bool) -> str:
    """ "58.9 % ± 4.2" for shares, "21.31 ± 0.05" otherwise."""
    if value is None:
        return MISSING
    if share:
        return f"{100 * value.mean:.1f} %" + ("" if value.ci95 is None else f" ± {100 * value.ci95:.1f}")
    return number(value.mean) + ("" if value.ci95 is None else f" ± {number(value.ci95)}")


def gain_chip(value: Estimate | None, *, share: bool) -> Html:
    """The gain with its interval; its look says whether the interval excludes 0, its tooltip does so in words."""
    if value is None:
        return Html(MISSING)
    factor, unit = (100, " points") if share else (1, "")
    shown = typeset(f"{factor * value.mean:+.1f}") if share else f"{'+' if value.mean > 0 else ''}{number(value.mean)}"
    interval = "" if value.ci95 is None else f" ± {factor * value.ci95:.1f}" if share else f" ± {number(value.ci95)}"
    clear = value.ci95 is not None and abs(value.mean) > value.ci95
    kind = ("up" if value.mean > 0 else "down") if clear else "flat"
    says = "the 95 % interval excludes 0" if clear else "not distinguishable from 0 at 95 %"
    return tag("span", f"{shown}{interval}{unit}", class_=f"gain {kind}", title=says)


def evaluation_section(run: RunData) -> Html:
    """Tables per set and scorer, and curves where evaluations were made during training."""
    found = comparisons(run)
    if not found:
        return note("Nothing was evaluated yet.")
    names = legend([("base", "base"), ("latest", "trained")])
    return join(
        [
            note(
                "Whiskers and ± are 95 % intervals of the mean. The interval of a gain takes the two evaluations as "
                "independent, which is wider than pairing them by prompt and seed would give. A point is a hundredth."
            ),
            names,
            *(_comparison_table(pair) for pair in found),
            _curves(run, found),
        ]
    )


def _comparison_table(pair: Comparison) -> Html:
    categories = dict.fromkeys([*_categories(pair.base), *_categories(pair.latest)])
    if len(categories) == 1:
        categories = {}
    rows = [_row("all prompts", pair.base, pair.latest, pair)]
    for name in categories:
        rows.append(_row(str(name), _categories(pair.base).get(name), _categories(pair.latest).get(name), pair))
    head = ("category", "base", pair.latest_name, "gain", "0 to 100 %" if pair.share else "range", "n")
    return join([tag("h3", pair.name), _conditions(pair), table(head, rows, f"{pair.name}, by category", titled=True)])


def _conditions(pair: Comparison) -> Html:
    parts = []
    for name, row in (("base", pair.base), (pair.latest_name, pair.latest)):
        if row is None:
            parts.append(f"{name}: not evaluated")
        else:
            parts.append(f"{name}: {row.get('steps', '?')} ODE steps, guidance {row.get('guidance_scale', '?')}")
    differ = pair.base and pair.latest and pair.base.get("steps") != pair.latest.get("steps")
    return note("; ".join(parts), ". The numbers of steps differ: this is no fair comparison." if differ else ".")


def _row(name: str, base: Any, latest: Any, pair: Comparison) -> tuple[object, ...]:
    before, after = estimate(base), estimate(latest)
    counts = {str(value.count) for value in (before, after) if value and value.count is not None}
    return (
        name,
        level_text(before, share=pair.share),
        level_text(after, share=pair.share),
        gain_chip(gain(before, after), share=pair.share),
        _whiskers(before, after, _range(pair)),
        " / ".join(sorted(counts)) or MISSING,
    )


def _range(pair: Comparison) -> tuple[float, float]:
    if pair.share:
        return 0.0, 1.0
    rows = [row for row in (pair.base, pair.latest) if row is not None]
    found = [e for row in rows for e in (estimate(row), *map(estimate, _categories(row).values())) if e]
    low = min(e.mean - (e.ci95 or 0) for e in found)
    high = max(e.mean + (e.ci95 or 0) for e in found)
    return (low, high) if high > low else (low - 1, high + 1)


def _whiskers(base: Estimate | None, latest: Estimate | None, limits: tuple[float, float]) -> Html:
    scale = Scale(*limits, 6, BAR_WIDTH - 6)
    marks = [tag("line", x1=6, x2=BAR_WIDTH - 6, y1=10, y2=10, class_="grid")]
    for value, kind, y in ((base, "base", 6), (latest, "latest", 14)):
        if value is None:
            continue
        reach = value.ci95 or 0.0
        ends = (scale(max(limits[0], value.mean - reach)), scale(min(limits[1], value.mean + reach)))
        marks.append(tag("line", x1=f"{ends[0]:.1f}", x2=f"{ends[1]:.1f}", y1=y, y2=y, class_=f"whisker {kind}"))
        marks.append(tag("circle", cx=f"{scale(value.mean):.1f}", cy=y, r=3.5, class_=f"point {kind}"))
    size = {"viewBox": f"0 0 {BAR_WIDTH} {BAR_HEIGHT}", "width": BAR_WIDTH, "height": BAR_HEIGHT}
    return tag("svg", *marks, **size, class_="whiskers", aria_hidden="true")


def _curves(run: RunData, found: Sequence[Comparison]) -> Html | None:
    charts = [chart for chart in (_curve(run, pair) for pair in found) if chart is not None]
    return tag("div", *charts, class_="charts") if charts else None


def _curve(run: RunData, pair: Comparison) -> Html | None:
    """Scores over training, drawn once there is an evaluation between the first and the last."""
    points: dict[int, Estimate] = {}
    for row in run.evaluations:
        place, value = usable(row.get("iteration")), estimate(row)
        if (str(row.get("set")), str(row.get("scorer"))) != (pair.prompts, pair.scorer) or value is None:
            continue
        if place is not None and (row.get("label") != "base" or row is pair.base):
            points[int(place)] = value
    if len(points) < 3:
        return None
    factor = 100.0 if pair.share else 1.0
    ordered = [points[place] for place in sorted(points)]
    series = Series(
        "mean", [factor * e.mean for e in ordered], [factor * (e.ci95 or 0) for e in ordered], "95 % interval"
    )
    return line_chart(LineChart(pair.name, sorted(points), [series], "%" if pair.share else "score"))


def _categories(row: Row | None) -> Row:
    return as_mapping(as_mapping(row).get("by_category"))
