"""Credit over trees: chains and trees of one child, fusion, peers, and pruning against the published numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from flowgrpo.advantages import group_advantages, path_sums, to_edges, tree_advantages
from flowgrpo.credit import CREDITS, Tree
from flowgrpo.select import depth_window, extreme, last_split, parent_top1, pruned_steps
from flowgrpo.units import leaf_edge_pairs
from samplers import sample_flow
from samplers.plans import all_steps, branch, single_branch
from samplers.rollout import FlowRollout, edge_log_probs

GRID = (1.0, 0.8, 0.6, 0.4, 0.2, 0.0)


def rollout(plan, roots: int = 2) -> FlowRollout:
    x = torch.randn(roots, 3, generator=torch.Generator().manual_seed(3))
    return sample_flow(lambda x, sigma, rows: 0.3 * x - sigma, x, plan, keys=[(9, i) for i in range(roots)])


def rewards_of(drawn: FlowRollout) -> tuple[Tensor, Tensor]:
    rewards = torch.randn(len(drawn.samples), generator=torch.Generator().manual_seed(4)).double()
    return rewards, torch.ones(len(rewards), dtype=torch.bool)


def compare(rewards: dict[str, Tensor], valid: Tensor, group: Tensor) -> Tensor:
    return group_advantages(rewards["r"], valid, group)


def credited(drawn: FlowRollout, credit: str, peers: Tensor, logits: Tensor | None = None) -> Tensor:
    rewards, valid = rewards_of(drawn)
    tree = Tree(*leaf_edge_pairs(drawn), drawn.edge_step, peers, logits)
    return CREDITS[credit](compare, {"r": rewards}, valid, tree)[0]


def test_chains_get_the_same_credit_by_sample_and_by_step() -> None:
    drawn = rollout(all_steps(GRID), roots=6)
    group = drawn.sample_root // 3
    by_sample, by_step = (credited(drawn, name, group) for name in ("sample", "step"))
    torch.testing.assert_close(by_step, by_sample, rtol=1e-12, atol=1e-12)
    rewards, valid = rewards_of(drawn)
    torch.testing.assert_close(by_sample.reshape(6, 4)[:, 2], group_advantages(rewards, valid, group))


def test_a_tree_of_one_child_is_the_chain() -> None:
    chain, tree = rollout(all_steps(GRID), 4), rollout(branch(GRID, [0, 2], children=1, split_noise=None), 4)
    torch.testing.assert_close(tree.samples, chain.samples, rtol=0, atol=0)
    group = chain.sample_root * 0
    torch.testing.assert_close(credited(tree, "step", group), credited(chain, "step", group), rtol=0, atol=0)


@pytest.mark.parametrize("credit", CREDITS)
def test_advantages_of_a_step_are_centred_among_peers(credit: str) -> None:
    drawn = rollout(branch(GRID, [0, 2], children=3), roots=2)
    values = credited(drawn, credit, drawn.sample_root)
    leaves = drawn.edge_leaves[:, 1] - drawn.edge_leaves[:, 0]
    for root in range(2):
        for step in range(4):
            here = (drawn.edge_step == step) & (drawn.sample_root[drawn.edge_leaves[:, 0]] == root)
            assert (values * leaves)[here].sum().abs() < 1e-9


def test_tempflow_columns_are_seed_groups() -> None:
    """Each exploration is compared with those of the same initial noise at the same step, and with no other."""
    drawn = rollout(single_branch(GRID, 3), roots=2)
    rewards, _ = rewards_of(drawn)
    values = credited(drawn, "step", drawn.sample_root)
    for root in range(2):
        for step in range(4):
            edges = (
                ((drawn.edge_step == step) & (drawn.sample_root[drawn.edge_leaves[:, 0]] == root)).nonzero().flatten()
            )
            own = rewards[drawn.edge_leaves[edges, 0]]
            want = (own - own.mean()) / (own.std(correction=0) + 1e-4)
            torch.testing.assert_close(values[edges], want)


def test_fusion_limits() -> None:
    """Beta 0 is the mean; a large beta takes the most probable path; invalid leaves are left out of both."""
    drawn = rollout(branch(GRID, [0, 2], children=2), roots=1)
    rewards, valid = rewards_of(drawn)
    valid[1] = False
    rewards[1] = torch.nan
    pairs, edges = leaf_edge_pairs(drawn), len(drawn.edge_step)
    sums = path_sums(edge_log_probs(drawn).double(), *pairs, drawn.edge_step)
    mean, heard = to_edges(rewards, valid, *pairs, edges=edges)
    zero, _ = to_edges(rewards, valid, *pairs, edges=edges, logits=0 * sums)
    torch.testing.assert_close(zero, mean, rtol=1e-12, atol=1e-12)
    sharp, _ = to_edges(rewards, valid, *pairs, edges=edges, logits=1e6 * sums)
    for edge in range(edges):
        first, last = drawn.edge_leaves[edge].tolist()
        open_leaves = [leaf for leaf in range(first, last) if valid[leaf]]
        assert heard[edge] == bool(open_leaves)
        if open_leaves:
            paths = {leaf: sums[(pairs[0] == leaf) & (pairs[1] == edge)].item() for leaf in open_leaves}
            assert sharp[edge] == rewards[max(paths, key=paths.__getitem__)]
            assert abs(mean[edge] - rewards[open_leaves].mean()) < 1e-12


def test_path_sums_count_what_lies_below() -> None:
    drawn = rollout(all_steps(GRID), roots=2)
    leaf_of, edge_of = leaf_edge_pairs(drawn)
    log_probs = torch.arange(1.0, 9.0).double()
    sums = path_sums(log_probs, leaf_of, edge_of, drawn.edge_step)
    below = torch.empty(8).double().index_copy(0, edge_of, sums)
    assert below.tolist() == [9.0, 7.0, 4.0, 0.0, 21.0, 15.0, 8.0, 0.0]


def test_flat_steps_teach_nothing() -> None:
    drawn = rollout(branch(GRID, [0, 2], children=2), roots=1)
    rewards = 0.3 + 1e-8 * torch.arange(4.0).double()
    valid = torch.ones(4, dtype=torch.bool)
    pairs = leaf_edge_pairs(drawn)
    values, _ = tree_advantages(rewards, valid, *pairs, step=drawn.edge_step, peers=drawn.sample_root)
    assert (values == 0).all()
    values, _ = tree_advantages(rewards, valid, *pairs, step=drawn.edge_step, peers=drawn.sample_root, min_std=0.0)
    assert (values != 0).any()


PRUNING = json.loads((Path(__file__).parents[1] / "golden" / "branch_prune.json").read_text())["cases"]


def test_parent_top1_is_the_papers_rule() -> None:
    """The published code truncates chains instead; the golden file gives the paper's answer beside it."""
    cases = [case for case in PRUNING if "paper_parent_top1_kept_child_index" in case["outputs"]]
    assert cases
    for case in cases:
        inputs = case["inputs"]
        parent, depth = inputs["parent"], inputs["depth"]
        below: dict[int, list[int]] = {node: [] for node in range(len(parent))}
        for leaf, node in enumerate(inputs["leaf_index"]):
            while node > 0:
                below[node].append(leaf)
                node = parent[node]
        leaves = torch.tensor([[min(below[node]), max(below[node]) + 1] for node in range(1, len(parent))])
        source, step = torch.tensor(parent[1:]), torch.tensor(depth[1:]) - 1
        advantages = torch.tensor(inputs["node_advantage"][1:])
        valid = torch.ones(len(step), dtype=torch.bool)
        assert last_split(source, step) == max(inputs["split_steps"])
        keep = parent_top1(advantages, valid, step=step, source=source, leaves=leaves)
        assert (keep.nonzero().flatten() + 1).tolist() == case["outputs"]["paper_parent_top1_kept_child_index"]


def test_extreme_keeps_the_ends_of_each_prompt() -> None:
    drawn = rollout(branch(GRID, [0, 1], children=3), roots=2)
    values = torch.randn(len(drawn.samples), generator=torch.Generator().manual_seed(0)).double()
    edge_values, valid = to_edges(
        values, torch.ones(18, dtype=torch.bool), *leaf_edge_pairs(drawn), edges=len(drawn.edge_step)
    )
    group = drawn.sample_root[drawn.edge_leaves[:, 0]]
    keep = extreme(edge_values, valid, group=group, step=drawn.edge_step, source=drawn.edge_input, extreme_b=2)
    assert keep[drawn.edge_step <= 1].all()
    for root in range(2):
        ranked = (values[9 * root : 9 * root + 9]).argsort() + 9 * root
        want = sorted([*ranked[:2].tolist(), *ranked[-2:].tolist()])
        for step in (2, 3):
            here = keep & (drawn.edge_step == step) & (group == root)
            assert drawn.edge_leaves[here, 0].tolist() == want


def test_the_pruned_window_moves_by_its_rule() -> None:
    later = [pruned_steps(i, start=9, last=18, size=4, every=30).start for i in (1, 30, 31, 61, 1000)]
    assert later == [9, 9, 10, 11, 15]
    earlier = [pruned_steps(i, start=9, last=18, every=30, direction="earlier", stop=7).start for i in (1, 31, 91)]
    assert earlier == [9, 8, 7]
    assert len(pruned_steps(1000, start=9, last=18)) == 4
    drawn = rollout(branch(GRID, [0, 1], children=2), roots=1)
    valid = torch.ones(len(drawn.edge_step), dtype=torch.bool)
    options = {"prune_depths": 2, "prune_every": 1, "prune_direction": "later", "prune_stop": None}
    keep = depth_window(valid.double(), valid, step=drawn.edge_step, source=drawn.edge_input, iteration=2, **options)
    assert set(drawn.edge_step[keep].tolist()) == {0, 1}
