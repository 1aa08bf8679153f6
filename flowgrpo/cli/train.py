"""Train a recipe. Interrupt it with Ctrl-C; the same command continues where it stopped."""

from __future__ import annotations

import argparse
import sys

from flowgrpo.preflight import require_ready
from flowgrpo.recipe_loading import load_recipe

HELP = "train a recipe"
TAKES_OVERRIDES = True
INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="shipped name or YAML file")


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    loaded = load_recipe(options.recipe, overrides)
    require_ready(loaded.recipe, loaded.origins)
    from flowgrpo.progress import Progress
    from flowgrpo.trainer import Trainer

    result = Trainer(loaded.recipe, origins=loaded.origins, progress=Progress()).run()
    print(f"{result.reason}; {result.iterations} iterations in {result.folder}", file=sys.stderr)
    print(result.folder / "report.html")
    return INTERRUPTED if result.interrupted else 0
