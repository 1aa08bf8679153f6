"""Score a model over a prompt set: mean, 95 % interval and a table per category, with fixed seeds per prompt.
`flowgrpo eval unigenbench` and `flowgrpo eval geneval` are benchmarks from model to table."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from flowgrpo.cli import display
from flowgrpo.cli.arguments import count, existing_folder, names, with_scorers
from flowgrpo.errors import UsageError
from flowgrpo.preflight import require_ready
from flowgrpo.prompts import load_prompts
from flowgrpo.recipe import Recipe
from flowgrpo.recipe_loading import load_recipe

HELP = "score a model over a prompt set"
TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", help="recipe that names the model; else --model.path")
    parser.add_argument("--prompts", metavar="SET", action="append", help="prompt file or set; default: eval.prompts")
    parser.add_argument("--scorer", metavar="NAME", type=names, help="a,b,...; default: eval.scorers")
    parser.add_argument(
        "--adapter", metavar="FOLDER", type=existing_folder, help="trained weights, such as RUN/adapter"
    )
    parser.add_argument("--images-per-prompt", metavar="N", type=count)
    parser.add_argument("--steps", metavar="N", type=count)
    parser.add_argument("--guidance-scale", metavar="W", type=float)
    parser.add_argument("--seed", metavar="N", type=int)
    parser.add_argument(
        "--out", metavar="FILE", type=Path, help="a line per picture; an interrupted evaluation continues"
    )
    parser.add_argument("--json", action="store_true", help="print rows as JSON lines")


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    loaded = load_recipe(options.recipe, with_scorers(overrides, options.scorer) if options.scorer else overrides)
    recipe = _narrowed(loaded.recipe, options)
    require_ready(recipe, {**loaded.origins, **({"eval.prompts": "--prompts"} if options.prompts else {})})
    sets = {name: load_prompts(path) for name, path in recipe.eval.prompts.items()}
    if options.out and len(sets) > 1:
        raise UsageError(f"--out holds one prompt set, but {len(sets)} are evaluated; choose one with --prompts")
    from flowgrpo.evaluation import evaluate
    from flowgrpo.progress import Progress

    progress = Progress()
    for name, held in sets.items():
        rows = evaluate(
            recipe,
            prompts=held.prompts,
            set_name=name,
            scorers=recipe.eval.scorers,
            adapter=options.adapter,
            seed=options.seed,
            images_per_prompt=options.images_per_prompt,
            steps=options.steps,
            guidance_scale=options.guidance_scale,
            out=options.out,
            progress=progress.counter(f"evaluating {name}"),
        )
        print("\n".join(json.dumps(row) for row in rows) if options.json else f"{name}\n{display.scores(rows)}")
    return 0


def _narrowed(recipe: Recipe, options: argparse.Namespace) -> Recipe:
    """The recipe with the sets that the command line asks for."""
    prompts = {name: name for name in options.prompts} if options.prompts else recipe.eval.prompts
    if not prompts:
        raise UsageError("no prompt set: give --prompts SET, or eval.prompts in the recipe")
    section = recipe.eval.model_copy(update={"prompts": prompts})
    return recipe.model_copy(update={"eval": section})
