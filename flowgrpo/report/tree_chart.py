"""One group's tree: sampling steps from left to right, leaves from top to bottom, credit as colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from flowgrpo.report.chart_frame import BOTTOM, RIGHT, TOP, WIDTH, Tip, drawing, figure
from flowgrpo.report.markup import Html, join, tag
from flowgrpo.report.numbers import MISSING, Scale, number, present, whole_ticks
from flowgrpo.report.tree_data import Node, Tree, average_reward, level_places, rows_of

MOST_NUMBERS = 24
"""Up to so many leaves have their reward written beside them; more are drawn as bars."""
MOST_VALUES = 3000
"""Values that a pointer can bring up; of a larger tree every n-th leaf has some."""
REWARD_WIDTH = 46
START = 14
"""A tree needs no room for labels of a vertical axis."""


@dataclass(frozen=True, slots=True)
class _Places:
    """Where everything lies: x of each level, y of each node, and the lower end of the drawing."""

    xs: Sequence[float]
    ys: Mapping[int, float]
    bottom: float


def tree_chart(tree: Tree) -> Html:
    """A figure of the tree.

    Solid edges drew noise and are trained, dashed ones were drawn and pruned, thin ones are deterministic. The colour
    of a node is the advantage of the edge that leads to it.
    """
    places, strongest = _places(tree), _strongest(tree)
    title = f"Iteration {tree.iteration}, group {tree.group}"
    body = drawing(
        title,
        _description(tree),
        _tip(tree, places),
        _edges(tree, places),
        join(_dot(tree.nodes[node], node, places, strongest) for node in tree.nodes),
        _rewards(tree, places),
        _axis(tree, places),
        height=places.bottom + BOTTOM,
    )
    narrow = "Deterministic steps are drawn narrow." if len({round(w, 6) for w in _widths(places.xs)}) > 1 else ""
    now = f"mean reward {number(average_reward(tree))}"
    return figure(title, body, now=now, legend=_legend(tree, strongest), notes=[tree.prompt, narrow])


def _places(tree: Tree) -> _Places:
    rows = rows_of(tree)
    last = max(rows.values())
    gap = max(4.0, min(16.0, 400.0 / (last + 1)))
    if len(tree.leaves) <= MOST_NUMBERS:
        gap = max(gap, 13.0)
    x = Scale(0, 1, START, WIDTH - RIGHT - REWARD_WIDTH)
    ys = {node: TOP + (row + 0.5) * gap for node, row in rows.items()}
    return _Places([x(place) for place in level_places(tree)], ys, TOP + (last + 1) * gap + 4)


def _widths(xs: Sequence[float]) -> list[float]:
    return [right - left for left, right in pairwise(xs)]


def _strongest(tree: Tree) -> float:
    return max(present(None if n.advantage is None else abs(n.advantage) for n in tree.nodes.values()), default=0.0)


def _edges(tree: Tree, places: _Places) -> Html:
    """All edges, one path for each kind of edge."""
    ways: dict[str, list[str]] = {}
    for node_id, node in tree.nodes.items():
        if node.parent != -1:
            ways.setdefault(_kind(node), []).append(_way(tree, node_id, places))
    return join(tag("path", d="".join(parts), class_=f"edge {kind}") for kind, parts in sorted(ways.items()))


def _way(tree: Tree, child: int, places: _Places) -> str:
    """From a parent to its child: along the parent's row while nothing is drawn, then a curve."""
    node = tree.nodes[child]
    x0, y0 = places.xs[tree.nodes[node.parent].level], places.ys[node.parent]
    x1, y1 = places.xs[node.level], places.ys[child]
    bend = places.xs[node.level - 1] if node.noise else x0
    turn = (bend + x1) / 2
    level = f"H{bend:.1f}" if bend > x0 else ""
    return f"M{x0:.1f},{y0:.1f}{level}C{turn:.1f},{y0:.1f} {turn:.1f},{y1:.1f} {x1:.1f},{y1:.1f}"


def _kind(node: Node) -> str:
    if not node.noise:
        return "ode"
    return "pruned" if node.kept is False else "drawn"


def _dot(node: Node, node_id: int, places: _Places, strongest: float) -> Html | None:
    """A node that a draw led to, in the colour of its advantage; a root is a hollow ring."""
    if not node.noise and node.parent != -1:
        return None
    where = {"cx": f"{places.xs[node.level]:.1f}", "cy": f"{places.ys[node_id]:.1f}"}
    if node.advantage is None:
        return tag("circle", **where, r=2.5, class_="node plain")
    share = abs(node.advantage) / strongest if strongest else 0.0
    kind = "node minus" if node.advantage < 0 else "node"
    return tag("circle", **where, r=3, class_=kind, style=f"--share:{8 + 92 * share:.0f}%")


def _rewards(tree: Tree, places: _Places) -> Html:
    """Rewards of the leaves: written where there is room, else bars from the lowest to the highest."""
    values = {leaf: tree.nodes[leaf].reward for leaf in tree.leaves}
    known = present(values.values())
    x = WIDTH - RIGHT - REWARD_WIDTH + 6
    head = tag("text", "reward", x=WIDTH - RIGHT, y=TOP - 9, text_anchor="end", class_="label")
    if len(values) <= MOST_NUMBERS:
        texts = (
            tag(
                "text",
                "–" if value is None else f"{value:.3g}",
                x=x,
                y=f"{places.ys[leaf]:.1f}",
                dy="0.32em",
                class_="tick",
            )
            for leaf, value in values.items()
        )
        return join([head, *texts])
    low, high = min(known, default=0.0), max(known, default=0.0)
    length = Scale(low, high, 2.0, REWARD_WIDTH - 6) if high > low else None
    thick = max(1.0, min(4.0, 300 / len(values)))
    bars = (
        tag(
            "rect",
            x=x,
            y=f"{places.ys[leaf] - thick / 2:.1f}",
            width=f"{length(value) if length else 2.0:.1f}",
            height=f"{thick:.1f}",
            class_="bar s8",
        )
        for leaf, value in values.items()
        if value is not None
    )
    return join([head, *bars])


def _short(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3g}"


def _axis(tree: Tree, places: _Places) -> Html:
    """Levels below the tree, as many as have room."""
    left, right = places.xs[0], places.xs[-1]
    shown, marks = -100.0, []
    for level in sorted({*whole_ticks(0, tree.levels), *_draw_levels(tree)}):
        if places.xs[level] - shown >= 16:
            shown = places.xs[level]
            marks.append(
                tag("text", level, x=f"{shown:.1f}", y=places.bottom + 13, text_anchor="middle", class_="tick")
            )
    base = tag("line", x1=f"{left:.1f}", x2=f"{right:.1f}", y1=places.bottom, y2=places.bottom, class_="axis")
    middle = f"{(left + right) / 2:.1f}"
    title = tag("text", "sampling steps done", x=middle, y=places.bottom + 28, text_anchor="middle", class_="label")
    return join([base, *marks, title])


def _draw_levels(tree: Tree) -> set[int]:
    return {node.level - 1 for node in tree.nodes.values() if node.noise and node.level > 0}


def _tip(tree: Tree, places: _Places) -> Tip:
    every = -(-len(tree.leaves) * (tree.levels + 1) // MOST_VALUES)
    shown = list(enumerate(tree.leaves, 1))[::every]
    return Tip(
        columns=[f"step {level}" for level in range(tree.levels + 1)],
        xs=places.xs,
        texts=[_texts(tree, leaf) for _, leaf in shown],
        ys=[places.ys[leaf] for _, leaf in shown],
        rows=[f"leaf {place}" for place, _ in shown],
    )


def _texts(tree: Tree, leaf: int) -> list[str]:
    """What the way to a leaf passes at each level: the last node at or before it."""
    way, texts, place = tree.way(leaf), [], 0
    for level in range(tree.levels + 1):
        while place + 1 < len(way) and tree.nodes[way[place + 1]].level <= level:
            place += 1
        texts.append(_reading(tree.nodes[way[place]]))
    return texts


def _reading(node: Node) -> str:
    lines = [f"reward {number(node.reward)}"]
    if node.noise:
        lines.append(f"advantage {number(node.advantage)}" + (", pruned" if node.kept is False else ""))
    return "\n".join(lines)


def _legend(tree: Tree, strongest: float) -> Html:
    kinds = {_kind(node) for node in tree.nodes.values() if node.parent != -1}
    names = (("drawn", "drawn, trained"), ("pruned", "pruned"), ("ode", "deterministic"))
    if any(node.noise and node.advantage is None for node in tree.nodes.values()):
        names = (("drawn", "drawn"), *names[1:])
    items = [tag("li", tag("i", class_=f"swatch {kind}"), label) for kind, label in names if kind in kinds]
    if strongest:
        text = f"advantage −{number(strongest)} … +{number(strongest)}"
        items.append(tag("li", tag("i", class_="ramp minus"), text, tag("i", class_="ramp")))
    return tag("ul", *items, class_="legend")


def _description(tree: Tree) -> str:
    drawn = [node for node in tree.nodes.values() if node.noise]
    pruned = sum(node.kept is False for node in drawn)
    roots = len(tree.children[-1])
    return (
        f"{roots} {'root' if roots == 1 else 'roots'}, {len(tree.leaves)} leaves, {tree.levels} sampling steps, "
        f"{len(drawn)} draws, {pruned} of them pruned; mean reward {number(average_reward(tree))}."
    )
