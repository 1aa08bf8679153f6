"""Two gloo processes train what one does; they fail, stop and resume together."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from flowgrpo.checkpoint import list_checkpoints
from flowgrpo.errors import FlowgrpoError, RecipeError
from flowgrpo.processes import ALONE, Processes, buckets, join_processes, refuse_idle_processes
from flowgrpo.recipe import Recipe
from flowgrpo.recipe_loading import load_recipe
from flowgrpo.runfolder import read_jsonl
from flowgrpo.trainer import Trainer
from tests import masked_toys as toys
from tests.launched import PATIENCE_S, assert_close, assert_same_run, ended, start, trained

Make = Callable[..., Recipe]
REWARDS = """
import os, time

def uneven(images, prompts, metadata):
    values = images[:, 0].mean((1, 2)).tolist()
    second = [i % 4 == 1 and prompt == "a red cat" for i, prompt in enumerate(prompts)]
    return [None if failed else value for failed, value in zip(second, values)]

def slow_on_one(images, prompts, metadata):
    time.sleep(30 if os.environ.get("RANK") == "1" else 0)
    return images[:, 0].mean((1, 2))

def digits(texts, prompts, metadata):
    return [sum(c.isdigit() for c in text) / 6 for text in texts]
"""


def messages(world: int, recipe: Recipe, folder: Path) -> list[str]:
    """What each process says when it ends with an error."""

    def target(rank: int) -> None:
        try:
            Trainer(recipe).run()
        except FlowgrpoError as error:
            (folder / f"said-{rank}").write_text(str(error))
            os._exit(1)  # A scorer that sleeps would hold the interpreter.

    assert ended(start(world, target)) == [1] * world
    return [(folder / f"said-{rank}").read_text() for rank in range(world)]


@pytest.fixture(scope="session")
def rewards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rewards") / "rewards.py"
    path.write_text(REWARDS)
    return path


CHAINS = {"train__updates_per_iteration": 2, "train__inner_epochs": 2, "train__ema_decay": 0.7}
TREES = {
    "sampler__plan": "branch",
    "sampler__split_steps": [0, 2],
    "sampler__window": "none",
    "objective__fusion": "path_softmax",
    "objective__reduction": "sample_mean",
}


@pytest.mark.parametrize("changes", [CHAINS, TREES], ids=["chains", "trees"])
def test_two_processes_train_what_one_does(
    make_recipe: Make, rewards: Path, files: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Three groups on two processes, one answer invalid, micro-batches that do not divide a share."""
    settings = {
        "train__prompts_per_iteration": 3,
        "train__micro_batch_size": 5,
        "train__lr": 1e-4,
        "sampler__batch_size": 4,
        "reward__names": f"{rewards}:uneven",
        "reward__max_invalid_share": 0.5,
        "eval__prompts": {"mine": str(files / "prompts.txt")},
        **changes,
    }

    def recipe(name: str, iterations: int) -> Recipe:
        return make_recipe(run__dir=str(tmp_path / name), train__iterations=iterations, **settings)

    trained(1, recipe("one", 3))
    trained(2, recipe("two", 3))
    assert_same_run(tmp_path / "one", tmp_path / "two")
    assert len(list_checkpoints(tmp_path / "two" / "checkpoints")) > 0
    trained(2, recipe("mixed", 2))
    trained(1, recipe("mixed", 3))
    kinds = [row["kind"] for row in read_jsonl(tmp_path / "mixed" / "events.jsonl")]
    assert kinds.count("start") == kinds.count("resume") == 1
    assert_close(read_jsonl(tmp_path / "one" / "metrics.jsonl"), read_jsonl(tmp_path / "mixed" / "metrics.jsonl"))


@pytest.mark.parametrize("name", ["coupled_grpo_demo", "mdpo_demo"])
def test_answers_too(name: str, rewards: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    model = toys.modernbert(tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("".join(f"{i}+{i * i}=\n" for i in range(1, 9)))

    def recipe(folder: str) -> Recipe:
        values = {
            "model.path": str(model),
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
    trained(2, recipe("two"))
    assert_same_run(tmp_path / "one", tmp_path / "two")


def test_an_error_on_one_process_ends_both_with_one_message(make_recipe: Make, rewards: Path, tmp_path: Path) -> None:
    recipe = make_recipe(reward__names=f"{rewards}:slow_on_one", reward__timeout_s=1.0)
    first, second = messages(2, recipe, tmp_path)
    assert second.startswith("a reward took longer than reward.timeout_s = 1 s")
    assert first == f"process 1 of 2: {second}"


def running(recipe: Recipe, begun: Callable[[], Any], target: Callable[[int], None]) -> list[Any]:
    """Two processes that have begun, by what they have left."""
    children = start(2, target)
    until = time.monotonic() + PATIENCE_S
    while not begun() and time.monotonic() < until:
        time.sleep(0.05)
    return children


def test_a_signal_to_one_process_stops_both_and_nothing_is_lost(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe(train__iterations=10_000, run__checkpoint_every=10_000)
    rows = partial(read_jsonl, tmp_path / "run" / "metrics.jsonl")
    children = running(recipe, rows, lambda rank: Trainer(recipe).run() and None)
    os.kill(children[1].pid, signal.SIGTERM)
    assert ended(children) == [0, 0]
    done = len(read_jsonl(tmp_path / "run" / "metrics.jsonl"))
    (saved,) = list_checkpoints(tmp_path / "run" / "checkpoints")
    assert saved.name == f"iteration-{done:06d}"
    assert "SIGTERM" in read_jsonl(tmp_path / "run" / "events.jsonl")[-1]["message"]


def test_a_killed_process_ends_the_other(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe(train__iterations=10_000)

    def target(rank: int) -> None:
        with pytest.raises(FlowgrpoError, match="another of the 2 processes is gone"):
            Trainer(recipe).run()
        (tmp_path / "left").touch()

    children = running(recipe, partial(list_checkpoints, tmp_path / "run" / "checkpoints"), target)
    os.kill(children[1].pid, signal.SIGKILL)
    assert ended(children) == [0, -signal.SIGKILL]
    assert (tmp_path / "left").exists()
    assert list_checkpoints(tmp_path / "run" / "checkpoints")


def test_gradients_are_summed_where_any_process_has_one() -> None:
    def target(rank: int) -> None:
        processes = join_processes(torch.device("cpu"))
        parameters = [torch.nn.Parameter(torch.zeros(2, 3, dtype=dtype)) for dtype in [torch.float32] * 3]
        parameters[0].grad = torch.full((2, 3), 1.0 + rank)
        if rank == 1:
            parameters[1].grad = torch.arange(6.0).view(2, 3)
        processes.sum_gradients(parameters)
        first, second, third = (p.grad for p in parameters)
        assert first is not None and bool((first == 3).all())
        assert second is not None and torch.equal(second, torch.arange(6.0).view(2, 3))
        assert third is None
        assert processes.joined([rank] * (rank + 1)) == [0, 1, 1]
        assert processes.of_first(lambda: ("made by", rank)) == ("made by", 0)
        processes.refuse_unequal(parameters)
        with torch.no_grad():
            parameters[0].fill_(1.0 + 1e-3 * rank)
        with pytest.raises(FlowgrpoError, match="process 1 of 2 holds other weights"):
            processes.refuse_unequal(parameters)

    assert ended(start(2, target)) == [0, 0]


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_shares_are_consecutive_whole_and_even(world: int) -> None:
    for count in range(world, 25):
        shares = [Processes(rank, world).share(count) for rank in range(world)]
        assert [group for share in shares for group in share] == list(range(count))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_buckets_keep_the_order_and_the_limit() -> None:
    assert buckets([3, 4, 9, 1, 1], 7) == [[0, 1], [2], [3, 4]]
    assert buckets([], 7) == []
    assert ALONE.exchange("mine") == ["mine"] and ALONE.of_first(lambda: 1) == 1


def test_more_processes_than_groups_are_refused(make_recipe: Make) -> None:
    with pytest.raises(RecipeError, match="= 2 groups cannot be shared by 3 processes"):
        refuse_idle_processes(make_recipe(), Processes(0, 3))
