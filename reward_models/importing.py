"""Import a user's function by its path. Needs no torch."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any


def near(name: str, choices: list[str] | tuple[str, ...]) -> str:
    """The hint `(did you mean ...?)` with a leading blank, or nothing where no choice is close to `name`."""
    close = difflib.get_close_matches(name, choices, 1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def import_function(spec: str) -> Callable[..., Any]:
    """The function that ``package.module:function`` or ``path/to/file.py:function`` names.

    Modules are also looked for in the current folder, after all other places.

    Args:
        spec: The import path.

    Returns:
        The function.

    Raises:
        ValueError: Nothing callable is there, or importing it failed; the message says which part is wrong.
    """
    place, _, name = spec.rpartition(":")
    if not place or not name.isidentifier():
        raise ValueError(
            f"'{spec}' is no import path; right would be package.module:function or path/to/file.py:function"
        )
    module = _load_file(Path(place)) if place.endswith(".py") else _load_module(place)
    if not hasattr(module, name):
        raise ValueError(f"'{place}' has no '{name}'{near(name, dir(module))}")
    function = getattr(module, name)
    if not callable(function):
        raise ValueError(f"'{spec}' is a {type(function).__name__}, not a function")
    return function


def _load_module(name: str) -> ModuleType:
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise ValueError(f"cannot import '{name}': {type(error).__name__}: {error}") from error


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        siblings = [str(other) for other in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise ValueError(f"there is no file '{path}'{near(str(path), siblings)}")
    name = f"_user_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise ValueError(f"'{path}' is no Python file")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ValueError(f"cannot run '{path}': {type(error).__name__}: {error}") from error
    return module
