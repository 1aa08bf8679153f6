"""What goes wrong while a run goes on: one clear error, nothing lost, and no failed reward is ever a zero."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from flowgrpo.checkpoint import list_checkpoints, load_checkpoint
from flowgrpo.errors import FlowgrpoError, RewardError
from flowgrpo.recipe import Recipe
from flowgrpo.rewarding import Rewards, without_broken_groups
from flowgrpo.runfolder import read_jsonl
from flowgrpo.trainer import Trainer

Make = Callable[..., Recipe]

HOLES = """
def holes(images, prompts, metadata, *, count=1):
    return [None if i < count else 1.0 + i for i in range(len(images))]
"""
MORTAL = """
from pathlib import Path
calls = []

def mortal(images, prompts, metadata):
    calls.append(1)
    if len(calls) > 2 and not (Path(__file__).parent / "alive").exists():
        {fails}
    return images[:, 0].mean((1, 2))
"""


def failure(recipe: Recipe) -> str:
    """The one-line error that a run ends with."""
    with pytest.raises(FlowgrpoError) as caught:
        Trainer(recipe).run()
    message = str(caught.value)
    assert message and "\n" not in message
    return message


@pytest.mark.parametrize(
    ("reward", "expected"),
    [
        ("nan", ["100% of the samples could not be scored", "max_invalid_share", "nan"]),
        ("raising", ["100% of the samples could not be scored", "the judge is asleep"]),
        ("sometimes", ["12% of the samples could not be scored", "sample 0"]),
    ],
)
def test_failed_rewards_stop_the_run(make_recipe: Make, files: Path, reward: str, expected: list[str]) -> None:
    message = failure(make_recipe(reward__names=f"{files / 'rewards.py'}:{reward}"))
    assert all(part in message for part in expected), message


def test_a_failed_sample_leaves_group_and_gradient(make_recipe: Make, files: Path) -> None:
    recipe = make_recipe(reward__names=f"{files / 'rewards.py'}:sometimes", reward__max_invalid_share=0.5)
    trainer = Trainer(recipe)
    row = trainer.iterate(1)
    trainer.pool.abandon()
    assert row["reward/invalid"] == 1 / 8
    assert row["reward/mean"] == 5.0  # of 2, 3, ..., 8: a zero would have shown
    assert row["units/kept"] == 21 == row["forwards/trained"]  # 7 of 8 samples, three steps each


def test_a_group_of_which_too_much_failed_is_dropped(make_recipe: Make, files: Path, tmp_path: Path) -> None:
    """Two groups of four, in one batch: of the first, one sample in four failed, and then two."""
    (tmp_path / "holes.py").write_text(HOLES)
    kept = {}
    for holes in (1, 2):
        recipe = make_recipe(
            reward__names=f"{tmp_path}/holes.py:holes",
            reward__options={f"{tmp_path}/holes.py:holes": {"count": holes}},
            reward__max_invalid_share=0.5,
            sampler__batch_size=8,
        )
        trainer = Trainer(recipe)
        row = trainer.iterate(1)
        trainer.pool.abandon()
        kept[holes] = (row["reward/invalid"], row["reward/dropped"], row["units/kept"], row["reward/mean"])
    assert kept[1] == (1 / 8, 0.0, 21, 5.0)  # of 2, ..., 8; three steps each
    assert kept[2] == (2 / 8, 2 / 8, 12, 6.5)  # 3 and 4 had scores, and left with their group


def test_groups_without_comparison() -> None:
    def left(valid: str, allowed: float, group: tuple[int, ...] = (0, 0, 0, 0, 7, 7, 7, 7)) -> str:
        marks = torch.tensor([mark == "1" for mark in valid])
        found = without_broken_groups(Rewards({}, marks, {}, {}), torch.tensor(group), allowed)
        assert found.dropped is not None and found.invalid_share == pytest.approx(valid.count("0") / len(valid))
        return "".join(str(int(mark)) for mark in found.valid)

    assert left("11110111", 0.25) == "11110111"
    assert left("11110011", 0.25) == "11110000"
    assert left("11110011", 0.5) == "11110011"
    assert left("11110001", 1.0) == "11110000", "one alone has nothing to be compared with"
    assert left("01111101", 0.3, (0, 7, 7, 7, 0, 0, 0, 7)) == "01110001", "groups need not lie together"
    with pytest.raises(RewardError, match="no group is left"):
        left("00110011", 0.25)


@pytest.mark.parametrize("fails", ["raise OSError('gone')", "import time; time.sleep(60)"], ids=["dead", "hangs"])
def test_what_was_learned_before_a_reward_failed_is_saved(make_recipe: Make, tmp_path: Path, fails: str) -> None:
    """Between two checkpoints: iteration 2 is on disk although only every tenth is, and the run goes on from it."""
    reward = tmp_path / "mortal.py"
    reward.write_text(MORTAL.format(fails=fails))
    made = partial(make_recipe, reward__names=f"{reward}:mortal", run__checkpoint_every=10, train__iterations=3)
    mortal = made(reward__timeout_s=10)
    message = failure(mortal)
    assert message.endswith("; the run is saved after iteration 2, and the same command continues")
    (saved,) = list_checkpoints(tmp_path / "run" / "checkpoints")
    assert load_checkpoint(saved).iteration == 2
    (tmp_path / "alive").touch()
    assert Trainer(mortal).run().iterations == 3
    again = [row["reward/mean"] for row in read_jsonl(tmp_path / "run" / "metrics.jsonl")]
    Trainer(made(reward__timeout_s=10, run__dir=str(tmp_path / "whole"))).run()
    assert again == [row["reward/mean"] for row in read_jsonl(tmp_path / "whole" / "metrics.jsonl")]


def test_a_reward_that_hangs_is_named(make_recipe: Make, files: Path) -> None:
    message = failure(make_recipe(reward__names=f"{files / 'rewards.py'}:slow", reward__timeout_s=0.2))
    assert "reward.timeout_s = 0.2" in message


def test_a_scorer_that_hangs_in_an_evaluation_is_named(make_recipe: Make, files: Path) -> None:
    judged = {"eval__prompts": {"mine": str(files / "prompts.txt")}, "eval__scorers": [f"{files / 'rewards.py'}:slow"]}
    message = failure(make_recipe(reward__timeout_s=0.2, **judged))
    assert "rewards.py:slow' took longer than reward.timeout_s = 0.2 s for 4 samples of an evaluation" in message


def test_non_finite_weights_name_step_and_sample(make_recipe: Make) -> None:
    trainer = Trainer(make_recipe())
    with torch.no_grad():
        next(iter(trainer.policy.trainable().values())).fill_(float("nan"))
    with pytest.raises(FlowgrpoError, match=r"not finite at step 0, sample 0 of prompt '"):
        trainer.iterate(1)
    trainer.pool.abandon()


def test_a_non_finite_gradient_is_refused_before_the_step(make_recipe: Make) -> None:
    trainer = Trainer(make_recipe())
    name, parameter = next((n, p) for n, p in trainer.policy.trainable().items())
    parameter.register_hook(lambda gradient: gradient * float("nan"))
    before = trainer.policy.state_dict()
    with pytest.raises(FlowgrpoError, match=f"gradient of {name} is not finite in update 1, first at step 0, sample "):
        trainer.iterate(1)
    trainer.pool.abandon()
    after = trainer.policy.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_full_disk_is_said_and_keeps_the_older_checkpoint(
    make_recipe: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Trainer(make_recipe(train__iterations=1)).run()
    replace = os.replace

    def full(source: Any, target: Any) -> None:
        if "iteration-000002" in str(target):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    message = failure(make_recipe(train__iterations=3))
    assert "No space left on device" in message and "earlier checkpoints are untouched" in message
    monkeypatch.undo()
    assert Trainer(make_recipe(train__iterations=3)).run().iterations == 3
    assert [row["iteration"] for row in read_jsonl(tmp_path / "run" / "metrics.jsonl")] == [1, 2, 3]


def test_a_damaged_checkpoint_falls_back_to_the_one_before(make_recipe: Make, tmp_path: Path) -> None:
    Trainer(make_recipe(train__iterations=2)).run()
    _, newest = list_checkpoints(tmp_path / "run" / "checkpoints")
    weights = newest / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(FlowgrpoError, match=r"weights.safetensors changed since it was written"):
        load_checkpoint(newest)
    assert Trainer(make_recipe(train__iterations=2)).run().iterations == 2
    kinds = [row["message"] for row in read_jsonl(tmp_path / "run" / "events.jsonl") if row["kind"] == "warning"]
    assert any("damaged" in message and "using the one before" in message for message in kinds)
    load_checkpoint(newest)


def test_no_usable_checkpoint_is_an_error_not_a_fresh_start(make_recipe: Make, tmp_path: Path) -> None:
    Trainer(make_recipe(train__iterations=1)).run()
    for folder in list_checkpoints(tmp_path / "run" / "checkpoints"):
        (folder / "manifest.json").write_text("{")
    assert "no usable checkpoint is left" in failure(make_recipe(train__iterations=2))


def test_another_recipe_does_not_continue_a_run(make_recipe: Make) -> None:
    Trainer(make_recipe(train__iterations=1)).run()
    message = failure(make_recipe(train__lr=0.5))
    assert "holds a run of another recipe" in message and "--run.resume never" in message
    assert Trainer(make_recipe(train__lr=0.5, run__resume="never", train__iterations=1)).run().iterations == 1


def test_a_rollout_of_other_density_must_be_declared(make_recipe: Make, tmp_path: Path) -> None:
    """Guidance in the rollout alone is off-policy: the recipe is refused unless it says so, then it is warned about."""
    changes = {"model__guidance_scale": 4.0, "model__guidance_in_training": False}
    with pytest.raises(FlowgrpoError, match="off_policy"):
        make_recipe(**changes)
    Trainer(make_recipe(train__off_policy=True, train__iterations=1, **changes)).run()
    events = read_jsonl(tmp_path / "run" / "events.jsonl")
    assert any("differ from the rollout's" in row["message"] for row in events if row["kind"] == "warning")


def test_processes_without_a_launcher_are_refused(make_recipe: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "accelerate launch or torchrun" in failure(make_recipe())


def test_a_fresh_start_keeps_nothing_of_the_run_before(make_recipe: Make, files: Path, tmp_path: Path) -> None:
    """Old checkpoints of later iterations would be kept in place of the new ones, and be resumed from."""
    judged = {"eval__prompts": {"mine": str(files / "prompts.txt")}}
    Trainer(make_recipe(train__iterations=3, run__keep=1, **judged)).run()
    first = read_jsonl(tmp_path / "run" / "eval.jsonl")
    again = make_recipe(train__iterations=1, run__keep=1, run__resume="never", eval__steps=4, **judged)
    Trainer(again).run()
    assert [folder.name for folder in list_checkpoints(tmp_path / "run" / "checkpoints")] == ["iteration-000001"]
    rows = read_jsonl(tmp_path / "run" / "eval.jsonl")
    scored = [row for row in rows if not row["scorer"].startswith("image/")]
    assert [(row["label"], row["iteration"]) for row in scored] == [("base", 0), ("final", 1)]
    assert {row["steps"] for row in rows} == {4} != {row["steps"] for row in first}


def test_evaluations_of_another_recipe_are_not_taken_over(make_recipe: Make, files: Path, tmp_path: Path) -> None:
    """A run that ended before its first checkpoint has no hash to compare but the recipe's own."""
    judged = {"eval__prompts": {"mine": str(files / "prompts.txt")}, "train__iterations": 1}
    Trainer(make_recipe(**judged))._start()
    assert [row["label"] for row in read_jsonl(tmp_path / "run" / "eval.jsonl")] == ["base"] * 6
    Trainer(make_recipe(train__seed=5, eval__steps=4, **judged)).run()
    assert {row["steps"] for row in read_jsonl(tmp_path / "run" / "eval.jsonl")} == {4}


def test_a_damaged_checkpoint_is_not_kept_in_place_of_a_good_one(make_recipe: Make, tmp_path: Path) -> None:
    Trainer(make_recipe(train__iterations=3, run__keep=3)).run()
    root = tmp_path / "run" / "checkpoints"
    for folder in list_checkpoints(root)[1:]:
        (folder / "manifest.json").write_text("{")
    trainer = Trainer(make_recipe(train__iterations=3, run__keep=1))
    trainer._start()
    assert [folder.name for folder in list_checkpoints(root)] == ["iteration-000001"]
    trainer.iterate(2)
    trainer._checkpoint()
    trainer.pool.abandon()
    (kept,) = list_checkpoints(root)
    assert load_checkpoint(kept).iteration == 2


def test_a_full_disk_spares_the_adapter_of_the_run_before(
    make_recipe: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Trainer(make_recipe(train__iterations=1)).run()
    adapter = tmp_path / "run" / "adapter" / "pytorch_lora_weights.safetensors"
    before = adapter.read_bytes()

    def half(pipeline: Any, config: Any, folder: Path, state: Any) -> None:
        folder.mkdir(parents=True)
        (folder / adapter.name).write_bytes(before[:50])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("flowgrpo.saving.save_lora", half)
    assert "cannot write" in (said := failure(make_recipe(train__iterations=2))) and "No space left" in said
    assert adapter.read_bytes() == before
    monkeypatch.undo()
    Trainer(make_recipe(train__iterations=2)).run()
    assert adapter.read_bytes() != before
