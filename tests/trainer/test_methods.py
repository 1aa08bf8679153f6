"""Plans, ratios, weights, credits, selections and reward kinds compose: what is legal trains, the rest is refused."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from plan_table import PLANS

from flowgrpo.errors import RecipeError
from flowgrpo.geometry import geometry
from flowgrpo.recipe import Recipe
from flowgrpo.runfolder import read_jsonl
from flowgrpo.trainer import Trainer

Make = Callable[..., Recipe]

RATIOS: dict[str, dict[str, Any]] = {
    "plain": {},
    "guard": {},
    "unscaled": {"sampler__kernel": "cps", "sampler__density": "unscaled"},
}
WEIGHTS = ("uniform", "inverse_dt", "noise_level")
CREDITS: dict[str, dict[str, Any]] = {
    "sample": {},
    "step": {"objective__credit": "step"},
    "path": {"objective__credit": "step", "objective__fusion": "path_softmax"},
}
REWARDS = ("pointwise", "pairwise", "both")

JUDGE = """
from reward_models import pairwise_judge

@pairwise_judge
def redder(prompts, images_a, images_b):
    return (images_a[:, 0].mean((1, 2)) > images_b[:, 0].mean((1, 2))).double()
"""


def combinations() -> list[tuple[str, str, str, str, str]]:
    """A covering design: every pair of values of any two of the five choices occurs."""
    tables = [list(PLANS), list(RATIOS), list(WEIGHTS), list(CREDITS), list(REWARDS)]
    chosen: list[tuple[str, ...]] = []
    missing = {
        (i, a, j, b)
        for (i, left), (j, right) in itertools.combinations(enumerate(tables), 2)
        for a, b in itertools.product(left, right)
    }

    def covered(row: tuple[str, ...]) -> set[tuple[int, str, int, str]]:
        return {(i, row[i], j, row[j]) for i, j in itertools.combinations(range(5), 2)}

    everything = list(itertools.product(*tables))
    while missing:
        best = max(everything, key=lambda row: len(covered(row) & missing))
        chosen.append(best)
        missing -= covered(best)
    return chosen  # type: ignore[return-value]


@pytest.mark.parametrize(("plan", "ratio", "weight", "credit", "reward"), combinations())
def test_every_pair_of_choices_trains(
    make_recipe: Make, tmp_path: Path, plan: str, ratio: str, weight: str, credit: str, reward: str
) -> None:
    (tmp_path / "judge.py").write_text(JUDGE)
    point = next(iter(make_recipe().reward.names))
    pair = f"{tmp_path / 'judge.py'}:redder"
    names = {"pointwise": {point: 1.0}, "pairwise": {pair: 1.0}, "both": {point: 0.5, pair: 0.5}}[reward]
    recipe = make_recipe(
        **PLANS[plan],
        **CREDITS[credit],
        **RATIOS[ratio],
        objective__ratio=ratio,
        objective__weight=weight,
        reward__names=names,
        train__updates_per_iteration=2,
        run__checkpoint_every=2,
    )
    trainer = Trainer(recipe)
    rows = [trainer.iterate(number) for number in (1, 2)]
    trainer.pool.abandon()
    for row in rows:
        counts = geometry(recipe, iteration=row["iteration"])
        assert row["samples"] == counts.samples == row["decodes"]
        assert row["forwards/sampling"] == counts.sampling
        assert row["forwards/trained"] <= counts.trained
        assert row["grad_norm"] > 0 and math.isfinite(row["loss"])
    assert [tree["iteration"] for tree in read_jsonl(trainer.folder.trees)] == [1, 2]
    assert len(read_jsonl(trainer.folder.matrices)) == (0 if reward == "pointwise" else 2)


@pytest.mark.parametrize("name", ["parent_top1", "extreme", "depth_window"])
def test_pruned_trees_train_what_geometry_counts(make_recipe: Make, name: str) -> None:
    recipe = make_recipe(
        sampler__plan="branch",
        sampler__split_steps=[0, 1],
        sampler__steps=6,
        objective__credit="step",
        objective__select=name,
        objective__extreme_b=1,
        objective__prune_depths=2,
    )
    trainer = Trainer(recipe)
    row = trainer.iterate(1)
    trainer.pool.abandon()
    counts = geometry(recipe)
    assert counts.exact and counts.trained_edges < counts.edges
    assert (row["units/kept"], row["forwards/trained"]) == (counts.trained_edges, counts.trained)


def test_two_selections_choose_one_after_the_other(make_recipe: Make) -> None:
    recipe = make_recipe(
        sampler__plan="branch",
        sampler__split_steps=[0, 1],
        sampler__steps=6,
        objective__credit="step",
        objective__select=["depth_window", "extreme"],
        objective__extreme_b=1,
        objective__prune_depths=2,
    )
    trainer = Trainer(recipe)
    row = trainer.iterate(1)
    trainer.pool.abandon()
    assert row["units/kept"] == geometry(recipe).trained_edges


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"sampler__plan": "branch"}, "names no step, so a branch plan has no branches"),
    ({"sampler__plan": "branch", "sampler__split_steps": [0, 3]}, "splits lie in 0 to 2"),
    ({"sampler__plan": "branch", "sampler__split_steps": [0, 1, 2]}, "ends in 8 samples, of which a group of 4"),
    ({"sampler__plan": "single_branch", "sampler__children": 3}, "ends in 9 samples"),
    ({"sampler__split_steps": [1]}, "belongs to plan branch, not to chain"),
    ({"sampler__tail_ratio": 0.5}, "there is no tail to shorten"),
    ({"sampler__window": "frozen", "sampler__window_width": 4}, "does not fit into the range 0 to 3"),
    ({"sampler__window": "frozen", "sampler__window_high": 4}, "only steps before 3 of 4 may be stochastic"),
    ({"objective__select": "parent_top1"}, "prunes trees below their last split, which a chain plan does not have"),
    ({"objective__peers": "noise"}, "every sample starts from its own"),
    ({"objective__ratio": "sequence"}, "which the flow likelihood does not give"),
    ({"objective__kl": "k3", "objective__beta": 0.1}, "which the flow likelihood does not give"),
    ({"sampler__plan": "branhc"}, "did you mean 'branch'"),
    ({"sampler__window": "progresive"}, "did you mean 'progressive'"),
    ({"objective__select": ["all", "extrem"]}, "did you mean 'extreme'"),
]


@pytest.mark.parametrize(("changes", "reason"), REFUSED)
def test_what_cannot_work_is_refused_with_the_reason(make_recipe: Make, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        Trainer(make_recipe(**changes))
