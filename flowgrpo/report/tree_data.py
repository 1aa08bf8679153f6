"""Recorded trees, read leniently, and where their parts lie in a drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flowgrpo.report.numbers import mean, usable
from flowgrpo.report.run_data import Row, as_mapping

PLAIN_LEVELS = 12
"""Up to so many steps every step has the same width."""
FEW_LEVELS = 2
"""So many deterministic steps take no room worth saving."""
NARROW = 0.25
"""Width of a deterministic step among many."""
MOST_LEVELS = 2000
"""No plan is longer: a row that says so is damaged."""


@dataclass(frozen=True, slots=True)
class Node:
    """A latent at a level; `advantage`, `kept` and `noise` are of the edge that leads to it."""

    parent: int
    level: int
    reward: float | None
    advantage: float | None
    kept: bool | None
    noise: bool


@dataclass(frozen=True, slots=True)
class Tree:
    """The trees of one group: `nodes` and `children` by id, `leaves` from top to bottom, -1 is above the roots."""

    iteration: int
    group: int
    prompt: str
    levels: int
    nodes: Mapping[int, Node]
    children: Mapping[int, Sequence[int]]
    leaves: Sequence[int]

    def way(self, leaf: int) -> list[int]:
        """Ids from the root down to a node."""
        found = [leaf]
        while (above := self.nodes[found[-1]].parent) >= 0:
            found.append(above)
        return found[::-1]


def read_tree(row: Row) -> Tree | None:
    """A row of `trees.jsonl` as a tree; None where it is not one: no nodes, unknown parents, levels not increasing."""
    given = row.get("nodes")
    parts = [as_mapping(part) for part in given] if isinstance(given, list) else []
    found = {number: _node(part) for part in parts if (number := _whole(part.get("id"))) is not None}
    nodes = {number: node for number, node in found.items() if node is not None}
    iteration = _whole(row.get("iteration"))
    whole = bool(nodes) and len(nodes) == len(parts) and all(_fits(nodes, node) for node in nodes.values())
    if iteration is None or not whole or min(nodes) < 0:
        return None
    children: dict[int, list[int]] = {number: [] for number in (-1, *nodes)}
    for number, node in nodes.items():
        children[node.parent].append(number)
    sigmas = row.get("sigmas")
    steps = min(len(sigmas) - 1, MOST_LEVELS) if isinstance(sigmas, list) else 0
    levels = max(steps, *(node.level for node in nodes.values()), 1)
    leaves = [number for number in _depth_first(children) if not children[number]]
    return Tree(iteration, _whole(row.get("group")) or 0, str(row.get("prompt", "")), levels, nodes, children, leaves)


def level_places(tree: Tree) -> list[float]:
    """Place of every level in [0, 1]; among many steps those without a draw of this tree are narrow."""
    drawn = {node.level for node in tree.nodes.values() if node.noise}
    plain = tree.levels <= PLAIN_LEVELS or not drawn or tree.levels - len(drawn) <= FEW_LEVELS
    widths = [1.0 if plain or level in drawn else NARROW for level in range(1, tree.levels + 1)]
    whole = sum(widths)
    return [sum(widths[:level]) / whole for level in range(tree.levels + 1)]


def rows_of(tree: Tree) -> dict[int, float]:
    """Row of every node: leaves are 1 apart, one row is free between trees, a parent is amid its children."""
    rows: dict[int, float] = {}
    row, last_root = 0.0, None
    for leaf in tree.leaves:
        root = tree.way(leaf)[0]
        row += 0.0 if last_root is None else 1.0 if root == last_root else 2.0
        rows[leaf], last_root = row, root
    for number in sorted(tree.nodes, key=lambda each: -tree.nodes[each].level):
        if number not in rows:
            below = [rows[child] for child in tree.children[number]]
            rows[number] = (min(below) + max(below)) / 2
    return rows


def average_reward(tree: Tree) -> float | None:
    """Mean reward of the leaves that have one."""
    return mean(tree.nodes[leaf].reward for leaf in tree.leaves)


def _node(part: Row) -> Node | None:
    parent, level = _whole(part.get("parent")), _whole(part.get("step"))
    if parent is None or level is None:
        return None
    kept = part.get("kept")
    return Node(
        parent,
        level,
        usable(part.get("reward")),
        usable(part.get("advantage")),
        kept if isinstance(kept, bool) else None,
        part.get("noise") is True,
    )


def _fits(nodes: Mapping[int, Node], node: Node) -> bool:
    if node.parent == -1:
        return 0 <= node.level <= MOST_LEVELS
    return node.parent in nodes and nodes[node.parent].level < node.level <= MOST_LEVELS


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _depth_first(children: Mapping[int, Sequence[int]]) -> list[int]:
    """All ids, each before what is below it. No recursion: a chain may have a thousand levels."""
    order, waiting = list[int](), list(reversed(children[-1]))
    while waiting:
        order.append(waiting.pop())
        waiting.extend(reversed(children[order[-1]]))
    return order
