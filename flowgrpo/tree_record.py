"""A group's tree as a plain row of `trees.jsonl`, which the report draws.

Only places where something happens are nodes: roots, inputs of trained edges, what those edges drew, and leaves. A
deterministic stretch between two of them is one edge, however many steps it takes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from samplers.rollout import FlowRollout

NO_PARENT = -1


@dataclass(slots=True)
class _Forest:
    """Nodes in the order in which they were added: parents come before their children.

    parent, step: of each node; edge: the trained edge that leads to it, or None; leaf: leaf index -> node.
    """

    parent: list[int] = field(default_factory=list)
    step: list[int] = field(default_factory=list)
    edge: list[int | None] = field(default_factory=list)
    leaf: dict[int, int] = field(default_factory=dict)

    def add(self, parent: int, step: int, edge: int | None = None) -> int:
        self.parent.append(parent)
        self.step.append(step)
        self.edge.append(edge)
        return len(self.parent) - 1


def tree_row(
    rollout: FlowRollout,
    rewards: Tensor,
    advantages: Tensor,
    keep: Tensor,
    *,
    group: int,
    roots: Sequence[int],
    prompt: str,
    iteration: int,
) -> dict[str, Any]:
    """One row of `trees.jsonl`: the tree of one group, or its trees where the group has several roots.

    Args:
        rollout: what was drawn.
        rewards: fused reward of every leaf of the rollout [N]; NaN where it could not be scored.
        advantages: of every trained edge [E].
        keep: edges that are in the loss, [E] bool.
        group: number of the group.
        roots: roots of the rollout that belong to the group.
        prompt: what the group was drawn for.
        iteration: when.

    Returns:
        dict[str, Any]: "iteration", "prompt", "group", "sigmas" [T+1] and "nodes", each with "id", "parent" (-1 for a
            root), "step" (level: 0 at a root, T at a leaf), "reward" (mean over the scored leaves below, None without
            one), "advantage" and "kept" (of the trained edge that leads here, else None), "noise" (whether one does).

    Raises:
        ValueError: a length does not fit the rollout, or no leaf descends from the roots.
    """
    _check(rollout, rewards, advantages, keep)
    forest = _grown(rollout, frozenset(roots))
    if not forest.leaf:
        raise ValueError(f"no leaf of the rollout descends from roots {list(roots)}")
    fused = _fused(forest, rewards.tolist())
    credit, kept = advantages.tolist(), keep.tolist()
    nodes = [
        {
            "id": node,
            "parent": forest.parent[node],
            "step": forest.step[node],
            "reward": fused[node],
            "advantage": None if edge is None else _finite(credit[edge]),
            "kept": None if edge is None else bool(kept[edge]),
            "noise": edge is not None,
        }
        for node, edge in enumerate(forest.edge)
    ]
    sigmas = list(rollout.plan.sigmas)
    return {"iteration": iteration, "prompt": prompt, "group": group, "sigmas": sigmas, "nodes": nodes}


def _check(rollout: FlowRollout, rewards: Tensor, advantages: Tensor, keep: Tensor) -> None:
    leaves, edges = len(rollout.sample_root), len(rollout.edge_step)
    for name, values, length in (("rewards", rewards, leaves), ("advantages", advantages, edges), ("keep", keep, edges)):
        if values.shape != (length,):
            raise ValueError(f"{name} must be [{length}], one per {'leaf' if name == 'rewards' else 'trained edge'} of "
                             f"the rollout, got {list(values.shape)}")  # fmt: skip


def _grown(rollout: FlowRollout, roots: frozenset[int]) -> _Forest:
    """Add roots, then edges and leaves in depth-first order.

    Below one drawn latent (or root) the way on is deterministic until the next draw, so the inputs of its trained edges
    lie on one trunk; `trunks` holds that trunk's nodes so far. A branch without training may fork a trunk: its twigs
    follow each other in this order, hence a later input at a smaller step ends the earlier twig.
    """
    forest = _Forest()
    start = {root: forest.add(NO_PARENT, 0) for root in sorted(roots)}
    child: dict[int, int] = {}
    inputs: dict[int, int] = {}
    trunks: dict[int, list[int]] = {}
    for root, step, edge, above, source, leaf in _events(rollout, roots):
        anchor = child[above] if above >= 0 else start[root]
        trunk = trunks.setdefault(anchor, [anchor])
        if edge is None:
            forest.leaf[leaf] = forest.add(trunk[-1], step)
            continue
        if source not in inputs:
            while len(trunk) > 1 and forest.step[trunk[-1]] >= step:
                trunk.pop()
            if forest.step[trunk[-1]] < step:
                trunk.append(forest.add(trunk[-1], step))
            inputs[source] = trunk[-1]
        child[edge] = forest.add(inputs[source], step + 1, edge)
    return forest


def _events(
    rollout: FlowRollout, roots: frozenset[int]
) -> Iterator[tuple[int, int, int | None, int, int | None, int]]:
    """(root, step, edge, trained edge above, input, first leaf) of edges and leaves, sorted by (first leaf, step)."""
    root_of = rollout.sample_root.tolist()
    spans, steps = rollout.edge_leaves.tolist(), rollout.edge_step.tolist()
    above, source = rollout.edge_parent.tolist(), rollout.edge_input.tolist()
    nearest = [NO_PARENT] * len(root_of)
    for edge in sorted(range(len(steps)), key=steps.__getitem__):
        first, last = spans[edge]
        nearest[first:last] = [edge] * (last - first)
    found: list[tuple[int, int, int | None]] = [(spans[edge][0], steps[edge], edge) for edge in range(len(steps))]
    found += [(leaf, len(rollout.plan.steps), None) for leaf in range(len(root_of))]
    for leaf, step, edge in sorted(found, key=lambda event: event[:2]):
        if root_of[leaf] in roots:
            if edge is None:
                yield root_of[leaf], step, None, nearest[leaf], None, leaf
            else:
                yield root_of[leaf], step, edge, above[edge], source[edge], leaf


def _fused(forest: _Forest, rewards: Sequence[float]) -> list[float | None]:
    """Mean reward of the scored leaves below each node."""
    sums, counts = [0.0] * len(forest.parent), [0] * len(forest.parent)
    for leaf, node in forest.leaf.items():
        if math.isfinite(rewards[leaf]):
            while node != NO_PARENT:
                sums[node] += rewards[leaf]
                counts[node] += 1
                node = forest.parent[node]
    return [total / count if count else None for total, count in zip(sums, counts, strict=True)]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
