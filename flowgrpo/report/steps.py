"""The policy by sampling step: ratio − 1, weight in the loss, the gap to the rollout, and clipping."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median, pstdev

from flowgrpo.report.heat_chart import HeatChart, heat_chart
from flowgrpo.report.line_chart import LineChart, Series, line_chart
from flowgrpo.report.markup import Html, join, note, table, tag
from flowgrpo.report.numbers import largest_magnitude, mean, number, percent, present, scientific, usable
from flowgrpo.report.run_data import RunData, as_mapping

Matrix = list[list[float | None]]

HEAT = (
    ("ratio_minus_1_mean", "Ratio − 1, mean over samples"),
    ("ratio_minus_1_std", "Ratio − 1, std over samples"),
    ("ratio_minus_1_max", "Ratio − 1, largest magnitude"),
    ("rollout_gap", "Rollout gap by step"),
)
TABLE = (
    ("ratio_minus_1_mean", "ratio − 1, mean", scientific),
    ("ratio_minus_1_std", "std", scientific),
    ("ratio_minus_1_max", "largest", scientific),
    ("rollout_gap", "rollout gap, largest", scientific),
    ("clip_low", "clipped below", percent),
    ("clip_high", "clipped above", percent),
    ("kl", "KL", number),
    ("std", "std of the step", number),
    ("weight", "weight", number),
)
LARGEST = frozenset({"ratio_minus_1_max", "rollout_gap"})


def trained_steps(run: RunData) -> list[int]:
    """All sampling steps that were trained in some iteration, in order."""
    found = {int(step) for row in run.metrics for step in present(map(usable, _list(row, "step")))}
    return sorted(found)


def step_matrix(run: RunData, key: str, steps: Sequence[int]) -> Matrix:
    """Values of a per-step key, [step][iteration]; None where a step was not trained or the value is not finite."""
    columns = []
    for row in run.metrics:
        pairs = zip(map(usable, _list(row, "step")), map(usable, _list(row, key)), strict=False)
        columns.append({int(step): value for step, value in pairs if step is not None})
    return [[column.get(step) for column in columns] for step in steps]


def policy_section(run: RunData) -> Html:
    """Heat strips by step, the rollout gap against its limit, and a table of exact numbers."""
    steps = trained_steps(run)
    if not steps:
        return note("No per-step values were logged yet.")
    matrices = {key: step_matrix(run, key, steps) for key in dict.fromkeys([*dict(HEAT), *(k for k, *_ in TABLE)])}
    charts = [_weight_chart(steps, matrices["weight"]), _ratio_chart(steps, matrices)]
    charts += [_gap_chart(run, matrices["rollout_gap"])]
    charts += [heat_chart(HeatChart(title, run.iterations, steps, matrices[key])) for key, title in HEAT]
    return join(
        [
            note(_on_policy(run), " ", _clip_range(run)),
            tag("div", *(chart for chart in charts if chart is not None), class_="charts"),
            _table(steps, matrices),
        ]
    )


def _list(row: object, key: str) -> list[object]:
    values = as_mapping(as_mapping(row).get("per_step")).get(key)
    return values if isinstance(values, list) else []


def _gap_chart(run: RunData, gaps: Matrix) -> Html | None:
    largest = [largest_magnitude(column) for column in zip(*gaps, strict=True)]
    ranges = present(usable(run.setting("objective", key)) for key in ("clip_low", "clip_high"))
    limits = [("a tenth of the clip range", min(ranges) / 10)] if ranges else []
    line = Series("largest over steps", largest)
    return line_chart(LineChart("Rollout gap", run.iterations, [line], "|log-prob difference|", True, limits))


def _weight_chart(steps: Sequence[int], weights: Matrix) -> Html | None:
    """Mean loss weight of each step; a band where it changed during the run."""
    means, spread = [mean(row) for row in weights], [_deviation(row) for row in weights]
    changed = max(present(spread), default=0.0) > 1e-6 * max(present(means), default=0.0)
    line = Series("mean over iterations", means, spread if changed else None)
    return line_chart(LineChart("Loss weight by step", steps, [line], "weight of a unit", True, axis="sampling step"))


def _ratio_chart(steps: Sequence[int], matrices: dict[str, Matrix]) -> Html | None:
    """Mean and spread over samples of ratio − 1, averaged over iterations: a mean beside 0 shows a biased ratio."""
    means = [mean(row) for row in matrices["ratio_minus_1_mean"]]
    spread = [mean(row) for row in matrices["ratio_minus_1_std"]]
    if not any(present(spread)):
        return None
    line = Series("mean over samples", means, spread)
    limits = [("unbiased", 0.0)]
    return line_chart(LineChart("Ratio − 1 by step", steps, [line], "ratio − 1", limits=limits, axis="sampling step"))


def _deviation(values: Sequence[float | None]) -> float | None:
    there = present(values)
    return pstdev(there) if there else None


def _on_policy(run: RunData) -> str:
    flags = [row["on_policy"] for row in run.metrics if isinstance(row.get("on_policy"), bool)]
    if not flags:
        return "Whether the iterations were on-policy was not logged."
    return f"{sum(flags)} of {len(flags)} iterations were on-policy."


def _clip_range(run: RunData) -> str:
    low, high = (usable(run.setting("objective", key)) for key in ("clip_low", "clip_high"))
    if low is None or high is None:
        return ""
    name = run.setting("objective", "ratio")
    return f"The clip range of the {name} ratio is −{scientific(low)} to +{scientific(high)}."


def _table(steps: Sequence[int], matrices: dict[str, Matrix]) -> Html:
    shown = [
        (key, title, write) for key, title, write in TABLE if any(v is not None for row in matrices[key] for v in row)
    ]
    rows = [
        (f"step {step}", *(write(_over_run(key, matrices[key][index])) for key, _, write in shown))
        for index, step in enumerate(steps)
    ]
    caption = "Over all iterations that trained the step: medians; means of clipping; maxima where it says largest"
    return table(("", *(title for _, title, _ in shown)), rows, caption)


def _over_run(key: str, values: Sequence[float | None]) -> float | None:
    there = present(values)
    if key in LARGEST or not there:
        return largest_magnitude(there)
    return mean(there) if key.startswith("clip") else median(there)
