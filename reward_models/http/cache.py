"""Answers of judges on disk, so that an evaluation that was interrupted asks for nothing twice.

One small file per answer, named by a hash of everything that decides it, and put in place by a rename: any number of
processes may write to a folder, on a network file system too, and a crash leaves whole entries or none.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_FORMAT = 1
"""Part of every key: raise it when the meaning of an entry changes."""


def key_of(facts: Mapping[str, Any]) -> str:
    """The name of an answer.

    Args:
        facts: Everything that decides it, as JSON: digests of the pictures, prompt, template, model, decoding.

    Returns:
        64 hexadecimal digits.
    """
    text = json.dumps({"format": _FORMAT, **facts}, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def get(folder: Path, key: str) -> Any | None:
    """The answer under `key`, or None where there is none or its file is damaged."""
    try:
        entry = json.loads(_file(folder, key).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return entry.get("answer") if isinstance(entry, dict) and entry.get("key") == key else None


def put(folder: Path, key: str, answer: Any, facts: Mapping[str, Any]) -> None:
    """Keep an answer.

    Args:
        folder: The cache; made where it is missing.
        key: `key_of(facts)`.
        answer: Anything that JSON holds.
        facts: Written beside it, for readers.

    Raises:
        OSError: The folder cannot be written to.
    """
    place = _file(folder, key)
    place.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=place.parent, prefix=".", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"key": key, "answer": answer, "facts": facts}, file)
        os.replace(name, place)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _file(folder: Path, key: str) -> Path:
    return folder / key[:2] / f"{key}.json"
