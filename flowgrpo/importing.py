"""A choice of a recipe: a name of ours, or a user's own function by import path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from flowgrpo.errors import RecipeError, did_you_mean
from reward_models.importing import import_function

F = TypeVar("F", bound=Callable[..., object])


def resolve(spec: str, table: Mapping[str, F], what: str) -> F:
    """The function that a recipe chooses.

    Args:
        spec: a key of `table`, "package.module:function", or "path/to/file.py:function" (relative to the working
            directory, which modules are looked up in as well).
        table: our own functions by name.
        what: the key of the recipe that is being resolved, for messages.

    Returns:
        F: the function.

    Raises:
        RecipeError: no such name, file, module or function, the user's module fails on import, or what it holds under
            that name cannot be called.
    """
    if spec in table:
        return table[spec]
    if ":" not in spec:
        raise RecipeError(
            f"{what}: unknown name {spec!r}, expected one of {', '.join(table)} or your own function as "
            f'"package.module:function" or "file.py:function"{did_you_mean(spec, table)}'
        )
    try:
        return import_function(spec)  # type: ignore[return-value]
    except ValueError as error:
        raise RecipeError(f"{what}: {error}") from error
