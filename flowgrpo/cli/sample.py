"""Draw pictures with a model or a trained adapter, by ODE, each from its own seed."""

from __future__ import annotations

import argparse
from pathlib import Path

from flowgrpo.cli.arguments import existing_folder, seeds
from flowgrpo.errors import UsageError
from flowgrpo.preflight import require_ready
from flowgrpo.prompts import Prompt, load_prompts
from flowgrpo.recipe_loading import load_recipe

HELP = "draw pictures"
TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", help="recipe that names the model; else --model.path")
    parser.add_argument("--prompt", metavar="TEXT", action="append", default=[], help="what to draw; may be repeated")
    parser.add_argument("--prompts", metavar="SET", help="prompt file or embedded set")
    parser.add_argument(
        "--adapter", metavar="FOLDER", type=existing_folder, help="trained weights, such as RUN/adapter"
    )
    parser.add_argument("--seeds", metavar="LIST", type=seeds, default=(0,), help="0,1,2 or 0-15; one picture each")
    parser.add_argument("--steps", metavar="N", type=int)
    parser.add_argument("--guidance-scale", metavar="W", type=float)
    parser.add_argument("--out", metavar="FOLDER", type=Path, default=Path("samples"))


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    loaded = load_recipe(options.recipe, overrides)
    prompts = [Prompt(text) for text in options.prompt]
    if options.prompts:
        prompts += load_prompts(options.prompts).prompts
    if not prompts:
        raise UsageError('sample needs something to draw: --prompt "a red circle" or --prompts SET')
    require_ready(loaded.recipe, loaded.origins)
    from flowgrpo.progress import Progress
    from flowgrpo.sampling import sample_images

    section = loaded.recipe.eval
    files = sample_images(
        loaded.recipe,
        prompts,
        adapter=options.adapter,
        seeds=options.seeds,
        steps=options.steps or section.steps,
        guidance_scale=section.guidance_scale if options.guidance_scale is None else options.guidance_scale,
        out=options.out,
        progress=Progress().counter("drawing"),
    )
    print("\n".join(str(path) for path in files))
    return 0
