"""`train.micro_batch_size: auto` finds the largest size that fits, and the size changes no result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.nn import Parameter

from flowgrpo.cli import check
from flowgrpo.errors import RunError
from flowgrpo.flow_work import FlowWork
from flowgrpo.micro_batches import _updated, largest_that_fits, out_of_memory
from flowgrpo.recipe import Recipe
from flowgrpo.runfolder import read_jsonl
from flowgrpo.trainer import Trainer, check_run
from flowgrpo.zero import Piece, Zero

Make = Callable[..., Recipe]


@pytest.fixture
def memory_for(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], list[int]]]:
    """memory_for(n): a backward pass of more than n network inputs runs out of memory; lists the sizes tried."""
    backward = FlowWork.backward

    def limit(most: int) -> list[int]:
        tried: list[int] = []

        def limited(self: FlowWork, batch: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            tried.append(len(batch))
            if len(batch) > most:
                backward(self, batch, *args, **kwargs)  # it fails late, with gradients already there
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
            return backward(self, batch, *args, **kwargs)

        monkeypatch.setattr(FlowWork, "backward", limited)
        return tried

    yield limit


def trained(recipe: Recipe) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]], Trainer]:
    trainer = Trainer(recipe)
    rows = [trainer.iterate(number) for number in (1, 2)]
    trainer.pool.abandon()
    return trainer.policy.state_dict(), rows, trainer


def test_auto_halves_until_it_fits_and_trains_like_that_size(make_recipe: Make, memory_for: Any) -> None:
    """24 network inputs per update: 64 and 32 take all of them, 16 and 8 are still too many for a memory of 5."""
    expected, expected_rows, _ = trained(make_recipe(train__micro_batch_size=4))
    tried = memory_for(5)
    weights, rows, trainer = trained(make_recipe(train__micro_batch_size="auto"))
    assert tried[:5] == [24, 24, 16, 8, 4] and set(tried[5:]) == {4}
    assert trainer.learner.recipe.train.micro_batch_size == 4
    assert trainer.recipe.train.micro_batch_size == "auto"
    assert rows == expected_rows, "trials leave no trace in the metrics, forward counts among them"
    assert all(torch.equal(weights[name], held) for name, held in expected.items())
    assert [row["message"] for row in read_jsonl(trainer.folder.events) if row["kind"] == "micro_batch"] == [
        "train.micro_batch_size auto is 4 here"
    ]


def test_a_trial_changes_nothing(make_recipe: Make, memory_for: Any) -> None:
    trainer = Trainer(make_recipe(train__micro_batch_size="auto"))
    prompts = trainer._prompts(1)
    collected = trainer.medium.collect(prompts, trainer.pool, iteration=1, clock=trainer.clock, between=lambda *_: None)
    work = trainer.medium.work(collected, trainer.objective, 1)
    before = trainer.policy.state_dict()
    memory_for(2)
    assert largest_that_fits(trainer.learner, work, 1) == 2
    trainer.pool.abandon()
    assert all(p.grad is None for p in trainer.policy.trainable().values())
    assert all(torch.equal(before[name], held) for name, held in trainer.policy.state_dict().items())
    assert work.forwards == {"trained": 0, "old": 0, "reference": 0} and not trainer.learner.optimizer.state


def test_deepspeed_keeps_moments_of_a_share(make_recipe: Make) -> None:
    trainer = Trainer(make_recipe(train__micro_batch_size="auto"))
    trainer.pool.abandon()
    assert sum(held.numel() for held in _updated(trainer.learner)) == sum(
        held.numel() for held in trainer.policy.trainable().values()
    )
    whole, master = Parameter(torch.zeros(3, 4)), Parameter(torch.zeros(5))
    zero = object.__new__(Zero)
    zero.pieces = {"a": Piece(whole, start=2, at=0, master=master)}
    trainer.learner.optimizer = zero
    (held,) = _updated(trainer.learner)
    assert held is master


def test_where_nothing_fits_the_message_says_what_would(make_recipe: Make, memory_for: Any) -> None:
    memory_for(0)
    with pytest.raises(
        RunError, match=r"not even a micro-batch of 1 fits into memory; try model.gradient_checkpointing"
    ):
        check_run(make_recipe(train__micro_batch_size="auto"))


def test_check_run_prints_what_fits(make_recipe: Make, memory_for: Any) -> None:
    memory_for(12)
    row = check_run(make_recipe(train__micro_batch_size="auto"))
    assert ("micro-batches", "8 fit") in list(check._ran(row))


def test_other_failures_are_not_taken_for_a_lack_of_memory(make_recipe: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(FlowWork, "backward", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        check_run(make_recipe(train__micro_batch_size="auto"))


def test_what_torch_says_where_memory_is_short() -> None:
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to ..."))
    assert out_of_memory(MemoryError())
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.parametrize("updates", [1, 2])
def test_latents_on_the_cpu_give_the_same_run(make_recipe: Make, updates: int) -> None:
    runs = [
        trained(
            make_recipe(
                sampler__latent_store=store,
                train__updates_per_iteration=updates,
                train__inner_epochs=2,
                objective__kl="mean_gap",
                objective__beta=0.1,
            )
        )
        for store in ("device", "cpu")
    ]
    assert runs[0][1] == runs[1][1]
    assert all(torch.equal(held, runs[1][0][name]) for name, held in runs[0][0].items())
