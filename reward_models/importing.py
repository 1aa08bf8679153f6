"""Import a user's function by its path. Needs no torch."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any


def near(name: str, choices: Iterable[str]) -> str:
    """The hint `(did you mean ...?)` with a leading blank, or nothing where no choice is close to `name`."""
    close = difflib.get_close_matches(name, list(choices), 1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def import_function(spec: str) -> Callable[..., Any]:
    """The function that ``package.module:function`` or ``path/to/file.py:function`` names.

    Modules are also looked for in the working directory, after all other places. A file is executed once, whoever asks
    for it and for whichever of its functions, and again after it has changed.

    Args:
        spec: The import path.

    Returns:
        The function.

    Raises:
        ValueError: Nothing callable is there, or importing it failed; the message says which part is wrong.
    """
    source, _, name = spec.rpartition(":")
    if not source or not name.isidentifier():
        raise ValueError(
            f"'{spec}' is no import path; right would be package.module:function or path/to/file.py:function"
        )
    module = _module(source)
    public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    if not hasattr(module, name):
        raise ValueError(f"'{source}' has no function '{name}'{near(name, public)}")
    function = getattr(module, name)
    if not callable(function):
        raise ValueError(f"'{name}' in '{source}' is a {type(function).__name__}, not a function")
    return function


def _module(source: str) -> ModuleType:
    path = Path(source)
    if path.suffix == ".py" and not path.is_file():
        siblings = [str(other) for other in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise ValueError(f"there is no file '{source}' in {os.getcwd()}{near(source, siblings)}")
    try:
        return _from_file(path) if path.suffix == ".py" else _from_path(source)
    except ModuleNotFoundError as error:
        # A module that the user's own module fails to import is a different fault from a misspelt path.
        if error.name is not None and (source == error.name or source.startswith(error.name + ".")):
            raise ValueError(f"there is no module '{source}': {_first_line(error)}") from error
        raise ValueError(f"'{source}' fails on import: {_first_line(error)}") from error
    except Exception as error:
        raise ValueError(f"'{source}' fails on import: {type(error).__name__}: {_first_line(error)}") from error


def _from_path(source: str) -> ModuleType:
    # An installed console script does not search the working directory, `python -m` does. Last, so that a file there
    # cannot shadow an installed package.
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    return importlib.import_module(source)


def _from_file(path: Path) -> ModuleType:
    version = hashlib.sha256(str(path.resolve()).encode() + b"\0" + path.read_bytes()).hexdigest()[:16]
    name = f"_user_{path.stem}_{version}"
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


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
