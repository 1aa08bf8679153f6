"""One rollout over several processes: everybody knows all its edges, each holds the latents that it drew."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from flowgrpo.processes import Processes
from samplers.rollout import FlowRollout, edge_log_probs, merge

LENGTH_OF = {"samples": "sample_root", "inputs": "input_step", "velocities": "input_step", "next": "edge_step"}
"""What holds latents -> an index of as many rows. Latents stay where they were drawn: they are the bulk."""


@dataclass(frozen=True, slots=True)
class SharedRollout:
    """A rollout of all processes.

    Attributes:
        whole: index of all roots, leaves, inputs and edges; its latents are empty rows unless the process is alone.
        own: what this process drew, counted from 0.
        first_input, first_edge: numbers, in `whole`, of the first input and edge of `own`.
        log_probs: log-density of every edge of `whole` under the policy that drew it [E], where it was asked for.
    """

    whole: FlowRollout
    own: FlowRollout
    first_input: int = 0
    first_edge: int = 0
    log_probs: Tensor | None = None

    @property
    def own_inputs(self) -> range:
        """This process's inputs, as numbered in `whole`."""
        return range(self.first_input, self.first_input + len(self.own.input_step))


def share_rollout(own: FlowRollout, processes: Processes, *, log_probs: bool = False) -> SharedRollout:
    """Exchange the index of what every process drew.

    Args:
        own: this process's rollout, of consecutive groups.
        processes: who drew the others.
        log_probs: also exchange the edges' log-densities.
    """
    densities = torch.cat(processes.exchange(edge_log_probs(own))) if log_probs else None
    if processes.world == 1:
        return SharedRollout(own, own, log_probs=densities)
    parts = [replace(own, **_without_latents(own, index)) for index in processes.exchange(_index(own))]
    before = parts[: processes.rank]
    return SharedRollout(
        merge(parts),
        own,
        first_input=sum(len(part.input_step) for part in before),
        first_edge=sum(len(part.edge_step) for part in before),
        log_probs=densities,
    )


def _index(rollout: FlowRollout) -> dict[str, Any]:
    held = {field.name: getattr(rollout, field.name) for field in fields(rollout)}
    tensors = {name: value for name, value in held.items() if isinstance(value, Tensor) and name not in LENGTH_OF}
    return {**tensors, "sample_path": rollout.sample_path}


def _without_latents(like: FlowRollout, index: dict[str, Any]) -> dict[str, Any]:
    empty = {name: getattr(like, name).new_empty(len(index[of]), 0) for name, of in LENGTH_OF.items()}
    return {**index, **empty}
