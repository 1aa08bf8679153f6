"""Two processes that hold half of the weights each (FSDP2 over gloo) train what one process with all of them does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from flowgrpo.errors import FlowgrpoError, RecipeError
from flowgrpo.policies.experts import HIGH, LOW, Share, with_idle
from flowgrpo.policy import load_policy
from flowgrpo.processes import join_processes
from flowgrpo.recipe import Model, Recipe
from flowgrpo.recipe_loading import load_recipe
from flowgrpo.runfolder import read_jsonl
from flowgrpo.sharding import Settings, blocks_of, gathered, launched_settings, shared
from flowgrpo.trainer import Trainer
from tests import masked_toys as toys
from tests.launched import assert_close, assert_same_run, ended, launcher_environment, residual, start, trained
from tests.policy.tiny_families import BUILDERS

Make = Callable[..., Recipe]
LAUNCH = Path(__file__).resolve().parents[2] / "scripts" / "launch"
FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
ZERO2 = {**FSDP2, "FSDP_RESHARD_AFTER_FORWARD": "false"}
REWARDS = """
def uneven(images, prompts, metadata):
    values = images[:, 0].mean((1, 2)).tolist()
    second = [i % 4 == 1 and prompt == "a red cat" for i, prompt in enumerate(prompts)]
    return [None if failed else value for failed, value in zip(second, values)]

def digits(texts, prompts, metadata):
    return [sum(c.isdigit() for c in text) / 6 for text in texts]
"""


@pytest.fixture(scope="session")
def rewards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rewards") / "rewards.py"
    path.write_text(REWARDS)
    return path


@pytest.fixture
def recipes(make_recipe: Make, rewards: Path, files: Path, tmp_path: Path) -> Make:
    """Three groups for two processes, micro-batches that do not divide a share, one sample invalid."""
    settings = {
        "train__prompts_per_iteration": 3,
        "train__micro_batch_size": 5,
        "train__lr": 1e-4,
        "sampler__batch_size": 4,
        "reward__names": f"{rewards}:uneven",
        "reward__max_invalid_share": 0.5,
        "objective__kl": "mean_gap",
        "objective__beta": 0.1,
        "eval__prompts": {"mine": str(files / "prompts.txt")},
    }

    def make(name: str, iterations: int, **changes: Any) -> Recipe:
        run = {"run__dir": str(tmp_path / name), "train__iterations": iterations}
        return make_recipe(**{**settings, **run, **changes})

    return make


def test_half_of_the_weights_each_and_a_run_goes_on_with_any_number(recipes: Make, tmp_path: Path) -> None:
    """An adapter, its average and the optimizer, with old and reference policies and unequal numbers of forwards."""
    changes = {"train__updates_per_iteration": 2, "train__inner_epochs": 2, "train__ema_decay": 0.7}
    trained(1, recipes("one", 2, **changes))
    trained(2, recipes("two", 2, **changes), FSDP2)
    assert_same_run(tmp_path / "one", tmp_path / "two")
    assert residual(tmp_path / "one", tmp_path / "two") < 5
    more: dict[str, tuple[str, int, dict[str, str]]] = {"gathered": ("two", 1, {}), "shared out": ("one", 2, FSDP2)}
    for name, (before, world, launch) in more.items():
        shutil.copytree(tmp_path / before, tmp_path / name)
        shutil.rmtree(tmp_path / name / "checkpoints" / "iteration-000002")
        trained(world, recipes(name, 2, **changes), launch)
        assert [row["kind"] for row in read_jsonl(tmp_path / name / "events.jsonl")].count("resume") == 1
        assert_close(read_jsonl(tmp_path / "one" / "metrics.jsonl"), read_jsonl(tmp_path / name / "metrics.jsonl"))


def test_all_weights_trained_and_kept_whole_between_updates(recipes: Make, tmp_path: Path) -> None:
    """Also the frozen copy that the divergence is measured from; evaluations see weights that have changed."""
    changes = {"model__adapter": "full", "train__ema_decay": 0.5, "eval__every": 1}
    trained(1, recipes("one", 2, **changes))
    trained(2, recipes("two", 2, **changes), ZERO2)
    assert_same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize(
    ("name", "adapter", "launch"), [("mdpo_demo", "lora", ZERO2), ("coupled_grpo_demo", "full", FSDP2)]
)
def test_answers_too(name: str, adapter: str, launch: dict[str, str], rewards: Path, tmp_path: Path) -> None:
    """A head that is an embedding, used outside the network's forward pass."""
    torch.set_num_threads(1)
    model = toys.modernbert(tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("".join(f"{i}+{i * i}=\n" for i in range(1, 9)))

    def recipe(folder: str) -> Recipe:
        values = {
            "model.path": str(model),
            "model.adapter": adapter,
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
        return load_recipe(name, values).recipe

    trained(1, recipe("one"))
    trained(2, recipe("two"), launch)
    # Adam divides small gradients by their own size, which brings rounding forward.
    assert_same_run(tmp_path / "one", tmp_path / "two", rel=1e-4)


def gradients(policy: Any, noise: list[float], rows: list[int]) -> None:
    """Of the summed squares of velocities of some rows, one noise level each."""
    x = policy.initial_noise([(0, row) for row in rows])
    conditioning = policy.encode(["a red cat"]).rows(torch.zeros(len(rows), dtype=torch.int64))
    policy.velocity(x, torch.tensor(noise), conditioning, guidance_scale=1.0).square().sum().backward()


def reached(policy: Any) -> dict[str, Tensor]:
    """Gradients; the last block's other branch has none in some families."""
    return {name: held.grad for name, held in policy.trainable().items() if held.grad is not None}


def test_networks_of_every_family_are_sharded_and_each_process_may_need_another_one(tmp_path: Path) -> None:
    """One row of high noise here, one of low noise there (Wan 2.2 has a network for each), and then one more there."""
    torch.set_num_threads(1)
    sections = {}
    for kind, build in BUILDERS.items():
        folder, frames = build(7, tmp_path / kind), 5 if kind.startswith("wan") else 1
        sections[kind] = Model(
            path=str(folder), height=32, width=32, frames=frames, max_sequence_length=20, lora_rank=2
        )

    def target(rank: int) -> None:
        for kind, section in sections.items():
            processes, sharded = shared(join_processes(torch.device("cpu")), torch.device("cpu"))
            policy = load_policy(section, sharded=sharded)
            gradients(policy, [[0.95], [0.3]][rank], [rank])
            if rank == 1:
                gradients(policy, [0.3], [2])
            processes.exchange(None)
            found = gathered(reached(policy), processes)
            if processes.first:
                save_file(found, tmp_path / f"{kind}.safetensors")

    assert ended(start(2, target, FSDP2)) == [0, 0]
    for kind, section in sections.items():
        policy, found = load_policy(section), load_file(tmp_path / f"{kind}.safetensors")
        for row, noise in enumerate([0.95, 0.3, 0.3]):  # one by one as there: batches of other sizes round otherwise
            gradients(policy, [noise], [row])
        assert reached(policy).keys() == found.keys()
        for name, gradient in reached(policy).items():
            assert (found[name] - gradient).abs().max() <= 1e-4 * gradient.abs().max(), (kind, name)
        networks = {name.startswith(LOW) for name, held in found.items() if held.any()}
        assert networks == ({False, True} if kind == "wan_two_experts" else {False})


def test_weights_are_shared_out(recipes: Make, tmp_path: Path) -> None:
    """Each process holds about half of what it trains and of the frozen rest."""

    def target(rank: int) -> None:
        trainer = Trainer(recipes("run", 1))
        network = trainer.policy.parts()["network"]
        held: list[Any] = list(network.parameters())
        share = sum(p.to_local().numel() for p in held) / sum(p.numel() for p in held)
        (tmp_path / f"share-{rank}").write_text(str(share))

    assert ended(start(2, target, FSDP2)) == [0, 0]
    assert all(0.35 < float((tmp_path / f"share-{rank}").read_text()) < 0.65 for rank in (0, 1))


def test_an_error_in_the_middle_of_a_pass_ends_both(recipes: Make, tmp_path: Path) -> None:
    recipe = recipes("run", 2)

    def target(rank: int) -> None:
        trainer = Trainer(recipe)
        calls = []

        def fail(module: Any, arguments: Any) -> None:
            calls.append(module)
            if rank == 1 and len(calls) == 20:
                raise MemoryError("no memory is left")

        trainer.policy.parts()["network"].proj_out.register_forward_pre_hook(fail)
        try:
            trainer.run()
        except (FlowgrpoError, MemoryError) as error:
            (tmp_path / f"said-{rank}").write_text(str(error))
            os._exit(1)

    assert ended(start(2, target, FSDP2)) == [1, 1]
    assert (tmp_path / "said-1").read_text() == "no memory is left"
    assert (tmp_path / "said-0").read_text().startswith("another of the 2 processes is gone")


def test_networks_that_only_others_call_see_one_row() -> None:
    whole = [Share(HIGH, None)]
    assert with_idle(whole, [HIGH], 3) == whole
    high, low = with_idle(whole, [LOW, HIGH], 3)
    assert (high.network, low.network, high.idle, low.idle) == (HIGH, LOW, False, True)
    assert high.rows is not None and high.rows.tolist() == [0, 1, 2]
    assert low.rows is not None and low.rows.tolist() == [0]


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(2, 2)


def test_blocks_are_named_and_share_no_weight() -> None:
    network = torch.nn.Module()
    network.blocks = torch.nn.ModuleList(Block() for _ in range(3))
    network.head = torch.nn.Linear(2, 2)
    network.head.weight = network.blocks[2].inner.weight
    assert set(blocks_of(network, ["Block"])) == set(network.blocks[:2])
    with pytest.raises(RecipeError, match=r"Module has no Blok; name the class of its blocks"):
        blocks_of(network, ["Blok"])
    with pytest.raises(RecipeError, match="Module has no class that must not be split"):
        blocks_of(network)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("single", None),
        ("multi_gpu", None),
        ("multi_node", None),
        ("fsdp2", Settings(reshard=True)),
        ("zero2", Settings(reshard=False)),
    ],
)
def test_accelerate_reads_every_shipped_configuration(
    name: str, settings: Settings | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {path.stem for path in LAUNCH.glob("*.yaml")} == {
        *("single", "multi_gpu", "multi_node", "fsdp2", "zero2"),
        "deepspeed_zero2",  # tests/trainer/test_zero_settings.py
    }
    environment = launcher_environment(LAUNCH / f"{name}.yaml")
    for key, value in environment.items():
        if key.startswith(("ACCELERATE_", "FSDP_")):
            monkeypatch.setenv(key, value)
    assert launched_settings() == settings


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, "fsdp_version: 1 of the launch configuration is not supported, 2 is"),
        ({**FSDP2, "FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params of the launch configuration"),
        ({**FSDP2, "FSDP_ACTIVATION_CHECKPOINTING": "true"}, "the recipe's model.gradient_checkpointing does that"),
        (
            {**FSDP2, "FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP"},
            "TRANSFORMER_BASED_WRAP is",
        ),
    ],
)
def test_what_is_not_done_is_refused(variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(RecipeError, match=message):
        launched_settings()


def test_blocks_can_be_named_in_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    named = {"FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP", "FSDP_TRANSFORMER_CLS_TO_WRAP": "Block,Other"}
    for key, value in {**FSDP2, **named}.items():
        monkeypatch.setenv(key, value)
    assert launched_settings() == Settings(True, ("Block", "Other"))
