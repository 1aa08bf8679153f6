"""A rollout's tree as a row: shape, credit and fused rewards of every kind of plan."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor

from flowgrpo.tree_record import tree_row
from samplers import FlowRollout, sample_flow
from samplers.plans import Plan, Step, all_steps, branch, single_branch, window

GRID = (1.0, 0.8, 0.6, 0.4, 0.2, 0.0)


def rollout_of(plan: Plan, roots: int) -> FlowRollout:
    latents = torch.randn(roots, 2, generator=torch.Generator().manual_seed(0))
    return sample_flow(lambda x, sigma, rows: -x, latents, plan, keys=[(5, root) for root in range(roots)])


def row_of(rollout: FlowRollout, roots: list[int], rewards: Tensor | None = None) -> dict:
    leaves, edges = len(rollout.sample_root), len(rollout.edge_step)
    rewards = torch.arange(leaves, dtype=torch.float64) if rewards is None else rewards
    credit, keep = torch.arange(edges, dtype=torch.float64), torch.arange(edges) % 2 == 0
    return tree_row(rollout, rewards, credit, keep, group=3, roots=roots, prompt="p", iteration=7)


def leaves_of(row: dict) -> list[dict]:
    parents = {node["parent"] for node in row["nodes"]}
    return [node for node in row["nodes"] if node["id"] not in parents]


def way(row: dict, node: dict) -> list[tuple[int, bool]]:
    """(level, noise) from the root to a node."""
    above = [] if node["parent"] < 0 else way(row, row["nodes"][node["parent"]])
    return [*above, (node["step"], node["noise"])]


def test_a_chain_is_a_line_of_draws_and_a_last_ode_step() -> None:
    row = row_of(rollout_of(all_steps(GRID), 3), [0, 2])
    assert [row[key] for key in ("iteration", "prompt", "group", "sigmas")] == [7, "p", 3, list(GRID)]
    assert [node["parent"] for node in row["nodes"]].count(-1) == 2
    ways = [way(row, leaf) for leaf in leaves_of(row)]
    assert ways == [[(0, False), (1, True), (2, True), (3, True), (4, True), (5, False)]] * 2
    assert [leaf["reward"] for leaf in leaves_of(row)] == [0.0, 2.0]


def test_a_window_begins_after_one_ode_stretch_that_the_group_shares() -> None:
    row = row_of(rollout_of(window(GRID, 2, 1, children=3), 1), [0])
    assert [way(row, leaf) for leaf in leaves_of(row)] == [[(0, False), (2, False), (3, True), (5, False)]] * 3
    assert len(row["nodes"]) == 1 + 1 + 3 + 3


def test_a_tree_forks_where_it_splits_and_its_nodes_are_means_of_their_leaves() -> None:
    row = row_of(rollout_of(branch(GRID, [0, 2]), 1), [0])
    by_level = {level: [node for node in row["nodes"] if node["step"] == level] for level in range(6)}
    assert [len(by_level[level]) for level in range(6)] == [1, 2, 2, 4, 4, 4]
    assert [node["reward"] for node in by_level[1]] == [0.5, 2.5]
    assert [node["reward"] for node in by_level[3]] == [0.0, 1.0, 2.0, 3.0]
    assert by_level[0][0]["reward"] == 1.5


def test_credit_and_selection_are_those_of_the_edge_that_leads_to_the_node() -> None:
    rollout = rollout_of(branch(GRID, [0, 2]), 2)
    row = row_of(rollout, [1])
    edges = [edge for edge in range(len(rollout.edge_step)) if rollout.edge_leaves[edge, 0] >= 4]
    drawn = [node for node in row["nodes"] if node["noise"]]
    assert sorted(node["advantage"] for node in drawn) == edges
    for node in drawn:
        edge = int(node["advantage"])
        first, last = rollout.edge_leaves[edge].tolist()
        assert node["step"] == int(rollout.edge_step[edge]) + 1
        assert node["kept"] is (edge % 2 == 0)
        assert node["reward"] == sum(range(first, last)) / (last - first)
    assert all(node["advantage"] is node["kept"] is None for node in row["nodes"] if not node["noise"])


def test_a_comb_hangs_its_explorations_on_one_trunk() -> None:
    row = row_of(rollout_of(single_branch(GRID, 3), 2), [1])
    trunk = [node for node in row["nodes"] if not node["noise"] and node["step"] < 5]
    assert [node["step"] for node in trunk] == [0, 1, 2, 3]
    assert [node["parent"] for node in trunk] == [-1, *(node["id"] for node in trunk[:-1])]
    assert len(leaves_of(row)) == 12
    explored = [row["nodes"][node["parent"]]["step"] for node in row["nodes"] if node["noise"]]
    assert sorted(explored) == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3


def test_a_trunk_that_ends_in_a_leaf_of_its_own_keeps_it() -> None:
    fork = Step(kind="sde", children=2, keep_trunk=True, trained=True)
    row = row_of(rollout_of(Plan(GRID, (Step(), fork, Step(), fork, Step())), 1), [0])
    ways = [way(row, leaf) for leaf in leaves_of(row)]
    assert ways[-1] == [(0, False), (1, False), (3, False), (5, False)]
    assert len(ways) == 5


def test_branches_that_are_not_trained_keep_their_own_twigs() -> None:
    split = Step(kind="sde", children=2)
    trained = Step(kind="sde", trained=True)
    row = row_of(rollout_of(Plan(GRID, (split, Step(), trained, trained, Step())), 1), [0])
    assert [way(row, leaf) for leaf in leaves_of(row)] == [
        [(0, False), (2, False), (3, True), (4, True), (5, False)]
    ] * 2


def test_an_ode_group_and_unscored_leaves() -> None:
    rewards = torch.tensor([math.nan, 1.0], dtype=torch.float64)
    row = row_of(rollout_of(Plan(GRID, (Step(),) * 5), 2), [0, 1], rewards)
    assert [node["reward"] for node in row["nodes"]] == [None, 1.0, None, 1.0]
    assert json.loads(json.dumps(row, allow_nan=False)) == row


@pytest.mark.parametrize(
    "plan", [branch(GRID, [1], 3, sde_steps=[3]), single_branch(GRID, 2), all_steps(GRID, children=4)]
)
def test_parents_come_first_and_levels_increase(plan: Plan) -> None:
    row = row_of(rollout_of(plan, 2), [0, 1])
    for place, node in enumerate(row["nodes"]):
        assert node["id"] == place and node["parent"] < place
        if node["parent"] >= 0:
            assert row["nodes"][node["parent"]]["step"] < node["step"]
    assert sum(node["noise"] for node in row["nodes"]) == len(rollout_of(plan, 2).edge_step)


def test_lengths_and_roots_are_checked() -> None:
    rollout = rollout_of(all_steps(GRID), 2)
    ones = torch.ones(8)
    with pytest.raises(ValueError, match=r"rewards must be \[2\], one per leaf"):
        tree_row(rollout, ones, ones, ones > 0, group=0, roots=[0], prompt="", iteration=1)
    with pytest.raises(ValueError, match=r"keep must be \[8\], one per trained edge"):
        tree_row(rollout, ones[:2], ones, ones[:3] > 0, group=0, roots=[0], prompt="", iteration=1)
    with pytest.raises(ValueError, match="no leaf"):
        tree_row(rollout, ones[:2], ones, ones > 0, group=0, roots=[9], prompt="", iteration=1)
