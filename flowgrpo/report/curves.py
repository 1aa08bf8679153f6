"""Rewards, optimisation and guard rails over iterations. `PLOTS` names every key with a chart of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from flowgrpo.report.line_chart import LineChart, Series, line_chart
from flowgrpo.report.markup import Html, join, note, table, tag
from flowgrpo.report.numbers import mean, number, percent, usable
from flowgrpo.report.run_data import RunData

SMOOTHED_OVER = 10
SMOOTHED_SHARE = 20
"""The trailing mean of a reward covers a twentieth of the run, at least ten iterations."""
SCORER_MEAN = re.compile(r"reward/(?P<name>.+)/mean")
COUNTED = ("samples", "updates", "units/kept", "decodes", "scored", "steps")


@dataclass(frozen=True, slots=True)
class Plot:
    """One chart: logged keys with the name of their line, and how to show them."""

    title: str
    lines: tuple[tuple[str, str], ...]
    unit: str = ""
    factor: float = 1.0
    zero: bool = False
    limit: tuple[str, str, str] | None = None
    """(name, recipe section, key) of a dashed line."""


REWARD_PLOTS = (
    Plot("Spread within a group", (("reward/group_std", "mean std of a group"),), "reward", zero=True),
    Plot("Groups without spread", (("reward/zero_std_groups", "groups"),), "% of groups", 100, zero=True),
    Plot(
        "Samples that could not be scored",
        (("reward/invalid", "invalid"), ("reward/dropped", "in dropped groups")),
        "% of samples",
        100,
        zero=True,
        limit=("the run stops above", "reward", "max_invalid_share"),
    ),
    Plot("Advantage", (("advantage/abs_mean", "mean magnitude"),), "mean |advantage|", zero=True),
)
UPDATE_PLOTS = (
    Plot("Loss", (("loss", "loss"),), "loss"),
    Plot("KL to the reference", (("kl", "KL"),), "KL", zero=True),
    Plot(
        "Gradient norm", (("grad_norm", "norm"),), "L2 norm", zero=True, limit=("clipped to", "train", "max_grad_norm")
    ),
    Plot(
        "Largest |ratio − 1|",
        (("ratio_minus_1/max", "largest over units"),),
        "|ratio − 1|",
        zero=True,
        limit=("upper clip range", "objective", "clip_high"),
    ),
    Plot("Clipped units", (("clip/low", "below"), ("clip/high", "above")), "% of units", 100, zero=True),
    Plot("Learning rate", (("lr", "rate"),), "rate", zero=True),
)
PLOTS = REWARD_PLOTS + UPDATE_PLOTS


def reward_section(run: RunData) -> Html:
    """The combined reward, each scorer and its components with spread, and what the groups had to learn from."""
    if not run.metrics:
        return note("No iteration has finished, so there is no reward yet.")
    scorers = [match["name"] for match in map(SCORER_MEAN.fullmatch, run.keys) if match]
    charts = [
        _reward_chart(run, "reward/mean", "Combined reward"),
        *(_reward_chart(run, f"reward/{name}/mean", _scorer_title(run, name)) for name in scorers),
        *(plot_chart(run, plot) for plot in REWARD_PLOTS),
    ]
    control = run.setting("train", "shuffle_rewards")
    return join(
        [
            note(
                "Mean over the samples of an iteration; the band is one standard deviation over samples. Prompts "
                "differ from iteration to iteration, so single iterations are noisy."
            ),
            note("Control run: rewards were permuted across samples before crediting.") if control else None,
            _grid(charts, "No reward was logged."),
        ]
    )


def optimisation_section(run: RunData) -> Html:
    """Loss, KL, gradient, clipping, learning rate and the state of the trained parameters."""
    if not run.metrics:
        return note("No iteration has finished, so nothing was updated yet.")
    charts = [plot_chart(run, plot) for plot in UPDATE_PLOTS]
    charts += [_single_chart(run, key, "parameters/") for key in run.keys if key.startswith("parameters/")]
    return _grid(charts, "Nothing about the updates was logged.")


def guard_rail_section(run: RunData) -> Html | None:
    """Statistics of the pictures that a reward must not move: drift here is how a hacked reward looks."""
    keys = [key for key in run.keys if key.startswith(("image/", "answer/"))]
    if not keys and not run.held_out_pictures:
        return None
    says = (
        "Statistics of the pictures of each iteration. None of them is rewarded: a lasting drift says that the policy "
        "changes how pictures look rather than what they show."
    )
    return join([note(says), _grid([_guard_chart(run, key) for key in keys], ""), _held_out_pictures(run)])


def _held_out_pictures(run: RunData) -> Html | None:
    """The same statistics on evaluated prompts, before training and in the latest evaluation."""
    found = dict.fromkeys((str(row.get("set")), str(row.get("scorer"))) for row in run.held_out_pictures)
    rows = []
    for place in found:
        there = [row for row in run.held_out_pictures if (str(row.get("set")), str(row.get("scorer"))) == place]
        base = next((usable(row.get("mean")) for row in there if row.get("label") == "base"), None)
        latest = next((usable(row.get("mean")) for row in reversed(there) if row.get("label") != "base"), None)
        change = None if base is None or latest is None or base == 0 else latest / base - 1
        rows.append((place[0], place[1].removeprefix("image/"), number(base), number(latest), percent(change)))
    if not rows:
        return None
    return table(
        ("prompts", "statistic", "base", "latest", "change"), rows, "Pictures of evaluations, mean over prompts"
    )


def other_section(run: RunData) -> Html | None:
    """Whatever else was logged, so that no number stays unseen."""
    named = {key for plot in PLOTS for key, _ in plot.lines} | {"reward/mean", "reward/std", "rollout_gap", *COUNTED}
    keys = [key for key in run.keys if key not in named and not _shown_elsewhere(key)]
    return _grid([_single_chart(run, key) for key in keys], "") if keys else None


def plot_chart(run: RunData, plot: Plot) -> Html | None:
    """The chart of a plot, or None where none of its keys was logged with a number."""
    lines = [
        Series(name, [None if v is None else plot.factor * v for v in run.column(key)])
        for key, name in plot.lines
        if run.logged(key)
    ]
    if not lines:
        return None
    return line_chart(
        LineChart(plot.title, run.iterations, lines, plot.unit, plot.zero, _limits(run, plot), _not_finite(run, plot))
    )


def _limits(run: RunData, plot: Plot) -> list[tuple[str, float]]:
    if plot.limit is None:
        return []
    name, section, key = plot.limit
    value = usable(run.setting(section, key))
    return [] if value is None else [(name, plot.factor * value)]


def _not_finite(run: RunData, plot: Plot) -> list[str]:
    bad = sum(row.get(key) is not None and usable(row[key]) is None for row in run.metrics for key, _ in plot.lines)
    return [f"{bad} value{'s are' if bad > 1 else ' is'} not finite and left out."] if bad else []


def _reward_chart(run: RunData, key: str, title: str) -> Html | None:
    values, spread_key = run.column(key), key.removesuffix("mean") + "std"
    spread = run.column(spread_key) if run.logged(spread_key) else None
    lines = [Series("mean", values, spread)]
    if len(values) >= 2 * SMOOTHED_OVER:
        width = max(SMOOTHED_OVER, len(values) // SMOOTHED_SHARE)
        lines.append(Series(f"mean of the last {width}", _trailing(values, width)))
    return line_chart(LineChart(title, run.iterations, lines, "score"))


def _trailing(values: tuple[float | None, ...], width: int) -> list[float | None]:
    return [mean(values[max(0, end - width) : end]) for end in range(1, len(values) + 1)]


def _scorer_title(run: RunData, name: str) -> str:
    weights = run.setting("reward", "names")
    weight = usable(weights.get(name)) if isinstance(weights, dict) else None
    if weight is None:
        return name
    return f"{name} (weight {weight:g})" if weight else f"{name} (monitored only)"


def _guard_chart(run: RunData, key: str) -> Html | None:
    values = run.column(key)
    start = next((value for value in values if value is not None), None)
    limits = [] if start is None else [("at the start", start)]
    title = key.partition("/")[2].replace("_", " ").capitalize()
    return line_chart(LineChart(title, run.iterations, [Series(title, values)], "value", limits=limits))


def _single_chart(run: RunData, key: str, prefix: str = "") -> Html | None:
    title = key.removeprefix(prefix)
    return line_chart(LineChart(title, run.iterations, [Series(title, run.column(key))], "value"))


def _shown_elsewhere(key: str) -> bool:
    return key.startswith(("parameters/", "image/", "answer/", "forwards/")) or bool(
        re.fullmatch(r"reward/.+/(mean|std)", key)
    )


def _grid(charts: Iterable[Html | None], otherwise: str) -> Html:
    there = [chart for chart in charts if chart is not None]
    return tag("div", *there, class_="charts") if there else note(otherwise)
