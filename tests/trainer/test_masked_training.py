"""Masked language models in the same trainer: recipes, masks, gradients, resume, evaluation, refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from flowgrpo.errors import FlowgrpoError, RecipeError
from flowgrpo.evaluation import evaluate
from flowgrpo.likelihoods import LIKELIHOODS
from flowgrpo.mask_plans import ESTIMATORS, STEP_WEIGHTS
from flowgrpo.masked_geometry import answer_geometry
from flowgrpo.media import MEDIA
from flowgrpo.preflight import preflight
from flowgrpo.prompts import load_prompts
from flowgrpo.recipe import KINDS, MASK_SCHEDULES, ORDERS, REMASKINGS, Recipe
from flowgrpo.recipe import LIKELIHOODS as LIKELIHOOD_NAMES
from flowgrpo.recipe import STEP_WEIGHTS as STEP_WEIGHT_NAMES
from flowgrpo.recipe_loading import load_recipe
from flowgrpo.runfolder import read_jsonl
from flowgrpo.trainer import Trainer, check_run
from samplers.masked_remasking import REMASKINGS as REMASKING_TABLE
from samplers.masked_schedules import SCHEDULES
from samplers.masked_tokens import ORDERS as ORDER_TABLE
from tests import masked_toys as toys

Make = Callable[..., Recipe]
DEMOS = ("diffu_grpo_demo", "coupled_grpo_demo", "gdpo_demo", "mdpo_demo")
REWARDS = """
def digits(texts, prompts, metadata):
    return [sum(c.isdigit() for c in text) / 6 for text in texts]
"""


@pytest.fixture(scope="session")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return toys.modernbert(tmp_path_factory.mktemp("language") / "model")


@pytest.fixture
def make(language_model: Path, tmp_path: Path) -> Make:
    """A shipped demo over the tiny random model: two prompts of four answers of six tokens."""
    rewards, prompts = tmp_path / "rewards.py", tmp_path / "prompts.jsonl"
    rewards.write_text(REWARDS)
    lines = [{"prompt": f"{i}+{i * i}=", "category": "even" if i % 2 == 0 else "odd"} for i in range(1, 7)]
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def build(name: str = "diffu_grpo_demo", **changes: Any) -> Recipe:
        values = {
            "model.path": str(language_model),
            "data.prompts": str(prompts),
            "sampler.gen_length": 6,
            "sampler.steps": 6,
            "sampler.batch_size": 8,
            "reward.names": f"{rewards}:digits",
            "eval.scorers": [f"{rewards}:digits"],
            "eval.prompts": {"mine": str(prompts)},
            "eval.batch_size": 4,
            "train.prompts_per_iteration": 2,
            "train.group_size": 4,
            "train.micro_batch_size": 3,
            "train.iterations": 2,
            "train.max_minutes": None,
            "train.lr": 1e-3,
            "run.dir": str(tmp_path / "run"),
            "run.images": 2,
            "run.checkpoint_every": 1,
        }
        values.update({key.replace("__", "."): value for key, value in changes.items()})
        return load_recipe(name, values).recipe

    return build


def iterated(recipe: Recipe, count: int = 1) -> tuple[Trainer, list[dict[str, Any]]]:
    trainer = Trainer(recipe)
    rows = [trainer.iterate(number) for number in range(1, count + 1)]
    trainer.pool.abandon()
    return trainer, rows


def gradients(recipe: Recipe) -> torch.Tensor:
    """Gradient of the first update, all parameters in a row."""
    trainer = Trainer(recipe)
    trainer.learner.optimizer.step = lambda *a, **k: None  # type: ignore[method-assign]
    trainer.iterate(1)
    trainer.pool.abandon()
    held = [p.grad for p in trainer.policy.trainable().values() if p.grad is not None]
    assert len(held) == len(trainer.policy.trainable())
    return torch.cat([grad.flatten() for grad in held])


def test_names_of_the_recipe_are_the_keys_of_the_tables() -> None:
    assert set(KINDS) == set(MEDIA) == {facts.kind for facts in LIKELIHOODS.values()}
    assert set(LIKELIHOOD_NAMES) == set(LIKELIHOODS)
    assert set(ESTIMATORS) == set(LIKELIHOODS) - {"gaussian", "trajectory"}
    assert set(STEP_WEIGHT_NAMES) == set(STEP_WEIGHTS)
    assert set(ORDERS) == set(ORDER_TABLE) and set(REMASKINGS) == set(REMASKING_TABLE)
    assert set(MASK_SCHEDULES) == set(SCHEDULES)


@pytest.mark.parametrize("name", DEMOS)
def test_every_demo_trains_from_start_to_report(make: Make, name: str, tmp_path: Path) -> None:
    recipe = make(name)
    trainer = Trainer(recipe)
    result = trainer.run()
    rows, counts = read_jsonl(trainer.folder.metrics), answer_geometry(recipe)
    assert result.iterations == 2 == len(rows)
    for row in rows:
        assert row["grad_norm"] > 0 and row["samples"] == counts.samples == 8
        assert 0 < row["forwards/trained"] <= counts.trained and row["forwards/old"] <= counts.old
        assert 0 < row["forwards/sampling"] <= counts.sampling and row["scored"] <= counts.scored
        assert row["updates"] == counts.updates and row["on_policy"] == counts.on_policy
        assert 0 < row["answer/length"] <= 6
    scorers = {row["scorer"] for row in read_jsonl(trainer.folder.evaluations)}
    assert {"length", "forwards"} < scorers
    answers = json.loads(trainer.folder.answers.read_text())
    assert [column["label"] for column in answers["columns"]] == ["before", "after"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert 'id="answers"' in page and 'id="pictures"' not in page


@pytest.mark.parametrize("name", DEMOS)
def test_start_up_checks_hold(make: Make, name: str) -> None:
    """First ratio 1 to the bit; recorded steps also see the density that the rollout drew from."""
    row = check_run(make(name, train__inner_epochs=1, model__adapter="lora", model__lora_rank=2))
    assert row["ratio_minus_1/max"] == 0.0
    if name == "mdpo_demo":
        assert row["rollout_gap"] < 1e-4
    else:
        assert "rollout_gap" not in row


@pytest.mark.parametrize("name", DEMOS)
def test_micro_batches_do_not_change_the_gradient(make: Make, name: str) -> None:
    """Eight answers in one micro-batch or in eight, over two reference-penalised views."""
    changes = {"train__inner_epochs": 1, "train__max_grad_norm": 1e9, "objective__kl": "k2", "objective__beta": 0.1}
    whole = gradients(make(name, train__micro_batch_size=8, **changes))
    single = gradients(make(name, train__micro_batch_size=1, **changes))
    scale = whole.abs().max()
    assert scale > 0 and (whole - single).abs().max() < 1e-4 * scale


def test_the_batch_of_a_rollout_does_not_show(make: Make) -> None:
    rows = [iterated(make(sampler__batch_size=size))[1][0] for size in (4, 8)]
    assert rows[0]["reward/mean"] == rows[1]["reward/mean"]
    assert rows[0]["answer/length"] == rows[1]["answer/length"]
    assert abs(rows[0]["loss"] - rows[1]["loss"]) < 1e-5


def test_masks_are_fresh_every_epoch_or_shared_by_all(make: Make) -> None:
    """Old scores are computed once per plan, all but the first update's, whose policy still is the old one."""
    trainer, (row,) = iterated(make("gdpo_demo", train__inner_epochs=3))
    views, kept = 2, row["units/kept"]
    assert row["forwards/old"] == 2 * views * kept
    _, (row,) = iterated(make("gdpo_demo", train__inner_epochs=3, objective__fresh_masks=False))
    assert row["forwards/old"] == views * row["units/kept"]
    collected = trainer.medium.collect(
        trainer._prompts(1), Trainer(make("gdpo_demo")).pool, iteration=1, clock=trainer.clock, between=lambda *_: None
    )
    work: Any = trainer.medium.work(collected, trainer.objective, 1)
    first, second = (plan.views[0].scored for plan in work.plans[:2])
    assert len(work.plans) == 3 and not torch.equal(first, second)
    assert torch.equal(work.plans[0].rows(slice(0, 2)).views[0].scored, first[:2])
    again: Any = trainer.medium.work(collected, trainer.objective, 1)
    assert torch.equal(again.plans[1].views[0].inputs, work.plans[1].views[0].inputs)


def test_mdpo_trains_the_steps_that_stand_out(make: Make) -> None:
    """Six steps of eight answers are scored; four are kept of each, and their views are the recorded canvases."""
    trainer = Trainer(make("mdpo_demo"))
    collected = trainer.medium.collect(
        trainer._prompts(1), trainer.pool, iteration=1, clock=trainer.clock, between=lambda *_: None
    )
    work: Any = trainer.medium.work(collected, trainer.objective, 1)
    trainer.pool.abandon()
    decoded = collected.rollout.decoded
    assert decoded.canvases.shape[:2] == (8, 6) and work.keep.shape == (8, 4)
    step = work.step.reshape(8, 4)
    for row in range(8):
        for column in work.keep[row].nonzero().flatten().tolist():
            view = work.plans[0].views[column]
            assert torch.equal(view.inputs[row], decoded.canvases[row, step[row, column]])
            assert torch.equal(view.targets[row], decoded.guesses[row, step[row, column]])
    assert bool((step.diff(dim=1) > 0).all())


def test_a_rewarded_answer_becomes_likelier(make: Make) -> None:
    """Digits are rewarded: the last five of 20 iterations beat the first five by 3 standard errors."""
    recipe = make(
        train__iterations=20,
        train__lr=3e-3,
        train__inner_epochs=4,
        train__group_size=16,
        sampler__batch_size=64,
        train__micro_batch_size=64,
    )
    _, rows = iterated(recipe, 20)
    first, last = ([row["reward/mean"] for row in part] for part in (rows[:5], rows[-5:]))
    assert sum(last) / 5 - sum(first) / 5 > 3 * torch.tensor(first).std() / 5**0.5


@pytest.mark.parametrize("name", ["diffu_grpo_demo", "mdpo_demo"])
def test_a_run_that_stops_and_resumes_equals_one_that_does_not(make: Make, name: str, tmp_path: Path) -> None:
    settings = {"train__updates_per_iteration": 2, "train__ema_decay": 0.7, "run__images": 0, "eval__prompts": {}}
    settings["train__inner_epochs"] = 2
    Trainer(make(name, train__iterations=3, run__dir=str(tmp_path / "whole"), **settings)).run()
    Trainer(make(name, train__iterations=1, run__dir=str(tmp_path / "broken"), **settings)).run()
    Trainer(make(name, train__iterations=3, run__dir=str(tmp_path / "broken"), **settings)).run()
    for file in ("metrics.jsonl", "adapter/model.safetensors"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "broken" / file).read_bytes(), file


def test_evaluation_counts_tokens_and_forwards_and_resumes(make: Make, tmp_path: Path) -> None:
    recipe = make(eval__batch_size=2)
    prompts = load_prompts(recipe.data.prompts).prompts
    out = tmp_path / "rows.jsonl"
    rows = evaluate(recipe, prompts=prompts, set_name="mine", scorers=recipe.eval.scorers, out=out)
    by_name = {row["scorer"]: row for row in rows}
    assert 0 < by_name["length"]["mean"] <= 6 and 0 < by_name["forwards"]["mean"] <= 6
    assert set(rows[0]["by_category"]) == {"even", "odd"} and rows[0]["temperature"] == 0.0
    lines = out.read_text().splitlines()
    out.write_text("\n".join(lines[:4]) + "\n")
    drawn: list[int] = []
    again = evaluate(
        recipe,
        prompts=prompts,
        set_name="mine",
        scorers=recipe.eval.scorers,
        out=out,
        progress=lambda done, total: drawn.append(total),
    )
    assert drawn[-1] == len(prompts) - 3
    assert again[0]["mean"] == rows[0]["mean"]
    with pytest.raises(RecipeError, match="answers have no setting 'guidance_scale'"):
        evaluate(recipe, prompts=prompts, set_name="mine", scorers=recipe.eval.scorers, guidance_scale=2.0)


def test_shuffled_rewards_leave_the_statistics(make: Make) -> None:
    _, (plain,) = iterated(make("mdpo_demo"))
    _, (mixed,) = iterated(make("mdpo_demo", train__shuffle_rewards=True))
    assert plain["reward/mean"] == mixed["reward/mean"] and plain["loss"] != mixed["loss"]


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("diffu_grpo_demo", {"sampler__kernel": "cps"}, "belongs to flow models, and model.kind is masked_lm"),
    ("diffu_grpo_demo", {"model__guidance_scale": 2.0}, "belongs to flow models"),
    ("diffu_grpo_demo", {"model__mask_id": None}, "never guessed: the id of its mask token"),
    ("diffu_grpo_demo", {"objective__likelihood": "gaussian"}, "no likelihood of masked language models"),
    ("diffu_grpo_demo", {"objective__likelihood": "one_stepp"}, "did you mean 'one_step'"),
    ("diffu_grpo_demo", {"objective__credit": "step"}, "only the trajectory likelihood has"),
    ("diffu_grpo_demo", {"objective__select": "largest_steps"}, "only the trajectory likelihood has"),
    ("diffu_grpo_demo", {"objective__select": "extreme"}, "prunes trees of flow models"),
    ("diffu_grpo_demo", {"sampler__block_length": 1, "sampler__steps": 3}, "3 steps for 6 blocks of 1 tokens"),
    ("diffu_grpo_demo", {"sampler__remasking": "rcr", "sampler__threshold": 0.9}, "choose one of them"),
    ("diffu_grpo_demo", {"sampler__temperature": 0}, "the same answer, so there is nothing to compare"),
    ("diffu_grpo_demo", {"eval__decoding": {"temprature": 0}}, "unknown key 'temprature'; did you mean 'temperature'"),
    ("diffu_grpo_demo", {"objective__ratio": "sequence"}, "reads length, which the one_step likelihood does not give"),
    ("diffu_grpo_demo", {"objective__ratio": "plain"}, "reads eps_gap, old_gap, std"),
    ("gdpo_demo", {"objective__kl": "k3", "objective__beta": 0.1}, "they are whole sequences"),
    ("demo", {"sampler__order": "entropy"}, "belongs to masked language models, and model.kind is flow"),
    ("demo", {"model__mask_id": 3}, "belongs to masked language models"),
    ("demo", {"objective__likelihood": "sdmc"}, "no likelihood of flow models"),
]


@pytest.mark.parametrize(("name", "changes", "reason"), REFUSED)
def test_what_cannot_work_is_refused_with_the_reason(name: str, changes: dict[str, Any], reason: str) -> None:
    values = {key.replace("__", "."): value for key, value in changes.items()}
    values |= {"sampler.gen_length": 6} if "sampler__block_length" in changes else {}
    with pytest.raises(RecipeError, match=reason):
        loaded = load_recipe(name, values)
        problems = preflight(loaded.recipe, loaded.origins).problems
        raise RecipeError(problems)


def test_preflight_looks_into_the_model_without_loading_it(make: Make, tmp_path: Path) -> None:
    recipe = make(model__mask_id=4)
    assert any("whose mask_token_id is 3" in problem for problem in preflight(recipe, {}).problems)
    shutil.copytree(recipe.model.path, tmp_path / "pipe")
    (tmp_path / "pipe" / "model_index.json").write_text("{}")
    recipe = make(model__path=str(tmp_path / "pipe"))
    assert any("model.kind flow would be right" in problem for problem in preflight(recipe, {}).problems)
    recipe = make(reward__names="gold")
    assert any("looks at pictures and has no score for texts" in problem for problem in preflight(recipe, {}).problems)


def test_a_prompt_that_is_too_long_stops_before_training(make: Make) -> None:
    with pytest.raises(FlowgrpoError, match=r"more than model\.max_sequence_length = 3"):
        Trainer(make(model__max_sequence_length=3)).run()
