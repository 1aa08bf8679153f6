"""Types of command-line arguments: text to value, or a message that argparse shows."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path


def count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)


def existing_folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"folder {text!r} does not exist")
    return Path(text)


def names(text: str) -> tuple[str, ...]:
    """`a,b` as ("a", "b")."""
    found = tuple(name.strip() for name in text.split(",") if name.strip())
    if not found:
        raise argparse.ArgumentTypeError("names no scorer")
    return found


def with_scorers(overrides: list[str], scorers: Iterable[str]) -> list[str]:
    """Overrides of a recipe that is to evaluate by these scorers, so that their options are known to be used."""
    return [*overrides, f"--eval.scorers={','.join(scorers)}"]


def seeds(text: str) -> tuple[int, ...]:
    """`0,1,2` as numbers, or `0-15` as a range with both ends."""
    try:
        return tuple(seed for part in text.split(",") for seed in _range(part))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of seeds such as 0,1,2 or 0-15") from error


def _range(text: str) -> range:
    first, dash, last = text.strip().partition("-")
    return range(int(first), int(last if dash else first) + 1)
