"""The largest micro-batch that fits: `train.micro_batch_size: auto`.

Gradients accumulate to the whole update whatever the size, so the search changes no result beyond rounding.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from flowgrpo.errors import RunError
from flowgrpo.media import MicroBatch, Update, Work
from flowgrpo.recipe import LARGEST_AUTO, Recipe
from flowgrpo.records import Record
from flowgrpo.update import Learner
from flowgrpo.zero import Zero

SPARE = 0.05
"""Share of an accelerator's memory that must stay free: later iterations leave other gaps."""
CPU_MESSAGE = "DefaultCPUAllocator"
"""What torch says where the CPU's memory is short; that has no exception of its own."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory is short."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or CPU_MESSAGE in str(error)


def largest_that_fits(learner: Learner, work: Work, iteration: int) -> int:
    """Halve `LARGEST_AUTO` until the first micro-batch of this size goes forwards and backwards.

    Gradients and both moments of the optimizer are there during the trial, as in every later update. No weight
    changes, and the gradients of the trial are thrown away.

    Args:
        learner: the optimizer and what it moves, between two updates.
        work: the iteration's units.
        iteration: its number.

    Raises:
        RunError: not even one network input fits.
    """
    size = LARGEST_AUTO
    while not _fits(learner, work, iteration, size):
        if size == 1:
            raise RunError(
                "not even a micro-batch of 1 fits into memory; try model.gradient_checkpointing true, "
                "model.adapter lora, model.dtype bfloat16, sampler.latent_store cpu or a smaller picture"
            )
        size //= 2
    return size


def with_size(recipe: Recipe, size: int) -> Recipe:
    """The recipe with this micro-batch size in the place of `auto`."""
    train = recipe.train.model_copy(update={"micro_batch_size": size})
    return recipe.model_copy(update={"train": train})


def _fits(learner: Learner, work: Work, iteration: int, size: int) -> bool:
    found = _first(work.layout(with_size(learner.recipe, size).train, iteration))
    if found is None:
        return True
    update, batch = found
    try:
        with _as_in_training(learner, work):
            work.backward(batch, update.kept, _any_loss, epoch=0, on_policy=True)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        failed = True
    else:
        failed = False
    if failed:  # outside the handler, where the traceback no longer holds the graph
        gc.collect()
        if learner.policy.device.type == "cuda":
            torch.cuda.empty_cache()
    return not failed


def _first(layout: Sequence[Update]) -> tuple[Update, MicroBatch] | None:
    return next(((update, batch) for update in layout for batch in update.batches), None)


def _any_loss(record: Record, units: Tensor) -> Tensor:
    """As large a graph as any loss of the record has."""
    return record.log_prob.mean()


@contextmanager
def _as_in_training(learner: Learner, work: Work) -> Iterator[None]:
    """Gradients, moments and a reserve are allocated, and everything is as before afterwards."""
    parameters, forwards = list(learner.policy.trainable().values()), dict(work.forwards)
    device, missing = learner.policy.device, 0 if learner.optimizer.state else 2
    try:
        ballast = [torch.zeros_like(p) for p in _updated(learner) for _ in range(missing)]
        ballast.append(torch.empty(_spare_bytes(device), dtype=torch.uint8, device=device))
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        yield
    finally:
        ballast = []
        for parameter in parameters:
            parameter.grad = None
        work.forwards.update(forwards)


def _updated(learner: Learner) -> list[Tensor]:
    """What has moments: DeepSpeed keeps them for this process's share alone, on the CPU where it is told to."""
    if isinstance(learner.optimizer, Zero):
        return [piece.master for piece in learner.optimizer.pieces.values()]
    return list(learner.policy.trainable().values())


def _spare_bytes(device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    return int(SPARE * torch.cuda.get_device_properties(device).total_memory)
