"""Who won against whom: the pairwise comparisons of single groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flowgrpo.report.chart_frame import LEFT, RIGHT, TOP, WIDTH, Tip, drawing, figure
from flowgrpo.report.heat_chart import cell
from flowgrpo.report.markup import Html, join, note, tag
from flowgrpo.report.numbers import Scale, mean, number, present, usable
from flowgrpo.report.run_data import Row, RunData

MOST_SCORERS = 4
MOST_MEMBERS = 64
NUMBERED = 16
"""Up to so many members every cell shows its number."""
RATE_WIDTH = 44


@dataclass(frozen=True, slots=True)
class WinMatrix:
    """`wins[i][j]` in [0, 1] is the mean verdict of member i against member j; None where there is no valid one."""

    iteration: int
    scorer: str
    prompt: str
    wins: Sequence[Sequence[float | None]]

    @property
    def rates(self) -> list[float | None]:
        """Win rate of each member: the mean over those that it was compared with."""
        return [mean(row) for row in self.wins]


def matrix_section(run: RunData) -> Html | None:
    """The first and the last recorded matrix of each scorer; None where none was recorded."""
    if not run.matrices:
        return None
    found = [matrix for matrix in map(read_matrix, run.matrices) if matrix is not None]
    bad = len(run.matrices) - len(found)
    scorers = dict.fromkeys(matrix.scorer for matrix in found)
    shown: list[WinMatrix] = []
    for scorer in list(scorers)[:MOST_SCORERS]:
        own = [matrix for matrix in found if matrix.scorer == scorer]
        shown += own[:1] if len(own) == 1 else [own[0], own[-1]]
    says = (
        "Comparisons within one group. A row is a member, a column whom it met; 1 is a win, ½ a tie. The mean win rate "
        "is ½ by construction, so its course over training says nothing; the order within the group is the reward."
    )
    return join(
        [
            note(says),
            note(f"{bad} of {len(run.matrices)} recorded matrices cannot be read and are left out.") if bad else None,
            tag("div", *map(matrix_chart, shown), class_="charts"),
        ]
    )


def read_matrix(row: Row) -> WinMatrix | None:
    """A row of `matrices.jsonl`; None unless it holds a square matrix of 2 to 64 members with values in [0, 1]."""
    given, iteration = row.get("matrix"), usable(row.get("iteration"))
    lines = given if isinstance(given, list) else []
    size = len(lines)
    square = all(isinstance(line, list) and len(line) == size for line in lines)
    if iteration is None or not square or not 2 <= size <= MOST_MEMBERS:
        return None
    wins = [[None if i == j else usable(value) for j, value in enumerate(line)] for i, line in enumerate(lines)]
    if not all(0 <= value <= 1 for line in wins for value in present(line)):
        return None
    return WinMatrix(int(iteration), str(row.get("scorer", "")), str(row.get("prompt", "")), wins)


def matrix_chart(matrix: WinMatrix) -> Html:
    """A heat map of the wins with a column of win rates; blue is above ½, red below, stronger is farther."""
    size = len(matrix.wins)
    columns = Scale(0, size, LEFT, WIDTH - RIGHT - RATE_WIDTH)
    height = min(22.0, columns(1) - columns(0))
    title = f"{matrix.scorer}, iteration {matrix.iteration}"
    body = drawing(
        title,
        _description(matrix),
        _tip(matrix, columns, height),
        join(_row(row, place, columns, height, size) for place, row in enumerate(matrix.wins)),
        join(_rate(rate, TOP + place * height, height) for place, rate in enumerate(matrix.rates)),
        _labels(size, columns, height),
        height=TOP + size * height + 8,
    )
    return figure(title, body, now=f"{size} members", legend=_legend(), notes=[matrix.prompt])


def _row(values: Sequence[float | None], place: int, columns: Scale, height: float, size: int) -> Html:
    top, shapes = TOP + place * height, []
    for column, value in enumerate(values):
        if value is None:
            continue
        kind = "" if value > 0.5 else "minus" if value < 0.5 else "still"
        shapes.append(
            cell(columns, column, top, height, kind, 0.08 + 1.2 * abs(value - 0.5) if kind != "still" else 1.0)
        )
        if size <= NUMBERED:
            where = {"x": f"{columns(column + 0.5):.1f}", "y": f"{top + height / 2:.1f}"}
            shapes.append(tag("text", _short(value), **where, dy="0.34em", text_anchor="middle", class_="on"))
    return join(shapes)


def _short(value: float) -> str:
    """At most three characters: 0, ½, 1, or two decimals without the zero before the point."""
    return "½" if value == 0.5 else f"{value:.2f}".rstrip("0").rstrip(".").lstrip("0") or "0"


def _rate(rate: float | None, top: float, height: float) -> Html:
    text = "–" if rate is None else f"{rate:.2f}"
    place = {"x": WIDTH - RIGHT, "y": f"{top + height / 2:.1f}", "dy": "0.34em"}
    return tag("text", text, **place, text_anchor="end", class_="on") if height >= 9 else Html("")


def _labels(size: int, columns: Scale, height: float) -> Html:
    """Members along both sides, every n-th where cells are small, and the heads."""
    every = max(1, round(16 / height))
    marks = [tag("text", "member", x=2, y=TOP - 9, class_="label")]
    for member in range(0, size, every):
        middle = f"{TOP + (member + 0.5) * height:.1f}"
        marks.append(tag("text", member, x=LEFT - 6, y=middle, dy="0.34em", text_anchor="end", class_="tick"))
        middle = f"{columns(member + 0.5):.1f}"
        marks.append(tag("text", member, x=middle, y=TOP - 4, text_anchor="middle", class_="tick"))
    rate = tag("text", "rate", x=WIDTH - RIGHT, y=TOP - 9, text_anchor="end", class_="label")
    return join([*marks, rate])


def _tip(matrix: WinMatrix, columns: Scale, height: float) -> Tip:
    size = len(matrix.wins)
    return Tip(
        columns=[f"against member {member}" for member in range(size)],
        xs=[columns(member + 0.5) for member in range(size)],
        texts=[
            [f"{'not compared' if value is None else f'won {number(value)}'}\nwin rate {number(rate)}" for value in row]
            for row, rate in zip(matrix.wins, matrix.rates, strict=True)
        ],
        ys=[TOP + (member + 0.5) * height for member in range(size)],
        rows=[f"member {member}" for member in range(size)],
    )


def _legend() -> Html:
    items = (tag("i", class_="ramp minus"), "lost … won", tag("i", class_="ramp"))
    return tag("p", *items, class_="legend")


def _description(matrix: WinMatrix) -> str:
    rates = "; ".join(f"member {member} {number(rate)}" for member, rate in enumerate(matrix.rates))
    return f"Win rates: {rates}."
