"""Which device a run uses."""

from __future__ import annotations

import os

import torch

from flowgrpo.errors import RecipeError


def resolve_device(name: str) -> torch.device:
    """ "auto" is the accelerator where there is one, else the CPU; any other name is torch's own.

    Raises: RecipeError: torch does not know the name or has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise RecipeError(
            f"run.device: {name!r} cannot be used here ({reason}); auto, cpu or cuda:0 would do"
        ) from error
    return torch.device(name)


def refuse_several_processes() -> None:
    """Raises: RecipeError: the launcher started several processes, which would train the same thing side by side."""
    size = os.environ.get("WORLD_SIZE", "1")
    if size != "1":
        raise RecipeError(f"this version trains in one process, but the launcher started {size}; use --num_processes 1")
