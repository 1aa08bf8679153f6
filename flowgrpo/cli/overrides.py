"""Words of the command line that belong to the recipe, apart from those that belong to the command."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from flowgrpo.errors import did_you_mean
from flowgrpo.recipe_loading import dotted_keys


def split_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """(words of the command, overrides). An override is an option with a dot in its name, and the word after it."""
    arguments: list[str] = []
    overrides: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, _ = word.partition("=")
        if not (name.startswith("--") and "." in name):
            arguments.append(word)
            continue
        overrides.append(word)
        if not equals and rest and not rest[0].startswith("--"):
            overrides.append(rest.pop(0))
    return arguments, overrides


def hint_for_option(option: str, own: Sequence[str], *, takes_overrides: bool) -> str:
    """What an unknown option may have meant: one of the command's own, or `--lr`, the key train.lr.

    Args:
        option: as written, such as `--lr=1`.
        own: options of the command, such as `--out`.
        takes_overrides: whether the command takes keys of a recipe.
    """
    written = option.partition("=")[0]
    name = written.removeprefix("--").replace("-", "_")
    keys = {key.partition(".")[2]: key for key in reversed(dotted_keys())} if takes_overrides else {}
    meant = [name] if name in keys else get_close_matches(name, keys, n=1)
    near = "" if name in keys else did_you_mean(written, own)
    return near or (f"; did you mean '--{keys[meant[0]]}'?" if meant else "")
