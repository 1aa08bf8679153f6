"""Words of the command line that belong to the recipe, apart from those that belong to the command."""

from __future__ import annotations

from collections.abc import Sequence

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


def hint_for_option(option: str) -> str:
    """What an unknown option may have meant: `--lr` is the key train.lr."""
    name = option.removeprefix("--").partition("=")[0].replace("-", "_")
    keys = dotted_keys()
    same = [key for key in keys if key.partition(".")[2] == name]
    if same:
        return f"; did you mean '--{same[0]}'?"
    return did_you_mean(name, [key.partition(".")[2] for key in keys])
