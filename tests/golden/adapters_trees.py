"""Golden adapters of windows, trees and their credit: file stem -> function(inputs) -> outputs."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from flowgrpo.advantages import group_advantages, path_sums, to_edges, tree_advantages
from flowgrpo.select import extreme, last_split, pruned_steps
from samplers import sample_flow
from samplers.plans import cost, single_branch
from samplers.rollout import edge_log_probs
from samplers.windows import WINDOWS

Case = dict[str, Any]


def mix_window(case: Case) -> Case:
    """Each source's range is our `high`; windows that it cuts short are its defect, ours always have their width."""
    if case["strategy"] == "random":  # of the source only range and width can be compared
        return {"size": [case["window_size"]] * case["iterations"]}
    motion, options = _motion(case), _window_options(case)
    return {
        "left": [WINDOWS[motion](i, **options) for i in range(case["iterations"])],
        "size": [case["window_size"]] * case["iterations"],
    }


def _motion(case: Case) -> str:
    if case["strategy"] == "decay":
        return "linear_decay"
    return "rollover" if case["rule"] == "unirl_stateless" and case["roll_back"] else case["strategy"]


def _window_options(case: Case) -> Case:
    """UniRL's last place lies on the stride; the linear decay of MixGRPO's code has its own longest stay."""
    low, width, stride = case.get("init", 0), case["window_size"], case["stride"]
    last = {"mixgrpo_code": case.get("max_timesteps", case["T"] - 2), "paper_clamp": case["T"]}
    on_stride = low + (case["T"] - low - width) // max(1, stride) * stride + width
    return {
        "low": low,
        "high": last.get(case["rule"], on_stride),
        "width": width,
        "stride": stride,
        "tau": case.get("max_interval", 10) if case["strategy"] == "decay" else case["shift_interval"],
        "decay": case.get("exp_decay_k", 0.1),
        "decay_from": case.get("exp_decay_threshold", 13),
        "seed": 0,
    }


def branch_advantages(case: Case) -> Case:
    """The root is given to us as an edge of its own depth, so that all nodes have a value."""
    if case["mode"] == "edge_softmax_code":
        return {}
    leaf_of, edge_of, depth = _pairs(case)
    rewards = torch.tensor(case["leaf_reward"])
    valid = torch.ones(len(rewards), dtype=torch.bool)
    log_probs = torch.tensor([0.0, *case["edge_log_prob"][1:]])
    logits = case["beta"] * path_sums(log_probs, leaf_of, edge_of, depth) if "beta" in case else None
    fused, _ = to_edges(rewards, valid, leaf_of, edge_of, edges=len(depth), logits=logits)
    one_tree = torch.zeros(len(rewards), dtype=torch.int64)
    values, _ = tree_advantages(rewards, valid, leaf_of, edge_of, step=depth, peers=one_tree, logits=logits)
    return {"node_reward": fused, "node_advantage": values}


def branch_prune(case: Case) -> Case:
    """Width mode 1 is the source's defect; the paper's rule is tested beside the selections."""
    if case["mix_ode_sde"]:
        return {"total_edges": len(case["parent"]) - 1}
    step = torch.tensor(case["depth"][1:]) - 1
    keep = torch.ones(len(step), dtype=torch.bool)
    if case["train_step"] <= int(case["max_train_steps"] * case["pruning_step_ratio"]):
        if case["depth_pruning"]:
            keep &= ~torch.isin(step, torch.tensor(_removed(case)))
        if case["width_mode"] == 2:
            keep = _narrowed(case, step, keep)
    kept = (keep.nonzero().flatten() + 1).tolist()
    return {"total_edges": len(step), "kept_child_index": kept, "n_kept": len(kept)}


def _narrowed(case: Case, step: Tensor, keep: Tensor) -> Tensor:
    """Mode 2 ranks all late edges at once: that is Extreme-b where its share is a whole number of leaves."""
    source, advantages = torch.tensor(case["parent"][1:]), torch.tensor(case["node_advantage"][1:])
    late = keep & (step > max(case["split_steps"]))
    count, steps = max(2, int(late.sum() * case["width_ratio"])), len(step[late].unique())
    if steps and count % (2 * steps) == 0 and last_split(source, step) == max(case["split_steps"]):
        facts = {"step": step, "source": source, "group": source * 0}
        return extreme(advantages, keep, **facts, extreme_b=count // 2 // steps)
    order = [edge for edge in _depth_first(case["parent"]) if late[edge]]
    ranked = sorted(order, key=lambda edge: -advantages[edge].item())
    kept = keep & ~late
    kept[ranked[: count // 2] + ranked[max(0, len(ranked) - count + count // 2) :]] = True
    return kept


def _depth_first(parent: list[int]) -> list[int]:
    """Edges as their child's index less one, each followed by what is below it."""
    children: dict[int, list[int]] = defaultdict(list)
    for child, above in enumerate(parent):
        children[above].append(child)
    order, stack = [], [0]
    while stack:
        node = stack.pop()
        order.append(node - 1)
        stack.extend(reversed(children[node]))
    return order[1:]


def _removed(case: Case) -> list[int]:
    """The source counts depths, one more than the step of the edge, and slides towards earlier ones."""
    steps = sorted(int(depth) - 1 for depth in case["depth_pruning"].split(","))
    first = pruned_steps(
        case["train_step"] + 1,
        start=steps[0],
        last=max(case["depth"]) - 1,
        size=1,
        every=case["slide_interval"] if case["slide"] else case["train_step"] + 1,
        direction="earlier",
        stop=(case["stop_depth"] or max(case["split_steps"])) - 1,
    ).start
    return [step - steps[0] + first for step in steps]


def _pairs(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """(leaf, node) of every node on the way from a leaf to the root, and the nodes' depths."""
    pairs = []
    for leaf, node in enumerate(case["leaf_index"]):
        while node >= 0:
            pairs.append((leaf, node))
            node = case["parent"][node]
    leaf_of, edge_of = torch.tensor(pairs).unbind(1)
    return leaf_of, edge_of, torch.tensor(case["depth"])


def tempflow_branch(case: Case) -> Case:
    return _exploration(case) if case["kind"] == "rollout" else _columns(case)


def _columns(case: Case) -> Case:
    rewards = torch.tensor(case["reward"])
    names = sorted(set(case["group_key"]))
    group = torch.tensor([names.index(key) for key in case["group_key"]])
    valid = torch.ones(len(rewards), dtype=torch.bool)
    std = "global" if case["global_std"] else "group"
    columns = [group_advantages(column, valid, group, std=std) for column in rewards.T]
    return {"advantage": torch.stack(columns, 1)}


def _exploration(case: Case) -> Case:
    sigmas, children = case["sigmas"], case["K"]
    field, bias = case["field"], torch.tensor(case["field"]["b"])
    noise = torch.tensor(case["noise"])
    x = torch.tensor(case["x_init"])

    def velocity(x: Tensor, sigma: float, rows: Tensor) -> Tensor:
        return field["a"] * x + bias + field["c"] * sigma

    def recorded(key: tuple[int, ...], shape: Any) -> Tensor:
        root, *_, child, step = key
        return noise[step, root * children + child]

    plan = single_branch(sigmas, children)
    keys = [(root,) for root in range(len(x))]
    drawn = sample_flow(velocity, x, plan, eta=case["noise_level"], keys=keys, noise=recorded)
    points = len(sigmas) - 2

    def by_step(values: Tensor, step: Tensor) -> Tensor:
        return torch.stack([values[step == i] for i in range(points)])

    trunk = by_step(drawn.inputs, drawn.input_step)
    last = trunk[-1] + (sigmas[-2] - sigmas[-3]) * velocity(trunk[-1], sigmas[-3], drawn.input_root)
    return {
        "trunk": torch.cat([trunk, last[None]]),
        "branch_next": by_step(drawn.next, drawn.edge_step),
        "log_prob": by_step(edge_log_probs(drawn), drawn.edge_step),
        "final": by_step(drawn.samples, drawn.edge_step),
        "sample_nfe": cost(plan, len(x)).forwards,
    }


ADAPTERS = {
    "mix_window": mix_window,
    "branch_advantages": branch_advantages,
    "branch_prune": branch_prune,
    "tempflow_branch": tempflow_branch,
}
