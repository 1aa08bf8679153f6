"""A choice of a recipe: a name of ours, or a user's own function by import path."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from flowgrpo.errors import RecipeError, did_you_mean, first_line

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
    source, colon, name = spec.rpartition(":")
    if not colon:
        raise RecipeError(
            f"{what}: unknown name {spec!r}, expected one of {', '.join(table)} or your own function as "
            f'"package.module:function" or "file.py:function"{did_you_mean(spec, table)}'
        )
    if not source or not name:
        raise RecipeError(f'{what}: {spec!r} is not of the form "package.module:function" or "file.py:function"')
    return _member(_module(source, what), name, source, what)  # type: ignore[return-value]


def _member(module: ModuleType, name: str, source: str, what: str) -> Callable[..., object]:
    public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    if not hasattr(module, name):
        raise RecipeError(f"{what}: {source!r} has no function {name!r}{did_you_mean(name, public)}")
    function = getattr(module, name)
    if not callable(function):
        raise RecipeError(f"{what}: {name!r} in {source!r} is a {type(function).__name__}, not a function")
    return function


def _module(source: str, what: str) -> ModuleType:
    try:
        return _from_file(Path(source)) if source.endswith(".py") else _from_path(source)
    except ModuleNotFoundError as error:
        # A module that the user's own module fails to import is a different fault from a misspelt path.
        if error.name is not None and (source == error.name or source.startswith(error.name + ".")):
            raise RecipeError(f"{what}: there is no module {source!r}: {first_line(error)}") from error
        raise RecipeError(f"{what}: {source!r} fails on import: {first_line(error)}") from error
    except FileNotFoundError as error:
        raise RecipeError(f"{what}: there is no file {source!r} in {os.getcwd()}") from error
    except Exception as error:
        kind = type(error).__name__
        raise RecipeError(f"{what}: {source!r} fails on import: {kind}: {first_line(error)}") from error


def _from_path(source: str) -> ModuleType:
    # An installed console script does not search the working directory, `python -m` does. Last, so that a file there
    # cannot shadow an installed package.
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    return importlib.import_module(source)


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(path)
    name = f"flowgrpo_user_{path.stem}_{abs(hash(path.resolve())):x}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise ImportError("not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
