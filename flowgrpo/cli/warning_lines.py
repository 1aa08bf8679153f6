"""Warnings of our packages as one line each; those of libraries stay as Python shows them."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

PACKAGES = ("flowgrpo", "reward_models", "samplers")
_ROOT = Path(__file__).parents[2]


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Inside, a UserWarning of ours is the line `warning: ...`.

    Of several from one place (a thousand prompts that are cut) the first is shown at once and the number of the others
    at the end.
    """
    further: Counter[tuple[str, int]] = Counter()
    first: dict[tuple[str, int], str] = {}

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        place = (filename, lineno)
        if not (issubclass(category, UserWarning) and _is_ours(filename)):
            python_shows(message, category, filename, lineno, file, line)
        elif place in first:
            further[place] += 1
        else:
            first[place] = " ".join(str(message).split())
            print(f"warning: {first[place]}", file=sys.stderr, flush=True)

    with warnings.catch_warnings():
        python_shows, warnings.showwarning = warnings.showwarning, show
        try:
            yield
        finally:
            for place, count in further.items():
                print(f"warning: {count} more like: {first[place]}", file=sys.stderr, flush=True)


def _is_ours(filename: str) -> bool:
    path = Path(filename)
    return path.is_relative_to(_ROOT) and path.relative_to(_ROOT).parts[0] in PACKAGES
