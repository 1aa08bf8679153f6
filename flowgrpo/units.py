"""Credit and selection of one iteration: from rewards of samples to what each tree edge is trained with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from flowgrpo import recipe as recipe_sections
from flowgrpo.advantages import group_statistics, path_sums
from flowgrpo.credit import Tree
from flowgrpo.objective import Objective, select_units
from flowgrpo.recipe import Recipe
from flowgrpo.rewarding import Rewards
from flowgrpo.seeding import permutation
from flowgrpo.shared_rollout import SharedRollout
from samplers.rollout import FlowRollout

SHUFFLE = 1
"""Keeps the shuffle of rewards apart from the one that deals samples to updates."""


@dataclass(frozen=True, slots=True)
class Units:
    """What training needs of every edge of a rollout.

    advantages: [E] float64; keep: [E] bool; leaf_of, edge_of: pairs [P], which edges lead to which sample.
    """

    advantages: Tensor
    keep: Tensor
    leaf_of: Tensor
    edge_of: Tensor


def leaf_edge_pairs(rollout: FlowRollout) -> tuple[Tensor, Tensor]:
    """(leaf, edge) for every edge on the way to a leaf, both int64 [P]."""
    first, last = rollout.edge_leaves.unbind(1)
    counts = last - first
    edge_of = torch.arange(len(counts)).repeat_interleave(counts)
    within = torch.arange(len(edge_of)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    return first.repeat_interleave(counts) + within, edge_of


def shuffle_order(seed: int, iteration: int, size: int) -> Tensor:
    """Which sample each one takes its reward from in the control experiment, int64 [size]."""
    return permutation((seed, iteration, SHUFFLE), size)


def shuffled(rewards: Rewards, *, seed: int, iteration: int) -> Rewards:
    """The control experiment: every reward goes to another sample, drawn by (seed, iteration)."""
    order = shuffle_order(seed, iteration, len(rewards.valid))
    scores = {name: values[order] for name, values in rewards.scores.items()}
    return Rewards(scores, rewards.valid[order], rewards.components, rewards.errors)


def units_of(
    objective: Objective, recipe: Recipe, shared: SharedRollout, group: Tensor, rewards: Rewards, iteration: int
) -> Units:
    """Advantages of samples, fused upwards onto edges, and which edges are trained.

    Args:
        objective: resolved from the recipe.
        recipe: the run's recipe.
        shared: what was drawn; log-densities are needed where paths are weighed by them.
        group: group of each sample [N].
        rewards: of each sample.
        iteration: keys random selections.
    """
    rollout, tree = shared.whole, _tree(recipe.objective, shared, group)
    compare = partial(objective.advantages, weights=recipe.reward.names, combine=recipe.reward.combine)
    advantages, heard = objective.credit(compare, rewards.scores, rewards.valid, tree)
    first_leaf = rollout.edge_leaves[:, 0]
    keep = select_units(
        objective,
        advantages,
        heard,
        group=group[first_leaf],
        step=rollout.edge_step,
        sample=first_leaf,
        seed=recipe.train.seed,
        iteration=iteration,
        source=rollout.edge_input,
        leaves=rollout.edge_leaves,
    )
    return Units(advantages, keep, tree.leaf_of, tree.edge_of)


def _tree(section: recipe_sections.Objective, shared: SharedRollout, group: Tensor) -> Tree:
    """How the rollout's samples and edges hang together, as the recipe wants them compared and fused."""
    rollout = shared.whole
    leaf_of, edge_of = leaf_edge_pairs(rollout)
    logits = None
    if shared.log_probs is not None:
        logits = section.fusion_beta * path_sums(shared.log_probs.double(), leaf_of, edge_of, rollout.edge_step)
    peers = group if section.peers == "prompt" else rollout.sample_root
    return Tree(leaf_of, edge_of, rollout.edge_step, peers, logits)


def reward_metrics(recipe: Recipe, rewards: Rewards, group: Tensor) -> dict[str, float]:
    """The "reward/..." keys of an iteration: the weighted sum that is trained, and every scorer and component."""
    valid = rewards.valid
    total = rewards.total(recipe.reward.names)
    statistics = group_statistics(total, valid, group)
    metrics = {
        "reward/mean": total[valid].mean().item(),
        "reward/std": total[valid].std(correction=0).item(),
        "reward/group_std": statistics["group_std"],
        "reward/zero_std_groups": statistics["zero_std_groups"],
        "reward/invalid": rewards.invalid_share,
        "reward/dropped": 0.0 if rewards.dropped is None else rewards.dropped.double().mean().item(),
    }
    for name, values in {**rewards.scores, **rewards.components}.items():
        seen = values[torch.isfinite(values)]
        metrics[f"reward/{name}/mean"] = seen.mean().item()
        metrics[f"reward/{name}/std"] = seen.std(correction=0).item()
    return metrics
