"""Answers of judges on disk, so that nothing that was interrupted asks twice.

One small file per answer, named by a hash of everything that decides it, and put in place by a rename: any number of
processes may write to a folder, on a network file system too, and a crash leaves whole entries or none. A run that is
killed and resumed draws the pictures of its lost iterations again, bit for bit, and finds its judge's answers here:
that, too, is why a judge whose server does not decode reproducibly leaves a resumed run as it would have been.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

AUTO, OFF = "auto", "none"
"""The default place, and no place at all."""
PLACE = "FLOWGRPO_JUDGE_CACHE"
"""Environment variable that says what "auto" means: a folder, or "none"."""

_FORMAT = 1
"""Part of every key: raise it when the meaning of an entry changes."""
_DAY = 86_400.0


def key_of(facts: Mapping[str, Any]) -> str:
    """The name of an answer.

    Args:
        facts: Everything that decides it, as JSON: digests of the pictures, prompt, template, model, decoding.

    Returns:
        64 hexadecimal digits.
    """
    text = json.dumps({"format": _FORMAT, **facts}, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Store:
    """A folder of answers.

    Attributes:
        folder: Made where it is missing. Its 256 parts hold the answers.
        days: Answers that were written longer ago are removed from a part when a process first writes to it; so the
            folder of a training, which draws every picture once, does not grow for ever.
    """

    folder: Path
    days: float = 30.0

    def get(self, key: str) -> Any | None:
        """The answer under `key`, or None where there is none or its file is damaged."""
        try:
            entry = json.loads(self._file(key).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        return entry.get("answer") if isinstance(entry, dict) and entry.get("key") == key else None

    def put(self, key: str, answer: Any, facts: Mapping[str, Any]) -> None:
        """Keep an answer.

        Args:
            key: `key_of(facts)`.
            answer: Anything that JSON holds.
            facts: Written beside it, for readers.

        Raises:
            OSError: The folder cannot be written to.
        """
        place = self._file(key)
        place.parent.mkdir(parents=True, exist_ok=True)
        _sweep(place.parent, self.days)
        handle, name = tempfile.mkstemp(dir=place.parent, prefix=".", suffix=".part")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump({"key": key, "answer": answer, "facts": facts}, file)
            os.replace(name, place)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def open_store(place: str, days: float) -> Store | None:
    """The cache that a judge's options name.

    Args:
        place: A folder, "none", or "auto": what the environment variable FLOWGRPO_JUDGE_CACHE says, else
            ``flowgrpo/judges`` in the user's cache folder (XDG_CACHE_HOME, ``~/.cache``).
        days: See `Store`.

    Returns:
        The cache, or None: none is wanted, or the automatic folder cannot be made, as in a read-only home.

    Raises:
        OSError: The folder that is named cannot be made.
    """
    wanted = os.environ.get(PLACE) or AUTO if place == AUTO else place
    if wanted == OFF:
        return None
    if wanted != AUTO:
        folder = Path(wanted).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        return Store(folder, days)
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "flowgrpo" / "judges"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return Store(folder, days)


@functools.cache
def _sweep(part: Path, days: float) -> None:
    """Once per process: a part is read whole, and an answer too many does no harm."""
    oldest = time.time() - days * _DAY
    for file in part.glob("*.json"):
        with suppress(OSError):  # another process may sweep as well
            if file.stat().st_mtime < oldest:
                file.unlink()
