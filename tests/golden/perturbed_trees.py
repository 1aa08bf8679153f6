"""Golden cases of trees that no file holds: K of 1 to 3, splits at any step, ties, odd shares, one explored step.

Written from the files' `equations` in plain Python and numpy, without any of our code.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from perturbed_steps import GRIDS, Case, Cases, case, flow_move, log_density, normal, rows

TREES = ((1, (), 2), (3, (0,), 1), (4, (0, 3), 2), (5, (1, 2), 3), (6, (0, 1, 4), 2))
"""(steps, split steps, children)."""


def tree_cases() -> Cases:
    for seed, (steps, splits, children) in enumerate(TREES):
        parent, depth, leaves = _grow(steps, splits, children)
        rewards = {"normal": normal(seed, len(leaves)), "tied": np.arange(len(leaves)) % 2 * 0.3}
        for values in rewards.values():
            for beta in (None, 0.0, 2.5):
                yield _advantages(seed, parent, depth, leaves, values, beta)
        if splits:  # without ties: the source gives those at the bottom to the last edge, we to the first
            yield from _prunings(parent, depth, leaves, rewards["normal"], splits)


def _grow(steps: int, splits: tuple[int, ...], children: int) -> tuple[list[int], list[int], list[int]]:
    """Parents and depths of all nodes, breadth first, and the leaves."""
    parent, depth, level = [-1], [0], [0]
    for step in range(steps):
        below = []
        for node in level:
            for _ in range(children if step in splits else 1):
                below.append(len(parent))
                parent.append(node)
                depth.append(step + 1)
        level = below
    return parent, depth, level


def _leaves_below(parent: list[int], leaves: list[int], node: int) -> list[int]:
    found = []
    for position, leaf in enumerate(leaves):
        while leaf > node:
            leaf = parent[leaf]
        if leaf == node:
            found.append(position)
    return found


def _path(parent: list[int], log_probs: list[float], leaf: int, node: int) -> float:
    total = 0.0
    while leaf != node:
        total += log_probs[leaf]
        leaf = parent[leaf]
    return total


def _fused(
    parent: list[int], leaves: list[int], rewards: np.ndarray, log_probs: list[float], beta: float | None
) -> np.ndarray:
    values = []
    for node in range(len(parent)):
        below = _leaves_below(parent, leaves, node)
        logits = np.array([(beta or 0.0) * _path(parent, log_probs, leaves[i], node) for i in below])
        weights = np.exp(logits - logits.max())
        values.append(float((weights / weights.sum() * rewards[below]).sum()))
    return np.array(values)


def _depthwise(values: np.ndarray, depth: list[int]) -> np.ndarray:
    out = np.zeros(len(values))
    for level in set(depth):
        nodes = [i for i, own in enumerate(depth) if own == level]
        spread = values[nodes].std(ddof=1) if len(nodes) > 1 else 0.0
        if spread >= 1e-6:
            out[nodes] = (values[nodes] - values[nodes].mean()) / (spread + 1e-8)
    return out


def _advantages(
    seed: int, parent: list[int], depth: list[int], leaves: list[int], rewards: np.ndarray, beta: float | None
) -> tuple[str, Case]:
    log_probs = normal(seed + 50, len(parent)).tolist()
    values = _fused(parent, leaves, rewards, log_probs, beta)
    inputs = {"mode": "uniform_code" if beta is None else "path_softmax_paper", "parent": parent, "depth": depth}
    inputs |= {"edge_log_prob": [None, *log_probs[1:]], "leaf_index": leaves, "leaf_reward": rewards}
    inputs |= {} if beta is None else {"beta": beta}
    outputs = {"node_reward": values, "node_advantage": _depthwise(values, depth)}
    return case("branch_advantages", inputs, outputs)


def _prunings(
    parent: list[int], depth: list[int], leaves: list[int], rewards: np.ndarray, splits: tuple[int, ...]
) -> Cases:
    advantages = _depthwise(_fused(parent, leaves, rewards, [0.0] * len(parent), None), depth)
    given = {"split_steps": list(splits), "parent": parent, "depth": depth, "node_advantage": advantages}
    given |= {"leaf_index": leaves, "leaf_reward": rewards, "mix_ode_sde": False, "mix_window": 4}
    given |= {"max_train_steps": 100, "pruning_step_ratio": 0.5, "slide_interval": 7, "stop_depth": None}
    last = max(depth)
    for train_step in (1, 20, 51):
        for depths in (None, f"{last}", f"{max(1, last - 2)},{last}"):
            for mode, ratio in ((0, 0.5), (2, 0.5), (2, 0.3), (2, 1.0)):
                settings = {"depth_pruning": depths, "slide": train_step == 20, "width_mode": mode}
                settings |= {"width_ratio": ratio, "train_step": train_step}
                yield _pruned(given | settings)


def _pruned(inputs: Case) -> tuple[str, Case]:
    depth, split = inputs["depth"], max(inputs["split_steps"])
    kept = list(range(1, len(depth)))
    if inputs["train_step"] <= int(inputs["max_train_steps"] * inputs["pruning_step_ratio"]):
        if inputs["depth_pruning"]:
            base = sorted(int(d) for d in inputs["depth_pruning"].split(","))
            moved = min(inputs["train_step"] // inputs["slide_interval"], max(0, base[0] - split))
            removed = {d - moved * inputs["slide"] for d in base}
            kept = [e for e in kept if depth[e] not in removed]
        if inputs["width_mode"] == 2:
            late = [e for e in _depth_first(inputs["parent"]) if e in kept and depth[e] - 1 > split]
            count = max(2, int(len(late) * inputs["width_ratio"]))
            ranked = sorted(late, key=lambda e: -inputs["node_advantage"][e])
            chosen = {*ranked[: count // 2], *ranked[len(ranked) - (count - count // 2) :]}
            kept = [e for e in kept if depth[e] - 1 <= split or e in chosen]
    outputs = {"total_edges": len(depth) - 1, "kept_child_index": kept, "n_kept": len(kept)}
    return case("branch_prune", inputs, outputs)


def _depth_first(parent: list[int]) -> list[int]:
    def below(node: int) -> list[int]:
        return [e for c, p in enumerate(parent) if p == node for e in (c, *below(c))]

    return below(0)


def exploration_cases() -> Cases:
    for seed, (grid, seeds, children) in enumerate(((GRIDS["two steps"], 1, 1), (GRIDS["starts below 1"], 3, 2))):
        yield _explored(seed, np.array(grid), seeds, children)
    for grid in map(np.array, GRIDS.values()):
        for trained in {1, len(grid) - 1}:
            yield _weights(grid, trained)


def _explored(seed: int, grid: np.ndarray, seeds: int, children: int) -> tuple[str, Case]:
    field = {"a": 0.3, "b": normal(seed, 3), "c": -0.2}
    steps = len(grid) - 1

    def v(x: np.ndarray, i: int) -> np.ndarray:
        return field["a"] * x + field["b"] + field["c"] * grid[i]

    x = normal(seed + 1, seeds, 3)
    noise = normal(seed + 2, steps - 1, seeds * children, 3)
    trunk, drawn, log_prob, final = [x], [], [], []
    for i in range(steps - 1):
        start = trunk[-1].repeat(children, 0)
        mean, g, root = flow_move(start, v(start, i), grid, np.array([i]), 0.7)
        std = rows(g * root, start)
        drawn.append(mean + std * noise[i])
        log_prob.append(log_density(drawn[-1], mean, std))
        end = drawn[-1]
        for j, (s, n) in list(enumerate(pairwise(grid)))[i + 1 :]:
            end = end + (n - s) * v(end, j)
        final.append(end)
        trunk.append(trunk[-1] + (grid[i + 1] - grid[i]) * v(trunk[-1], i))
    inputs = {"kind": "rollout", "sigmas": grid, "noise_level": 0.7, "n_seeds": seeds, "K": children, "field": field}
    outputs = {"trunk": np.array(trunk), "branch_next": np.array(drawn), "log_prob": np.array(log_prob)}
    outputs["final"] = np.array(final)
    return case(
        "tempflow_branch",
        inputs | {"x_init": x, "noise": noise},
        outputs | {"sample_nfe": _forwards(seeds, children, steps)},
    )


def _forwards(seeds: int, children: int, steps: int) -> int:
    return seeds * (steps - 1) + seeds * children * steps * (steps - 1) // 2


def _weights(grid: np.ndarray, trained: int) -> tuple[str, Case]:
    s = grid[:-1]
    raw = 0.7 * np.sqrt(s / np.where(s == 1, 1 - grid[1], 1 - s)) * np.sqrt(s - grid[1:])
    outputs = {"raw": raw, "norm_mean1": raw[:trained] / raw[:trained].mean(), "mean_raw": raw[:trained].mean()}
    inputs = {"sigmas": grid, "noise_level": 0.7, "n_train": trained, "source_constant": None}
    return case("tempflow_weights", inputs, outputs)
