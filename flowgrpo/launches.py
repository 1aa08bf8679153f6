"""How many processes a run is started with, and what they share. No torch.

`check` reads it from a file (`flowgrpo.launch_files`) for its memory per process; a run asks its launcher.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flowgrpo.errors import RecipeError
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


def refuse_idle(recipe: Recipe, processes: int) -> None:
    """Raises: RecipeError: an iteration has fewer groups than there are processes."""
    groups = recipe.train.prompts_per_iteration
    if groups < processes:
        raise RecipeError(
            f"train.prompts_per_iteration = {groups} groups cannot be shared by {processes} processes; a group "
            f"stays on one process, so start at most {groups} or take at least {processes} prompts"
        )
