"""The head of the page: which run this is, what it achieved, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence

from flowgrpo.report.evaluations import Comparison, comparisons, estimate, gain, gain_chip, level_text
from flowgrpo.report.events import warnings
from flowgrpo.report.markup import Html, join, note, tag
from flowgrpo.report.numbers import duration, number, present
from flowgrpo.report.run_data import RunData
from flowgrpo.report.times import training_seconds

MOST_VERDICTS = 6
MOST_WARNINGS = 3


def overview(run: RunData) -> Html:
    """Name, verdict per evaluation set, facts, warnings and gaps."""
    digest = str(run.recipe.get("hash") or "")
    title = tag("h1", tag("bdi", run.name), tag("code", digest[:12], title=digest) if digest else None)
    return tag(
        "header",
        tag("p", "flowgrpo run report", class_="eyebrow"),
        title,
        _verdicts(comparisons(run)),
        _facts(run),
        _callouts(run),
        id="top",
    )


def status(run: RunData) -> str:
    """How the run stands, by its last start, resume or stop."""
    for row in reversed(run.events):
        if row.get("kind") == "stop":
            return str(row.get("message") or "stopped")
        if row.get("kind") in ("start", "resume"):
            return "running, or killed since its last event"
    return "unknown"


def _verdicts(found: Sequence[Comparison]) -> Html:
    if not found:
        return note("No evaluation has finished: what training changed is not known yet.")
    more = len(found) - MOST_VERDICTS
    tiles = tag("div", *(_verdict(pair) for pair in found[:MOST_VERDICTS]), class_="tiles")
    return join([tiles, note(f"{more} more below, under Evaluation.") if more > 0 else None])


def _verdict(pair: Comparison) -> Html:
    before, after = estimate(pair.base), estimate(pair.latest)
    levels = (level_text(before, share=pair.share), " → ", level_text(after, share=pair.share))
    change = gain_chip(gain(before, after), share=pair.share)
    names = f"base → {pair.latest_name}" if after else "base; not evaluated since"
    return tag(
        "div",
        tag("p", tag("bdi", pair.prompts), " ", tag("span", pair.scorer), class_="name"),
        tag("p", change, class_="big") if after and before else None,
        tag("p", *levels, class_="levels"),
        tag("p", f"{names}, 95 % intervals", class_="quiet"),
        class_="tile",
    )


def _facts(run: RunData) -> Html:
    resumed = sum(row.get("kind") == "resume" for row in run.events)
    facts = (
        ("Status", status(run)),
        ("Iterations", run.iterations[-1] if run.iterations else 0),
        ("Samples", number(sum(present(run.column("samples"))))),
        ("Updates", number(sum(present(run.column("updates"))))),
        ("Training time", duration(training_seconds(run))),
        ("Resumed", {0: "never", 1: "once"}.get(resumed, f"{resumed} times")),
        ("Model", run.setting("model", "path")),
        ("Started", str(run.events[0].get("time", ""))[:16].replace("T", " ") if run.events else None),
    )
    items = (tag("div", tag("dt", name), tag("dd", value)) for name, value in facts if value not in (None, ""))
    return tag("dl", *items, class_="facts")


def _callouts(run: RunData) -> Html | None:
    found = [str(row.get("message", "")) for row in warnings(run)]
    more = len(found) - MOST_WARNINGS
    lines = [tag("p", tag("b", "Warning. "), line) for line in found[:MOST_WARNINGS]]
    if more > 0:
        lines.append(tag("p", tag("a", f"{more} more warnings", href="#events")))
    boxes = [tag("div", *lines, class_="callout warning")] if lines else []
    if run.notes:
        boxes.append(tag("div", tag("p", tag("b", "Incomplete. "), " ".join(run.notes)), class_="callout"))
    return join(boxes)
