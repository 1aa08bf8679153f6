"""Two processes that share out the optimizer's state by DeepSpeed's ZeRO train what one process does."""

from __future__ import annotations

import importlib.util
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from flowgrpo.errors import CheckpointError, FlowgrpoError, RecipeError
from flowgrpo.processes import Processes, join_processes
from flowgrpo.recipe import Recipe
from flowgrpo.recipe_loading import load_recipe
from flowgrpo.runfolder import read_jsonl
from flowgrpo.trainer import Trainer
from flowgrpo.zero import Zero
from flowgrpo.zero_settings import ZeroSettings
from tests import masked_toys as toys
from tests.launched import assert_close, assert_same_run, ended, residual, start, trained

Make = Callable[..., Recipe]
ZERO1 = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "1"}
ZERO2 = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}
REWARDS = """
def uneven(images, prompts, metadata):
    values = images[:, 0].mean((1, 2)).tolist()
    second = [i % 4 == 1 and prompt == "a red cat" for i, prompt in enumerate(prompts)]
    return [None if failed else value for failed, value in zip(second, values)]

def digits(texts, prompts, metadata):
    return [sum(c.isdigit() for c in text) / 6 for text in texts]
"""


@pytest.fixture(scope="session")
def deepspeed() -> None:
    """Imported once, before processes are forked: the import takes longer than the tests."""
    if importlib.util.find_spec("deepspeed") is None:
        pytest.skip("the extra deepspeed is not installed")
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401


@pytest.fixture(scope="session")
def rewards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rewards") / "rewards.py"
    path.write_text(REWARDS)
    return path


SHAPES = {"a": (5, 7), "never": (6,), "b": (3,), "sometimes": (4, 4), "c": (2, 3, 3), "d": (1,)}
SETTINGS = [
    ZeroSettings(1),
    ZeroSettings(2),
    ZeroSettings(1, offload=True),
    ZeroSettings(2, offload=True),
    ZeroSettings(2, tuning={"reduce_bucket_size": 8, "reduce_scatter": False}),
    ZeroSettings(1, tuning={"reduce_bucket_size": 10, "contiguous_gradients": False}),
]
ADAMW = {"lr": 1e-2, "betas": (0.8, 0.9), "weight_decay": 0.3, "eps": 1e-8}
LIMIT = 3.0
PASSES = (1, 2, 0)
"""Backward passes of each process in each step."""


def weights() -> dict[str, Parameter]:
    made = torch.Generator().manual_seed(3)
    return {name: Parameter(torch.randn(shape, generator=made)) for name, shape in SHAPES.items()}


def gradient(name: str, step: int, rank: int, backward: int) -> Tensor | None:
    """Of one backward pass: process 1 makes one more than process 0, and meets parameters that process 0 does not."""
    if name == "never" or (name == "sometimes" and step in (0, 2)) or (name == "c" and rank == 0):
        return None
    made = torch.Generator().manual_seed(hash((len(name), ord(name[0]), step, rank, backward)))
    return 10.0 ** (1 - step) * torch.randn(SHAPES[name], generator=made)


def backward(named: dict[str, Parameter], step: int, rank: int, number: int) -> None:
    """A real backward pass of a loss that has these gradients."""
    given = {name: gradient(name, step, rank, number) for name in named}
    sum((named[name] * held).sum() for name, held in given.items() if held is not None).backward()  # type: ignore


def by_one(steps: range, named: dict[str, Parameter], adamw: torch.optim.AdamW) -> list[float]:
    """The updates of one process with both shares of the work; norms of its gradients."""
    norms = []
    for step in steps:
        adamw.param_groups[0]["lr"] = 1e-2 * (step + 1)
        adamw.zero_grad(set_to_none=True)
        for rank in (0, 1):
            for number in range(PASSES[rank]):
                backward(named, step, rank, number)
        norms.append(float(torch.nn.utils.clip_grad_norm_(named.values(), LIMIT)))
        adamw.step()
    return norms


def by_two(steps: range, named: dict[str, Parameter], zero: Zero, rank: int) -> list[float]:
    norms = []
    for step in steps:
        zero.param_groups[0]["lr"] = 1e-2 * (step + 1)
        zero.zero_grad(set_to_none=True)
        for number in range(PASSES[rank]):
            backward(named, step, rank, number)
        norms.append(zero.sum_and_norm())
        zero.step()
    return norms


def assert_equal(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-6, atol=1e-6, msg=name)


def state_by_name(adamw: torch.optim.AdamW, named: dict[str, Parameter]) -> dict[str, Tensor]:
    return {
        f"{field}/{name}": value for name, held in named.items() for field, value in adamw.state.get(held, {}).items()
    }


def compare(settings: ZeroSettings, processes: Processes) -> None:
    """Five updates, with the state taken over by another optimizer after three."""
    alone, ours = weights(), weights()
    adamw = torch.optim.AdamW(alone.values(), **ADAMW)  # type: ignore[arg-type]
    zero = Zero(ours, settings, processes, max_grad_norm=LIMIT, **ADAMW)
    norms = by_one(range(3), alone, adamw)
    assert by_two(range(3), ours, zero, processes.rank) == pytest.approx(norms, rel=1e-5)
    assert norms[0] > LIMIT > norms[2]  # Clipped, and not.
    assert_equal({name: held.data for name, held in alone.items()}, {name: held.data for name, held in ours.items()})
    assert torch.equal(ours["never"], weights()["never"])
    saved = zero.gathered()
    if processes.first:
        assert_equal(state_by_name(adamw, alone), saved)
        assert saved["step/sometimes"] == 1 and saved["step/a"] == 3
    saved = processes.of_first(lambda: saved)
    held = sum(value.numel() for state in zero.state.values() for value in (state["exp_avg"], state["exp_avg_sq"]))
    whole = sum(value.numel() for key, value in saved.items() if not key.startswith("step"))
    assert abs(held / whole * processes.world - 1) < 0.4
    assert sum(processes.exchange(held)) == whole

    fresh = weights()
    other = Zero(fresh, settings, processes, max_grad_norm=LIMIT, **ADAMW)
    with torch.no_grad():
        for name, tensor in fresh.items():
            tensor.copy_(ours[name])
    other.take_over(saved)
    norms = by_one(range(3, 5), alone, adamw)
    assert by_two(range(3, 5), fresh, other, processes.rank) == pytest.approx(norms, rel=1e-5)
    assert_equal({name: held.data for name, held in alone.items()}, {name: held.data for name, held in fresh.items()})
    with pytest.raises(CheckpointError, match="the optimizer state exp_avg/a does not fit"):
        other.take_over({"exp_avg/a": torch.zeros(2)})
    refuse_non_finite(other, fresh, processes)


def refuse_non_finite(zero: Zero, named: dict[str, Parameter], processes: Processes) -> None:
    """An element on one process alone is named on both, and its process can look for it in backward passes."""
    zero.zero_grad(set_to_none=True)
    backward(named, 3, processes.rank, 0)
    before = {name: held.detach().clone() for name, held in named.items()}
    if processes.rank == 1:
        assert named["c"].grad is not None
        named["c"].grad[1, 2, 2] = float("nan")
    assert not zero.sum_and_norm() < float("inf")
    assert zero.first_non_finite() == "c"
    zero.zero_grad(set_to_none=True)
    backward(named, 3, processes.rank, 0)
    assert (named["c"].grad is None) == processes.first
    assert_equal(before, {name: held.data for name, held in named.items()})


def less_than_a_share(processes: Processes) -> None:
    """Two elements on three processes: what the others hold is padding."""
    named = {"w": Parameter(torch.ones(2))}
    zero = Zero(named, ZeroSettings(2), processes, max_grad_norm=1.0, lr=0.1, weight_decay=0.0)
    named["w"].sum().backward()
    assert zero.sum_and_norm() == pytest.approx(processes.world * 2**0.5)
    zero.step()
    torch.testing.assert_close(named["w"].data, torch.full((2,), 0.9))
    assert sum(processes.exchange(len(zero.pieces))) == 1
    saved = zero.gathered()
    assert ([held.shape for held in saved.values()] == [(), (2,), (2,)]) if processes.first else saved == {}


@pytest.mark.parametrize("world", [2, 3])
def test_updates_are_those_of_one_process(deepspeed: None, world: int) -> None:
    """Also with the state on the CPU; parameters without a gradient are left alone and count their own steps."""

    def target(rank: int) -> None:
        torch.set_num_threads(1)
        processes = join_processes(torch.device("cpu"))
        for settings in SETTINGS if world == 2 else SETTINGS[1:3]:
            compare(settings, processes)
        if world == 3:
            less_than_a_share(processes)

    assert ended(start(world, target)) == [0] * world


@pytest.fixture
def recipes(make_recipe: Make, rewards: Path, tmp_path: Path) -> Make:
    """Three groups for two processes, micro-batches that do not divide a share, one sample invalid."""
    settings = {
        "train__prompts_per_iteration": 3,
        "train__micro_batch_size": 5,
        "train__lr": 1e-4,
        "train__ema_decay": 0.7,
        "train__warmup_updates": 3,
        "sampler__batch_size": 4,
        "reward__names": f"{rewards}:uneven",
        "reward__max_invalid_share": 0.5,
        "objective__kl": "mean_gap",
        "objective__beta": 0.1,
        "eval__prompts": {},
        "eval__scorers": [],
    }

    def make(name: str, iterations: int, **changes: Any) -> Recipe:
        run = {"run__dir": str(tmp_path / name), "train__iterations": iterations}
        return make_recipe(**{**settings, **run, **changes})

    return make


def test_a_run_goes_on_with_any_number(deepspeed: None, recipes: Make, tmp_path: Path) -> None:
    """An adapter, its average and the optimizer, with old and reference policies and unequal numbers of forwards."""
    changes = {"train__updates_per_iteration": 2}
    trained(1, recipes("one", 2, **changes), ZERO1)  # One process under such a configuration trains alone.
    trained(2, recipes("two", 2, **changes), ZERO1)
    assert_same_run(tmp_path / "one", tmp_path / "two")
    assert residual(tmp_path / "one", tmp_path / "two") < 5
    more: dict[str, tuple[str, int, dict[str, str]]] = {"gathered": ("two", 1, {}), "shared out": ("one", 2, ZERO2)}
    for name, (before, world, launch) in more.items():
        shutil.copytree(tmp_path / before, tmp_path / name)
        shutil.rmtree(tmp_path / name / "checkpoints" / "iteration-000002")
        trained(world, recipes(name, 2, **changes), launch)
        assert [row["kind"] for row in read_jsonl(tmp_path / name / "events.jsonl")].count("resume") == 1
        assert_close(read_jsonl(tmp_path / "one" / "metrics.jsonl"), read_jsonl(tmp_path / name / "metrics.jsonl"))


@pytest.mark.slow
def test_all_weights_trained(deepspeed: None, recipes: Make, rewards: Path, files: Path, tmp_path: Path) -> None:
    """Also the frozen copy that the divergence is measured from; evaluations see weights that have changed."""
    evaluated = {"eval__every": 1, "eval__scorers": [f"{rewards}:uneven"]}
    changes = {"model__adapter": "full", "eval__prompts": {"mine": str(files / "prompts.txt")}, **evaluated}
    trained(1, recipes("one", 2, **changes))
    trained(2, recipes("two", 2, **changes), ZERO2)
    assert_same_run(tmp_path / "one", tmp_path / "two")


def test_answers_too(deepspeed: None, rewards: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    model = toys.modernbert(tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("".join(f"{i}+{i * i}=\n" for i in range(1, 9)))

    def recipe(folder: str) -> Recipe:
        values = {
            "model.path": str(model),
            "model.adapter": "full",
            "data.prompts": str(tmp_path / "prompts.txt"),
            "sampler.gen_length": 6,
            "sampler.steps": 6,
            "sampler.batch_size": 8,
            "reward.names": f"{rewards}:digits",
            "eval.scorers": [],
            "eval.prompts": {},
            "train.prompts_per_iteration": 3,
            "train.group_size": 4,
            "train.micro_batch_size": 3,
            "train.iterations": 2,
            "train.max_minutes": None,
            "train.lr": 1e-4,
            "run.dir": str(tmp_path / folder),
            "run.images": 0,
        }
        return load_recipe("coupled_grpo_demo", values).recipe

    trained(1, recipe("one"))
    trained(2, recipe("two"), ZERO2)
    assert_same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_an_error_on_one_process_ends_both(deepspeed: None, recipes: Make, tmp_path: Path) -> None:
    """A gradient that is not finite, and memory that is short in the middle of a backward pass."""
    for name, message in {"nan": "is not finite in update 2", "memory": "no memory is left"}.items():
        recipe = recipes(name, 2, train__updates_per_iteration=2)

        def target(rank: int, name: str = name, recipe: Recipe = recipe) -> None:
            trainer = Trainer(recipe)
            calls = []

            def spoil(gradient: Tensor) -> Tensor:
                calls.append(gradient)
                if rank == 0 or trainer.learner.updates == 0:
                    return gradient
                if name == "memory":
                    raise MemoryError("no memory is left")
                return gradient * float("nan")

            list(trainer.policy.trainable().values())[5].register_hook(spoil)
            try:
                trainer.run()
            except (FlowgrpoError, MemoryError) as error:
                (tmp_path / f"{name}-{rank}").write_text(str(error))
                os._exit(1)

        assert ended(start(2, target, ZERO1)) == [1, 1]
        assert all(message in (tmp_path / f"{name}-{rank}").read_text() for rank in (0, 1))


def test_what_deepspeed_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"pip install 'flowgrpo\[deepspeed\]'"):
        Zero(weights(), ZeroSettings(1), Processes(0, 2), max_grad_norm=1.0, lr=1e-3)
    monkeypatch.undo()
    with pytest.raises(RecipeError, match="DeepSpeed does not take scale, which has no dimension"):
        Zero({"scale": Parameter(torch.ones(()))}, ZeroSettings(1), Processes(0, 2), max_grad_norm=1.0, lr=1e-3)
