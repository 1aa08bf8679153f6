"""The page of a benchmark: one self-contained HTML file, in the look of run reports and without a script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from flowgrpo.benchmarks.charts import Shares, bars, radar
from flowgrpo.benchmarks.intervals import Interval, paired_differences
from flowgrpo.benchmarks.judges import Answer
from flowgrpo.benchmarks.results import Entry, Line, Scored
from flowgrpo.benchmarks.tally import OVERALL, Cell
from flowgrpo.benchmarks.tasks import Task
from flowgrpo.report.look import STYLE
from flowgrpo.report.markup import Html, join, note, table, tag
from flowgrpo.report.numbers import MISSING, percent
from flowgrpo.report.pictures import embedded
from flowgrpo.runfolder import write_atomically

WORST = 8
"""Prompts shown with their pictures."""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
HEADS = {"dimension": "Dimensions", "test point": "Test points", "theme": "Themes", "subtheme": "Subthemes"}

Others = Mapping[str, Sequence[Entry]]


def write_page(title: str, found: Sequence[Scored], others: Others, file: Path) -> None:
    """Write the page.

    Args:
        title: the benchmark's name.
        found: one model, a track each.
        others: by track, other models to show beside it.
        file: where to.

    Raises: RunError: the file cannot be written.
    """
    content = page(title, found, others).encode("utf-8", "replace").decode("utf-8")
    write_atomically(file, content)


def page(title: str, found: Sequence[Scored], others: Others) -> Html:
    """The whole document."""
    model = found[0].model
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{model}: {title}"),
        tag("style", Html(STYLE)),
    )
    links = (tag("a", scored.track.name, href=f"#track-{place}") for place, scored in enumerate(found))
    sections = (
        tag("section", *_track(scored, others.get(scored.track.name, ())), id=f"track-{place}")
        for place, scored in enumerate(found)
    )
    body = tag(
        "body",
        tag("header", tag("p", f"flowgrpo: {title}", class_="eyebrow"), tag("h1", tag("bdi", model)), _tiles(found)),
        tag("nav", *links, aria_label="Tracks") if len(found) > 1 else None,
        tag("main", *sections),
    )
    return join([Html("<!doctype html>\n"), tag("html", head, body, lang="en")])


def _tiles(found: Sequence[Scored]) -> Html:
    return tag("div", *(_tile(scored) for scored in found), class_="tiles")


def _tile(scored: Scored) -> Html:
    line, counts = scored.entry.lines()[0], scored.counts
    return tag(
        "div",
        tag("p", tag("bdi", scored.track.name), " ", tag("span", f"judged by {scored.judge}"), class_="name"),
        tag("p", percent(line.accuracy), class_="big"),
        tag("p", f"95 % interval {_interval(line)}; pessimistic {percent(line.pessimistic)}", class_="levels"),
        tag("p", f"{counts.judged} of {counts.pictures} pictures judged", class_="quiet"),
        class_="tile",
    )


def _track(scored: Scored, others: Sequence[Entry]) -> list[Html | None]:
    entries = [scored.entry, *others]
    lines = [{(line.kind, line.name): line for line in entry.lines()} for entry in entries]
    kinds = {kind: [cell for cell in lines[0] if cell[0] == kind] for kind in HEADS}
    return [
        tag("h2", scored.track.name),
        _remarks(scored),
        note(
            "Overall is the unweighted mean of the dimensions, as on the published leaderboard. Intervals draw prompts "
            "again with replacement. The pessimistic score counts what was not judged as not met."
        ),
        _charts(kinds["dimension"], entries, lines),
        _comparison(scored.entry, others) if others else None,
        *(_table(HEADS[kind], cells, lines[0]) for kind, cells in kinds.items() if cells),
        _worst(scored),
    ]


def _remarks(scored: Scored) -> Html | None:
    said = [*scored.gaps(), *scored.track.warnings]
    lines = (tag("p", tag("b", "Note. "), line) for line in said)
    return tag("div", *lines, class_="callout warning") if said else None


def _charts(cells: Sequence[Cell], entries: Sequence[Entry], lines: Sequence[Mapping[Cell, Line]]) -> Html:
    names = [name for _, name in cells]
    series = [_shares(entry, [held.get(cell) for cell in cells]) for entry, held in zip(entries, lines, strict=True)]
    charts = (radar("Dimensions at a glance", names, series), bars("Accuracy by dimension", names, series))
    return tag("div", *charts, class_="charts")


def _shares(entry: Entry, lines: Sequence[Line | None]) -> Shares:
    def column(key: str) -> list[float | None]:
        return [None if line is None else getattr(line, key) for line in lines]

    return Shares(entry.model, column("accuracy"), column("low"), column("high"))


def _table(title: str, cells: Sequence[Cell], lines: Mapping[Cell, Line]) -> Html:
    head = ("name", "accuracy", "95 % interval", "pessimistic", "met / judged", "no valid answer")
    rows = [
        (
            line.name,
            percent(line.accuracy),
            _interval(line),
            percent(line.pessimistic),
            f"{line.correct} / {line.judged}",
            percent(line.invalid),
        )
        for line in (lines[cell] for cell in cells)
    ]
    return join([tag("h3", title), table(head, rows, title, titled=True)])


def _interval(line: Line) -> str:
    if line.low is None or line.high is None:
        return MISSING
    return f"{100 * line.low:.1f} to {100 * line.high:.1f}"


def _comparison(ours: Entry, others: Sequence[Entry]) -> Html:
    """Every model's accuracy by dimension, with the difference in points to it; clear ones stand out."""
    held = [(other, paired_differences(other.counts, ours.counts)) for other in others]
    rows = [
        (
            cell[1],
            percent(_accuracy(ours, cell)),
            *(
                shown
                for other, found in held
                for shown in (percent(_accuracy(other, cell)), _gain(cell, found, ours, other))
            ),
        )
        for cell in (OVERALL, *ours.counts.of_kind("dimension"))
    ]
    head = ("dimension", ours.model, *(title for other in others for title in (other.model, f"against {other.model}")))
    said = note(
        "Accuracies, and differences in points with their 95 % intervals on the same draws of the prompts that both "
        "models have. Green and red intervals exclude 0; one in twenty does so by chance."
    )
    return join([tag("h3", "Beside other models"), said, table(head, rows, "Differences", titled=True)])


def _gain(cell: Cell, found: Mapping[Cell, Interval], ours: Entry, other: Entry) -> Html:
    first, second = _accuracy(other, cell), _accuracy(ours, cell)
    if cell not in found or first is None or second is None:
        return Html(MISSING)
    low, high = found[cell]
    clear = low > 0 or high < 0
    look = ("up" if low > 0 else "down") if clear else "flat"
    says = "the 95 % interval excludes 0" if clear else "not distinguishable from 0 at 95 %"
    shown = f"{100 * (second - first):+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
    return tag("span", shown, class_=f"gain {look}", title=says)


def _accuracy(entry: Entry, cell: Cell) -> float | None:
    if cell[0] == "overall":
        return entry.counts.overall
    return entry.counts.count(cell).accuracy if cell in entry.counts.cells else None


def _worst(scored: Scored) -> Html | None:
    """Prompts with the smallest share of met test points, with every picture and what it lacks."""
    met = {task.index: _met(task, scored) for task in scored.track.tasks}
    ranked = [task for task in scored.track.tasks if met[task.index] is not None]
    shown = sorted(ranked, key=lambda task: (met[task.index], task.index))[:WORST]
    if not shown:
        return None
    said = note("The prompts with the smallest share of met test points. In the corner: met of all.")
    return join([tag("h3", "Worst cases"), said, tag("div", *(_card(task, scored) for task in shown), class_="cards")])


def _answers(task: Task, scored: Scored) -> list[tuple[int, Answer]]:
    places = ((k, scored.answers.get((task.index, k))) for k in range(scored.samples))
    return [(k, answer) for k, answer in places if answer is not None and answer.complete]


def _met(task: Task, scored: Scored) -> float | None:
    verdicts = [value for _, answer in _answers(task, scored) for value in answer.verdicts]
    return sum(map(bool, verdicts)) / len(verdicts) if verdicts else None


def _card(task: Task, scored: Scored) -> Html:
    caption = tag("p", tag("bdi", task.prompt), tag("small", f"index {task.index}"), class_="prompt")
    figures = (_figure(task, k, answer, scored) for k, answer in _answers(task, scored))
    return tag("article", caption, tag("div", *figures, class_="row"), class_="card")


def _figure(task: Task, sample: int, answer: Answer, scored: Scored) -> Html:
    path = scored.pictures[task.index, sample]
    shown: Html = tag("div", "missing", class_="hole")
    if (image := embedded(path.parent, path.name)) is not None:
        source, small = image
        shown = tag("img", src=source, alt=task.prompt, loading="lazy", class_="pixelated" if small else None)
    badge = tag("span", f"{sum(map(bool, answer.verdicts))}/{len(answer.verdicts)}", class_="badge")
    return tag("figure", tag("div", shown, badge, class_="frame"), tag("figcaption", _lacks(task, answer)))


def _lacks(task: Task, answer: Answer) -> Html:
    """The failed points, the judge's reason under the pointer."""
    reasons = answer.reasons or ("",) * len(answer.verdicts)
    failed = [
        tag("span", f"{point.label}: {point.cue}", title=reason or None)
        for point, value, reason in zip(task.points, answer.verdicts, reasons, strict=False)
        if not value
    ]
    return join([text for item in failed for text in (item, tag("br"))]) if failed else Html("all met")
