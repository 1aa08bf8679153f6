"""The loop's numbers: micro-batches, sharing, forwards, stop criteria, evaluation, averaged weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from plan_table import PLANS

from flowgrpo.planning import plan_for, roots_per_group
from flowgrpo.recipe import Recipe
from flowgrpo.runfolder import read_jsonl
from flowgrpo.trainer import Trainer, check_run
from samplers import KERNELS
from samplers.plans import cost
from scripts.bench_sharing import sampled, separated, updated

Make = Callable[..., Recipe]


def trained(recipe: Recipe, iterations: int = 1) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """Weights and rows after some iterations, without evaluation or files."""
    trainer = Trainer(recipe)
    rows = [trainer.iterate(number) for number in range(1, iterations + 1)]
    trainer.pool.abandon()
    return trainer.policy.state_dict(), rows


def gradients(recipe: Recipe) -> dict[str, torch.Tensor]:
    """Gradient of the first update, before the optimizer moves."""
    trainer = Trainer(recipe)
    trainer.learner.optimizer.step = lambda *a, **k: None  # type: ignore[method-assign]
    trainer.iterate(1)
    trainer.pool.abandon()
    return {name: p.grad.clone() for name, p in trainer.policy.trainable().items() if p.grad is not None}


@pytest.mark.parametrize("changes", [{}, {"objective__kl": "mean_gap", "objective__beta": 0.1}])
def test_micro_batches_do_not_change_the_gradient(make_recipe: Make, changes: dict[str, Any]) -> None:
    """24 inputs in one micro-batch or in 24: equal up to float32 rounding, and the differences have no direction."""
    whole = gradients(make_recipe(train__micro_batch_size=24, train__max_grad_norm=1e9, **changes))
    single = gradients(make_recipe(train__micro_batch_size=1, train__max_grad_norm=1e9, **changes))
    assert whole.keys() == single.keys() and len(whole) > 4
    a = torch.cat([value.flatten() for value in whole.values()])
    b = torch.cat([single[name].flatten() for name in whole])
    scale = a.abs().max()
    assert scale > 0
    assert (a - b).abs().max() < 1e-4 * scale
    residual = (a - b)[a != 0] * a[a != 0].sign()
    assert residual.mean().abs() <= 4 * residual.std() / residual.numel() ** 0.5 + 1e-12


def test_first_update_is_on_policy_and_the_second_is_not(make_recipe: Make) -> None:
    _, rows = trained(make_recipe(train__updates_per_iteration=1))
    assert rows[0]["ratio_minus_1/max"] == 0.0 and rows[0]["on_policy"]
    _, rows = trained(make_recipe(train__updates_per_iteration=2))
    assert rows[0]["ratio_minus_1/max"] > 0.0 and not rows[0]["on_policy"]
    assert rows[0]["forwards/old"] == rows[0]["forwards/trained"] // 2


START_UPS = [
    (plan, kernel, ("float32", "bfloat16")[(i + j) % 2])
    for i, plan in enumerate(PLANS)
    for j, kernel in enumerate(name for name in KERNELS if name != "euler")
]
"""Every plan with every kernel, and both with either dtype."""


@pytest.mark.parametrize(("plan", "kernel", "dtype"), START_UPS)
def test_start_up_checks_hold(make_recipe: Make, plan: str, kernel: str, dtype: str) -> None:
    """First ratio 1 to the bit and the gap to the rollout below a tenth of the clip range, or `check_run` raises.

    In bfloat16 micro-batches of 3 round otherwise than rollout batches of 8: the range is ten times wider there.
    """
    clip = 1e-3 if dtype == "float32" else 1e-2
    row = check_run(
        make_recipe(
            **PLANS[plan],
            sampler__kernel=kernel,
            model__dtype=dtype,
            train__micro_batch_size=3,
            objective__clip_low=clip,
            objective__clip_high=clip,
        )
    )
    assert row["ratio_minus_1/max"] == 0.0
    assert row["rollout_gap"] <= clip / 10
    assert row["grad_norm"] > 0


@pytest.mark.parametrize("noise", ["separate", "shared"])
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_forwards_equal_the_plans_cost(make_recipe: Make, noise: str, solver: str) -> None:
    recipe = make_recipe(
        sampler__initial_noise=noise,
        sampler__solver=solver,
        sampler__window="random",
        sampler__window_width=1,
        sampler__window_high=3,
    )
    trainer = Trainer(recipe)
    seen = {"rows": 0}
    network = trainer.policy.parts()["network"]
    network.register_forward_hook(
        lambda module, args, kwargs, out: seen.__setitem__("rows", seen["rows"] + len(kwargs["hidden_states"])),
        with_kwargs=True,
    )
    row = trainer.iterate(1)
    trainer.pool.abandon()
    plan = plan_for(recipe, trainer.medium.sigmas, 1)
    price = cost(plan, recipe.train.prompts_per_iteration * roots_per_group(recipe))
    assert (row["forwards/sampling"], row["forwards/trained"]) == (price.forwards, price.trained_forwards)
    assert seen["rows"] == price.forwards + price.trained_forwards
    assert row["decodes"] == price.leaves == row["samples"]


def test_reference_forward_only_for_a_kl(make_recipe: Make) -> None:
    _, rows = trained(make_recipe(), 2)
    assert rows[1]["forwards/reference"] == 0
    _, rows = trained(make_recipe(objective__kl="mean_gap", objective__beta=0.1), 2)
    assert rows[1]["forwards/reference"] == rows[1]["forwards/trained"]
    assert rows[0]["kl"] < 1e-9 < rows[1]["kl"]


def test_full_fine_tuning_learns_and_has_a_frozen_reference(make_recipe: Make) -> None:
    recipe = make_recipe(model__adapter="full", train__lr=1e-3, objective__kl="mean_gap", objective__beta=1e-3)
    weights, rows = trained(recipe, 2)
    assert rows[1]["kl"] > 0 and len(weights) > 20


def test_reward_rises(make_recipe: Make) -> None:
    """Redness of a random pipeline: the last five of 25 iterations beat the first five by 3 standard errors."""
    recipe = make_recipe(
        train__lr=5e-3, train__group_size=8, model__adapter="full", train__iterations=25, sampler__kernel="cps"
    )
    _, rows = trained(recipe, 25)
    first, last = ([row["reward/mean"] for row in part] for part in (rows[:5], rows[-5:]))
    spread = torch.tensor(first).std() / 5**0.5
    assert sum(last) / 5 - sum(first) / 5 > 3 * spread


def test_evaluation_resumes_without_drawing_again(make_recipe: Make, files: Path, tmp_path: Path) -> None:
    from flowgrpo.evaluation import evaluate
    from flowgrpo.prompts import load_prompts

    recipe = make_recipe(eval__batch_size=2)
    prompts = load_prompts(files / "prompts.txt").prompts
    scorers = [f"{files / 'rewards.py'}:red"]
    out = tmp_path / "rows.jsonl"
    rows = evaluate(recipe, prompts=prompts, set_name="mine", scorers=scorers, out=out, images_per_prompt=2)
    lines = out.read_text().splitlines()
    assert len(lines) == 1 + 8 and rows[0]["n"] == 8 and rows[0]["prompts"] == 4
    out.write_text("\n".join(lines[:4]) + "\n" + lines[4][:10])
    drawn: list[int] = []
    again = evaluate(
        recipe,
        prompts=prompts,
        set_name="mine",
        scorers=scorers,
        out=out,
        images_per_prompt=2,
        progress=lambda done, total: drawn.append(total),
    )
    assert drawn[-1] == 5
    assert abs(again[0]["mean"] - rows[0]["mean"]) < 1e-6
    single = evaluate(recipe, prompts=prompts[2:3], set_name="one", scorers=scorers, images_per_prompt=2)
    assert abs(single[0]["mean"] - sum(_scores(out)[2]) / 2) < 1e-5  # a prompt's noise is its own in any set


def test_evaluations_of_a_run_keep_statistics_of_pictures_that_no_reward_sees(make_recipe: Make, files: Path) -> None:
    judged = {"eval__prompts": {"mine": str(files / "prompts.txt")}, "eval__scorers": (f"{files / 'rewards.py'}:red",)}
    result = Trainer(make_recipe(train__iterations=1, **judged)).run()
    rows = {row["scorer"]: row for row in read_jsonl(result.folder / "eval.jsonl") if row["label"] == "final"}
    assert {"image/edges", "image/sharpness", "image/colour_entropy"} < set(rows)
    assert all(0 <= rows[name]["mean"] <= 1 and rows[name]["n"] > 0 for name in rows if name.startswith("image/"))


def _scores(out: Path) -> dict[int, list[float]]:
    table: dict[int, list[float]] = {}
    for row in read_jsonl(out)[1:]:
        own = [value for name, value in row["scores"].items() if not name.startswith("image/")]
        table.setdefault(row["prompt"], []).extend(own)
    return table


def test_stops_by_time_and_plateau(make_recipe: Make, tmp_path: Path) -> None:
    result = Trainer(make_recipe(train__max_minutes=1e-6)).run()
    assert result.iterations == 1 and "minutes" in result.reason
    shutil.rmtree(tmp_path / "run")
    result = Trainer(make_recipe(train__iterations=40, train__plateau_patience=2, train__plateau_delta=10.0)).run()
    assert 7 <= result.iterations < 40 and "has not risen" in result.reason


def test_shuffled_rewards_keep_their_values_and_lose_their_samples(make_recipe: Make) -> None:
    from flowgrpo.rewarding import Rewards
    from flowgrpo.units import shuffled

    rewards = Rewards({"a": torch.arange(8.0)}, torch.ones(8, dtype=torch.bool), {}, {})
    again = shuffled(rewards, seed=1, iteration=3)
    assert sorted(again.scores["a"].tolist()) == list(range(8))
    assert again.scores["a"].tolist() != list(range(8))
    assert torch.equal(again.scores["a"], shuffled(rewards, seed=1, iteration=3).scores["a"])


@pytest.mark.parametrize("name", ["branch", "branch-mix", "single branch", "window"])
def test_sharing_a_forward_does_not_change_the_gradient(make_recipe: Make, name: str) -> None:
    """Of the whole iteration, credit and selection included: an input for each edge gives the shared gradient."""
    recipe = make_recipe(**PLANS[name], train__updates_per_iteration=1, train__max_grad_norm=1e9)
    trainer = Trainer(recipe)
    trainer.learner.optimizer.step = lambda *a, **k: None  # type: ignore[method-assign]
    drawn, _ = sampled(trainer)
    _, shared, gradient = updated(trainer, drawn)
    _, apart, gradient_apart = updated(trainer, replace(drawn, rollout=separated(drawn.rollout.own)))
    trainer.pool.abandon()
    assert shared < apart
    torch.testing.assert_close(gradient_apart, gradient, rtol=0, atol=1e-5 * gradient.abs().max().item())
