"""What happened during the run, warnings first."""

from __future__ import annotations

from flowgrpo.report.markup import Html, note, table, tag
from flowgrpo.report.run_data import Row, RunData

WARNING = "warning"


def warnings(run: RunData) -> list[Row]:
    """The warning events in order."""
    return [row for row in run.events if row.get("kind") == WARNING]


def event_section(run: RunData) -> Html:
    """A table of events: warnings, then all others in order of time."""
    if not run.events:
        return note("No event was recorded.")
    others = [row for row in run.events if row.get("kind") != WARNING]
    rows = [
        (_time(row), _kind(row), tag("span", row.get("message", ""), class_="message"))
        for row in [*warnings(run), *others]
    ]
    return table(("time", "kind", "message"), rows, "Events; times in UTC")


def _time(row: Row) -> str:
    return str(row.get("time", "")).replace("T", " ")[:19]


def _kind(row: Row) -> Html:
    kind = str(row.get("kind", "?"))
    return tag("span", kind, class_=f"kind {'warning' if kind == WARNING else ''}".strip())
