"""Train a recipe. Interrupt it with Ctrl-C; the same command continues where it stopped."""

from __future__ import annotations

import argparse
import sys

from flowgrpo.errors import FlowgrpoError
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
    from flowgrpo.processes import launched_rank
    from flowgrpo.progress import Progress
    from flowgrpo.trainer import Trainer

    try:
        result = Trainer(loaded.recipe, origins=loaded.origins, progress=Progress()).run()
    except FlowgrpoError as error:
        if launched_rank() == 0:
            raise
        return error.exit_code  # Process 0 has been told and says it, once.
    if launched_rank() != 0:
        return INTERRUPTED if result.interrupted else 0
    print(f"{result.reason}; {result.iterations} iterations in {result.folder}", file=sys.stderr)
    print(result.folder / "report.html")
    return INTERRUPTED if result.interrupted else 0
