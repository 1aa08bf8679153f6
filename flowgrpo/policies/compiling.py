"""Compiling the repeated blocks of a network: one program for all of them, in rollouts and in training."""

from __future__ import annotations

import importlib.util
from typing import Any

from torch.nn import ModuleList

from flowgrpo.errors import RecipeError


def compile_blocks(network: Any) -> None:
    """Marks every repeated block for compilation, which happens when it first runs.

    Raises:
        RecipeError: the network repeats no block, or nothing here can compile.
    """
    names = repeated_blocks(network)
    if not names:
        raise RecipeError(f"model.compile: a {type(network).__name__} repeats no block; right would be none")
    if importlib.util.find_spec("torch._inductor") is None:
        raise RecipeError("model.compile: this torch has no compiler; right would be none")
    network._repeated_blocks = names
    network.compile_repeated_blocks()


def repeated_blocks(network: Any) -> list[str]:
    """Class names of the blocks that a network repeats: what diffusers lists, or else the members of its lists."""
    lists = (child for child in network.children() if isinstance(child, ModuleList))
    members = {type(block).__name__ for blocks in lists for block in blocks}
    return list(network._repeated_blocks or sorted(members))
