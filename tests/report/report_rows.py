"""Rows of run folders made by hand: per-step values, trees of every kind of plan, win matrices."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Node = dict[str, Any]

PROMPTS = (
    "a red circle",
    "three blue squares",
    "a green cross above a white triangle",
    "<script>alert(1)</script> & co",
)


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def per_step(steps: Iterable[int], rng: random.Random) -> dict[str, list[float]]:
    steps = list(steps)
    return {
        "step": steps,
        "ratio_minus_1_mean": [rng.gauss(0, 2e-6) for _ in steps],
        "ratio_minus_1_std": [abs(rng.gauss(3e-5, 1e-5)) for _ in steps],
        "ratio_minus_1_max": [abs(rng.gauss(1e-4, 4e-5)) for _ in steps],
        "rollout_gap": [abs(rng.gauss(2e-7, 5e-8)) for _ in steps],
        "clip_low": [0.1 for _ in steps],
        "clip_high": [0.125 for _ in steps],
        "std": [0.8 / step for step in steps],
        "weight": [1.0 for _ in steps],
    }


def node(
    id_: int, parent: int, level: int, reward: float | None, credit: float | None = None, **more
) -> dict[str, Any]:
    """A node of a tree; with credit it was drawn, without it the way there was deterministic."""
    kept = more.get("kept", None if credit is None else True)
    return {"id": id_, "parent": parent, "step": level, "reward": reward, "advantage": credit, "kept": kept,
            "noise": credit is not None}  # fmt: skip


def tree_of(nodes: list[dict[str, Any]], steps: int, iteration: int = 1) -> dict[str, Any]:
    sigmas = [1 - step / steps for step in range(steps + 1)]
    return {"iteration": iteration, "prompt": PROMPTS[3], "group": 2, "sigmas": sigmas, "nodes": nodes}


def branch_tree(iteration: int, *, pruned: bool = False, steps: int = 20, splits: Iterable[int] = (0, 3, 6, 9)):
    """BranchGRPO: every step but the last is drawn, nodes split in two at some; `pruned` drops each second leaf."""
    rng, splits = random.Random(iteration), frozenset(splits)
    nodes, level = [node(0, -1, 0, 0.5)], [0]
    for step in range(steps - 1):
        below = []
        for parent in level:
            for child in range(2 if step in splits else 1):
                late = pruned and step >= max(splits, default=0)
                kept = not (late and (child if step in splits else nodes[parent]["kept"] is False))
                nodes.append(node(len(nodes), parent, step + 1, rng.random(), rng.gauss(0, 0.7), kept=kept))
                below.append(nodes[-1]["id"])
        level = below
    nodes += [node(len(nodes) + i, parent, steps, nodes[parent]["reward"]) for i, parent in enumerate(level)]
    return tree_of(nodes, steps, iteration)


def chain_tree(roots: int = 12, steps: int = 10, window: Iterable[int] = range(9)) -> dict[str, Any]:
    """Flow-GRPO (or a window of it): every member its own root."""
    rng, nodes = random.Random(3), []
    for root in range(roots):
        nodes.append(node(len(nodes), -1, 0, root / roots))
        for step in window:
            if nodes[-1]["step"] < step:
                nodes.append(node(len(nodes), len(nodes) - 1, step, root / roots))
            nodes.append(node(len(nodes), len(nodes) - 1, step + 1, root / roots, rng.gauss(0, 1)))
        nodes.append(node(len(nodes), len(nodes) - 1, steps, root / roots))
    return tree_of(nodes, steps)


def comb_tree(children: int = 6, steps: int = 10) -> dict[str, Any]:
    """TempFlow-GRPO: explorations of every step but the last hang on one deterministic trunk."""
    rng, nodes, trunk = random.Random(4), [node(0, -1, 0, 0.5)], 0
    for step in range(steps - 1):
        if step:
            nodes.append(node(len(nodes), trunk, step, 0.5))
            trunk = nodes[-1]["id"]
        for _ in range(children):
            reward = rng.random()
            nodes.append(node(len(nodes), trunk, step + 1, reward, 2 * reward - 1))
            nodes.append(node(len(nodes), len(nodes) - 1, steps, reward))
    return tree_of(nodes, steps)


def win_row(iteration: int, members: int, scorer: str = "preference") -> dict[str, Any]:
    """Everybody wins against those of a smaller number; neighbours tie."""
    wins = [
        [None if i == j else 0.5 if abs(i - j) == 1 else float(i > j) for j in range(members)] for i in range(members)
    ]
    return {"iteration": iteration, "scorer": scorer, "prompt": PROMPTS[0], "matrix": wins}
