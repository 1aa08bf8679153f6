"""List the families of models that can be trained, their hub names, and what the papers set for them."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator

from flowgrpo.errors import UsageError, did_you_mean
from flowgrpo.policies.facts import FACTS, FamilyFacts

HELP = "list the families of models and the settings that papers used"
TAKES_OVERRIDES = False
WIDTH = 118


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "family", metavar="FAMILY", nargs="?", help="one of them: a hub name, a pipeline's class, or a part of a title"
    )


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    chosen = FACTS if options.family is None else {name: FACTS[name] for name in _named(options.family)}
    print("\n\n".join("\n".join(_lines(name, facts)) for name, facts in chosen.items()))
    return 0


def _named(word: str) -> tuple[str, ...]:
    """The family that a hub name or a class name belongs to."""
    names = {hub: name for name, facts in FACTS.items() for hub in facts.hub} | {name: name for name in FACTS}
    found = tuple(dict.fromkeys(name for called, name in names.items() if word == called))
    titled = tuple(name for name, facts in FACTS.items() if word.lower() in facts.title.lower())
    if not (found or titled):
        titles = ", ".join(facts.title for facts in FACTS.values())
        raise UsageError(f"models: {word!r} is no family that is known{did_you_mean(word, names)} (families: {titles})")
    return found or titled


def _lines(name: str, facts: FamilyFacts) -> Iterator[str]:
    yield f"{facts.title}  ({name})"
    rows = [("hub", ", ".join(facts.hub)), ("guidance", facts.guidance), ("grid", facts.grid)]
    rows.append(("adapter on", ", ".join(facts.lora_targets)))
    rows += [("published", f"{paper.paper}: {paper.settings}") for paper in facts.papers]
    if not facts.papers:
        rows.append(("published", "no settings of a paper or its code are known to us"))
    if facts.recipe is not None:
        rows.append(("try", f"flowgrpo check {facts.recipe} --model.path {facts.hub[0]}"))
    for key, text in rows:
        first, *rest = textwrap.wrap(text, WIDTH - 14, break_long_words=False, break_on_hyphens=False)
        yield f"  {key:<12}{first}"
        yield from (f"{'':14}{line}" for line in rest)
