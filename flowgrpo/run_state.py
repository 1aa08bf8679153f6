"""The full training state of a run: collected from its processes for a checkpoint, and given back to them.

Process 0 alone reads and writes files, in one format for any number of processes, sharded or not: what was saved by
some continues on others. Of sharded weights it holds whole copies in its memory (not on its device) while it does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from flowgrpo.checkpoint import Checkpoint, newest_good, optimizer_state, optimizer_tensors
from flowgrpo.processes import Processes
from flowgrpo.sharding import gathered, spread
from flowgrpo.update import Learner
from flowgrpo.zero import Zero


def state_of(learner: Learner) -> dict[str, Mapping[str, Tensor]]:
    """Everything that the next iteration depends on, on process 0; every process must call it."""
    weights, optimizer = learner.policy.trainable(), learner.optimizer
    shared_out = isinstance(optimizer, Zero)
    parts: dict[str, Mapping[str, Tensor]] = {
        "weights": weights,
        "optimizer": {} if shared_out else optimizer_tensors(optimizer.state_dict(), list(weights)),
        **({} if learner.average is None else {"ema": learner.average}),
    }
    whole = {group: gathered(state, learner.processes) for group, state in parts.items()}
    state = {"optimizer": optimizer.gathered()} if isinstance(optimizer, Zero) else {}
    return {**whole, **state, "rng": {"torch": torch.get_rng_state()}}


def take_over(saved: Checkpoint, learner: Learner) -> None:
    """Put back what `state_of` gave, as `newest` brings it.

    Raises:
        CheckpointError: names or shapes differ.
    """
    learner.policy.load_state_dict(saved.tensors["weights"])
    names, optimizer = list(learner.policy.trainable()), learner.optimizer
    if isinstance(optimizer, Zero):
        optimizer.take_over(saved.tensors["optimizer"])
    else:
        optimizer.load_state_dict(optimizer_state(saved.tensors["optimizer"], names, optimizer.state_dict()))
    for name, average in (learner.average or {}).items():
        average.copy_(saved.tensors["ema"][name])
    torch.set_rng_state(saved.tensors["rng"]["torch"])
    learner.updates = saved.numbers["updates"]


def newest(root: Path, processes: Processes) -> tuple[Checkpoint | None, list[str]]:
    """`flowgrpo.checkpoint.newest_good` of process 0 on every process; of sharded networks each has its shares.

    Raises: RunError: there are checkpoints and all of them are damaged.
    """
    held: dict[str, Mapping[str, Tensor]] = {}

    def read() -> tuple[Checkpoint | None, list[str]]:
        saved, complaints = newest_good(root)
        if saved is None:
            return None, complaints
        held.update(saved.tensors)
        nothing: dict[str, Mapping[str, Tensor]] = {part: {} for part in saved.tensors}
        return replace(saved, tensors=nothing), complaints

    found, complaints = processes.of_first(read)
    if found is None:
        return None, complaints
    return replace(found, tensors={part: spread(held.get(part, {}), processes) for part in found.tensors}), complaints
