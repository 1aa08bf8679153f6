"""Score pictures on disk: the files of a folder in the order of their names, prompt by prompt."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from flowgrpo.cli import display
from flowgrpo.cli.arguments import existing_folder, names, with_scorers
from flowgrpo.errors import UsageError
from flowgrpo.prompts import load_prompts
from flowgrpo.recipe_loading import load_recipe
from flowgrpo.runfolder import write_atomically
from reward_models import check_name

HELP = "score pictures on disk"
TAKES_OVERRIDES = True
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scorer", metavar="NAME", type=names, required=True, help="a,b,...")
    parser.add_argument("--images", metavar="FOLDER", type=existing_folder, required=True)
    parser.add_argument("--prompts", metavar="SET", required=True, help="prompt file or embedded set, in order")
    parser.add_argument("--out", metavar="FILE", type=Path, help="a JSON line per picture")


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    recipe = load_recipe(None, with_scorers(overrides, options.scorer)).recipe
    _check_scorers(options.scorer)
    prompts = load_prompts(options.prompts).prompts
    files = sorted(path for path in options.images.iterdir() if path.suffix.lower() in SUFFIXES)
    if not files:
        raise UsageError(f"folder {str(options.images)!r} holds no picture ({', '.join(SUFFIXES)})")
    if len(files) % len(prompts):
        raise UsageError(f"{len(files)} pictures do not divide among {len(prompts)} prompts")
    from flowgrpo.progress import Progress
    from flowgrpo.scoring import score_files

    each = len(files) // len(prompts)
    owners = [prompts[i // each] for i in range(len(files))]
    lines, rows = score_files(recipe, options.scorer, files, owners, progress=Progress().counter("scoring"))
    if options.out:
        write_atomically(options.out, "".join(json.dumps(line) + "\n" for line in lines))
    print(display.scores(rows))
    return 0


def _check_scorers(scorers: tuple[str, ...]) -> None:
    for name in scorers:
        try:
            check_name(name, single=True)
        except ValueError as error:
            raise UsageError(str(error)) from error
