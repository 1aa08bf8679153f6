"""A group's tree as a plain row of `trees.jsonl`, which the report draws.

Only places where something happens are nodes: roots, inputs of trained edges, what those edges drew, and leaves. A
deterministic stretch between two of them is one edge, however many steps it takes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from samplers.rollout import FlowRollout

NONE = -1
"""No parent, no trained edge above: the mark that rollouts use."""


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
    wanted = {"rewards": (rewards, leaves, "leaf"), "advantages": (advantages, edges, "trained edge")}
    for name, (values, length, each) in {**wanted, "keep": (keep, edges, "trained edge")}.items():
        if values.shape != (length,):
            raise ValueError(f"{name} must be [{length}], one per {each} of the rollout, got {list(values.shape)}")


@dataclass(frozen=True, slots=True)
class _Event:
    """A trained edge, or a leaf (edge -1): its root, step, first leaf, the trained edge above, and its input."""

    root: int
    step: int
    leaf: int
    above: int
    edge: int = NONE
    source: int = NONE


def _grown(rollout: FlowRollout, roots: frozenset[int]) -> _Forest:
    """Add roots, then edges and leaves in depth-first order.

    Below one drawn latent (or root) the way on is deterministic until the next draw, so the inputs of its trained edges
    lie on one trunk; `trunks` holds that trunk's nodes so far. A branch without training may fork a trunk: its twigs
    follow each other in this order, hence a later input at a smaller step ends the earlier twig.
    """
    forest = _Forest()
    start = {root: forest.add(NONE, 0) for root in sorted(roots)}
    child: dict[int, int] = {}
    inputs: dict[int, int] = {}
    trunks: dict[int, list[int]] = {}
    for event in _events(rollout, roots):
        anchor = start[event.root] if event.above == NONE else child[event.above]
        trunk = trunks.setdefault(anchor, [anchor])
        if event.edge == NONE:
            forest.leaf[event.leaf] = forest.add(trunk[-1], event.step)
            continue
        if event.source not in inputs:
            while len(trunk) > 1 and forest.step[trunk[-1]] >= event.step:
                trunk.pop()
            if forest.step[trunk[-1]] < event.step:
                trunk.append(forest.add(trunk[-1], event.step))
            inputs[event.source] = trunk[-1]
        child[event.edge] = forest.add(inputs[event.source], event.step + 1, event.edge)
    return forest


def _events(rollout: FlowRollout, roots: frozenset[int]) -> list[_Event]:
    """Edges and leaves below the roots, by (first leaf, step)."""
    root_of, spans = rollout.sample_root.tolist(), rollout.edge_leaves.tolist()
    nearest = [NONE] * len(root_of)
    edges = list(
        zip(rollout.edge_step.tolist(), rollout.edge_parent.tolist(), rollout.edge_input.tolist(), strict=True)
    )
    for edge in sorted(range(len(edges)), key=lambda each: edges[each][0]):
        first, last = spans[edge]
        nearest[first:last] = [edge] * (last - first)
    events = [
        _Event(root_of[spans[edge][0]], step, spans[edge][0], above, edge, source)
        for edge, (step, above, source) in enumerate(edges)
    ]
    events += [_Event(root, len(rollout.plan.steps), leaf, nearest[leaf]) for leaf, root in enumerate(root_of)]
    return sorted((event for event in events if event.root in roots), key=lambda event: (event.leaf, event.step))


def _fused(forest: _Forest, rewards: Sequence[float]) -> list[float | None]:
    """Mean reward of the scored leaves below each node."""
    sums, counts = [0.0] * len(forest.parent), [0] * len(forest.parent)
    for leaf, node in forest.leaf.items():
        if math.isfinite(rewards[leaf]):
            while node != NONE:
                sums[node] += rewards[leaf]
                counts[node] += 1
                node = forest.parent[node]
    return [total / count if count else None for total, count in zip(sums, counts, strict=True)]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
