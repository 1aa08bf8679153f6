"""Which device a run uses."""

from __future__ import annotations

import os

import torch

from flowgrpo.errors import RecipeError


def resolve_device(name: str) -> torch.device:
    """ "auto" is the accelerator where there is one, else the CPU; any other name is torch's own.

    Under a launcher, "auto" and "cuda" are this process's own accelerator.

    Raises: RecipeError: torch does not know the name or has no such device.
    """
    if name in ("auto", "cuda") and torch.cuda.is_available():
        own = os.environ.get("LOCAL_RANK")
        return torch.device("cuda") if own is None else torch.device("cuda", int(own))
    if name == "auto":
        return torch.device("cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise RecipeError(
            f"run.device: {name!r} cannot be used here ({reason}); auto, cpu or cuda:0 would do"
        ) from error
    return torch.device(name)
