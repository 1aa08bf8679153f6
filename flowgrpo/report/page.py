"""The page: `SECTIONS` in order, one stylesheet, one script, nothing from outside."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from flowgrpo.report.answers import answer_section
from flowgrpo.report.choices import recipe_section
from flowgrpo.report.curves import guard_rail_section, optimisation_section, other_section, reward_section
from flowgrpo.report.evaluations import evaluation_section
from flowgrpo.report.events import event_section
from flowgrpo.report.look import STYLE
from flowgrpo.report.markup import Html, join, tag
from flowgrpo.report.matrices import matrix_section
from flowgrpo.report.overview import overview
from flowgrpo.report.pictures import picture_section
from flowgrpo.report.run_data import RunData, read_run
from flowgrpo.report.script import SCRIPT
from flowgrpo.report.steps import policy_section
from flowgrpo.report.times import time_section
from flowgrpo.report.trees import tree_section
from flowgrpo.report.windows import window_section
from flowgrpo.runfolder import write_atomically

Section = Callable[[RunData], Html | None]

SECTIONS: tuple[tuple[str, Section], ...] = (
    ("Evaluation", evaluation_section),
    ("Answers", answer_section),
    ("Pictures", picture_section),
    ("Reward", reward_section),
    ("Win matrix", matrix_section),
    ("Tree", tree_section),
    ("Window", window_section),
    ("Policy by step", policy_section),
    ("Optimisation", optimisation_section),
    ("Guard rails", guard_rail_section),
    ("Other values", other_section),
    ("Time", time_section),
    ("Recipe", recipe_section),
    ("Events", event_section),
)
"""(title, function of the run); a function that returns None has nothing to say about this run and is left out."""


def write_report(run: Path, out: Path | None = None) -> Path:
    """Write the report of a run as one self-contained HTML file.

    Args:
        run: folder of the run, finished or not.
        out: file to write; `report.html` inside the run folder by default.

    Returns:
        The file.

    Raises:
        UsageError: there is no such folder, or it is not a run's.
        RunError: the file cannot be written.
    """
    target = Path(out) if out is not None else Path(run) / "report.html"
    # A lone surrogate in a prompt is legal JSON and cannot be written as UTF-8.
    content = page(read_run(Path(run))).encode("utf-8", "replace").decode("utf-8")
    write_atomically(target, content)
    return target


def page(run: RunData) -> Html:
    """The whole document."""
    made = [(title, body) for title, section in SECTIONS if (body := section(run)) is not None]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy()),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{run.name}: flowgrpo run report"),
        tag("style", Html(STYLE)),
    )
    links = (tag("a", title, href=f"#{_anchor(title)}") for title, _ in made)
    blocks = (tag("section", tag("h2", title), body, id=_anchor(title)) for title, body in made)
    body = tag(
        "body",
        overview(run),
        tag("nav", *links, aria_label="Sections"),
        tag("main", *blocks),
        tag("div", id="tip", role="status", hidden=True),
        tag("script", Html(SCRIPT)),
    )
    return join([Html("<!doctype html>\n"), tag("html", head, body, lang="en")])


def _policy() -> str:
    """Content policy of the page: it loads nothing, and runs its own script and no other."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode("utf-8")).digest()).decode("ascii")
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
