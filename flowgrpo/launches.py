"""How many processes a run is started with and what they share, from a configuration of accelerate. No torch.

`check` reads it for its memory per process; a run asks its launcher (`flowgrpo.sharding`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from flowgrpo.errors import RecipeError, UsageError, first_line
from flowgrpo.recipe import Recipe

Weights = Literal["whole", "gathered", "shared", "zero", "zero_offloaded"]


@dataclass(frozen=True, slots=True)
class Launch:
    """Processes of a run.

    Attributes:
        processes: how many.
        weights: whole: each holds all that one process alone would. shared: each holds its part of weights, gradients
            and optimizer state, and the whole of a block while it is in use (ZeRO-3). gathered: the same parts, and
            whole weights beside them while they are in use (ZeRO-2). zero: whole weights and gradients, and parts of
            masters and Adam's averages, by DeepSpeed; zero_offloaded: these parts wait in the CPU's memory.
    """

    processes: int = 1
    weights: Weights = "whole"

    @property
    def parts(self) -> int:
        """Into how many parts the network is split."""
        return self.processes if self.weights in ("shared", "gathered") else 1

    @property
    def bytes_per_trained(self) -> float:
        """Of a trained parameter: float32 weight, gradient and Adam's two averages, or what is a process's own part."""
        if self.weights == "zero":
            return 8 + 16 / self.processes
        return 8 + 4 / self.processes if self.weights == "zero_offloaded" else 16 / self.parts

    def most(self, groups: int) -> float:
        """The share of the busiest process in `groups` groups, which stay whole."""
        return -(-groups // self.processes) / groups


ALONE = Launch()


def read_launch(file: str | None, processes: int | None) -> Launch:
    """What a configuration file says, the number of processes replaced by `processes` where that is given.

    Raises:
        UsageError: the file is missing, is no such configuration, or asks for something that a run refuses.
    """
    said = _read(Path(file)) if file is not None else {}
    count = processes if processes is not None else said.get("num_processes", 1)
    if not isinstance(count, int) or count < 1:
        raise UsageError(f"--launch: {file}: num_processes is {count!r}; a whole number from 1 would be right")
    return Launch(count, _weights(str(file), said))


def _read(path: Path) -> dict[str, Any]:
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"--launch: {path} cannot be read: {first_line(error)}") from error
    if not isinstance(said, dict) or "distributed_type" not in said:
        raise UsageError(f"--launch: {path} has no distributed_type: it is no configuration of accelerate's launcher")
    return said


def _weights(file: str, said: dict[str, Any]) -> Weights:
    kind = str(said.get("distributed_type") or "NO").upper()
    if kind in WHOLE:
        return "whole"
    if kind == "DEEPSPEED":
        return _zero(file, said.get("deepspeed_config"))
    if kind != "FSDP":
        known = ", ".join((*WHOLE, "FSDP", "DEEPSPEED"))
        raise UsageError(f"--launch: {file}: distributed_type {kind} is not supported; known are {known}")
    settings = said.get("fsdp_config")
    settings = settings if isinstance(settings, dict) else {}
    if str(settings.get("fsdp_version", 1)) != "2":
        raise UsageError(f"--launch: {file}: fsdp_config.fsdp_version must be 2")
    reshards = str(settings.get("fsdp_reshard_after_forward", True)).lower() in ("true", "1", "yes", "full_shard")
    return "shared" if reshards else "gathered"


def _zero(file: str, settings: Any) -> Weights:
    settings = settings if isinstance(settings, dict) else {}
    if settings.get("zero_stage") not in (1, 2):
        raise UsageError(f"--launch: {file}: deepspeed_config.zero_stage must be 1 or 2")
    return "zero_offloaded" if settings.get("offload_optimizer_device") == "cpu" else "zero"


WHOLE = ("NO", "MULTI_GPU", "MULTI_CPU")
"""Values of distributed_type that leave every process a whole copy; False is how YAML reads a bare NO."""


def refuse_idle(recipe: Recipe, processes: int) -> None:
    """Raises: RecipeError: an iteration has fewer groups than there are processes."""
    groups = recipe.train.prompts_per_iteration
    if groups < processes:
        raise RecipeError(
            f"train.prompts_per_iteration = {groups} groups cannot be shared by {processes} processes; a group "
            f"stays on one process, so start at most {groups} or take at least {processes} prompts"
        )
