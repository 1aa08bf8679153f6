"""Where the time went, and how much work it bought."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from flowgrpo.report.bar_chart import bar_chart
from flowgrpo.report.line_chart import LineChart, Series, line_chart
from flowgrpo.report.markup import Html, join, note, table, tag
from flowgrpo.report.numbers import duration, number, percent, present, usable
from flowgrpo.report.run_data import Row, RunData

MOST_STAGES = 8
STAGES = ("encode", "rollout", "decode", "reward_wait", "old", "update", "checkpoint", "other")
BESIDE = frozenset({"total", "scoring"})
"""Timed, but no stage: the whole iteration, and scorers at work while sampling goes on."""
WORK = (
    ("samples", "samples"),
    ("updates", "optimizer updates"),
    ("units/kept", "trained units"),
    ("forwards/sampling", "forwards: sampling"),
    ("forwards/trained", "forwards: trained"),
    ("forwards/old", "forwards: old policy"),
    ("forwards/reference", "forwards: reference"),
    ("decodes", "decodes"),
    ("scored", "scored samples"),
)


def time_section(run: RunData) -> Html:
    """Stacked stages per iteration, throughput, and counts of work."""
    stages = stage_names(run.timing)
    if not stages:
        return join([note("No iteration was timed yet."), _work_table(run)])
    iterations = [int(row["iteration"]) for row in run.timing]
    parts = {_title(name): [usable(row.get(f"time/{name}")) for row in run.timing] for name in stages[:MOST_STAGES]}
    charts = [bar_chart("Time per stage", iterations, parts, "s"), _throughput(run)]
    return join(
        [
            tag("div", *(chart for chart in charts if chart is not None), class_="charts"),
            _stage_table(run.timing, stages),
            _work_table(run),
        ]
    )


def stage_names(timing: Sequence[Row]) -> list[str]:
    """Stages that were timed: the known ones in the order of an iteration, then any other."""
    found = {key.removeprefix("time/") for row in timing for key in row if key.startswith("time/")}
    return [name for name in STAGES if name in found] + sorted(found - set(STAGES) - BESIDE)


def iteration_seconds(row: Row) -> float | None:
    """Seconds of one iteration: as recorded, or else the sum of its stages; None where none was timed."""
    there = present(usable(row.get(f"time/{name}")) for name in stage_names([row]))
    return usable(row.get("time/total")) or (sum(there) if there else None)


def training_seconds(run: RunData) -> float | None:
    """Training time of all parts of the run together, evaluation not counted."""
    return next((s for row in reversed(run.timing) if (s := usable(row.get("seconds"))) is not None), None)


def _throughput(run: RunData) -> Html | None:
    seconds = {int(row["iteration"]): iteration_seconds(row) for row in run.timing}
    rates = [
        samples / spent if samples is not None and (spent := seconds.get(iteration)) else None
        for iteration, samples in zip(run.iterations, run.column("samples"), strict=True)
    ]
    return line_chart(LineChart("Throughput", run.iterations, [Series("rate", rates)], "samples per second", True))


def _stage_table(timing: Sequence[Row], stages: Sequence[str]) -> Html:
    columns = {name: present(usable(row.get(f"time/{name}")) for row in timing) for name in stages}
    whole = sum(sum(values) for values in columns.values()) or 1.0
    rows = [
        (
            _title(name),
            percent(sum(values) / whole),
            duration(sum(values)),
            duration(median(values) if values else None),
        )
        for name, values in columns.items()
    ]
    scoring = sum(present(usable(row.get("time/scoring")) for row in timing))
    beside = note(f"Scorers worked for {duration(scoring)} beside these stages.") if scoring else None
    caption = "Time per stage over the whole run"
    return join([table(("stage", "share", "total", "median per iteration"), rows, caption), beside])


def _work_table(run: RunData) -> Html | None:
    rows = []
    for key, title in WORK:
        values = present(run.column(key))
        if values:
            rows.append((title, number(sum(values)), number(median(values))))
    return table(("work", "total", "median per iteration"), rows, "Counts of work") if rows else None


def _title(stage: str) -> str:
    return stage.replace("_", " ")
