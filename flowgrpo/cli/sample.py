"""Draw pictures or answer prompts with a model or a trained adapter, each sample from its own seed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from flowgrpo.cli.arguments import count, existing_folder, seeds
from flowgrpo.errors import UsageError
from flowgrpo.preflight import require_ready
from flowgrpo.prompts import Prompt, load_prompts
from flowgrpo.recipe import Recipe
from flowgrpo.recipe_loading import load_recipe

HELP = "draw pictures, answer prompts"
TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", help="recipe that names the model; else --model.path")
    parser.add_argument(
        "--prompt", metavar="TEXT", action="append", default=[], help="what to draw or to answer; may be repeated"
    )
    parser.add_argument("--prompts", metavar="SET", help="prompt file or embedded set")
    parser.add_argument(
        "--adapter", metavar="FOLDER", type=existing_folder, help="trained weights, such as RUN/adapter"
    )
    parser.add_argument("--seeds", metavar="LIST", type=seeds, default=(0,), help="0,1,2 or 0-15; one sample each")
    parser.add_argument("--steps", metavar="N", type=count)
    parser.add_argument("--guidance-scale", metavar="W", type=float)
    parser.add_argument("--out", metavar="FOLDER", type=Path, default=Path("samples"), help="of pictures")
    parser.add_argument("--show-steps", action="store_true", help="print how each answer was unmasked, step by step")
    parser.add_argument("--html", metavar="FILE", type=Path, help="write a page that plays the unmasking")


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    loaded = load_recipe(options.recipe, overrides)
    prompts = [Prompt(text) for text in options.prompt]
    if options.prompts:
        prompts += load_prompts(options.prompts).prompts
    if not prompts:
        raise UsageError('sample needs something to draw: --prompt "a red circle" or --prompts SET')
    require_ready(loaded.recipe, loaded.origins)
    SAMPLERS[loaded.recipe.model.kind](options, loaded.recipe, prompts)
    return 0


def _pictures(options: argparse.Namespace, recipe: Recipe, prompts: Sequence[Prompt]) -> None:
    if options.show_steps or options.html:
        raise UsageError(
            "--show-steps and --html show how a language model unmasks; this recipe's model draws pictures"
        )
    from flowgrpo.progress import Progress
    from flowgrpo.sampling import sample_images

    section = recipe.eval
    suited = section.guidance(trained=options.adapter is not None)
    files = sample_images(
        recipe,
        prompts,
        adapter=options.adapter,
        seeds=options.seeds,
        steps=options.steps or section.steps,
        guidance_scale=suited if options.guidance_scale is None else options.guidance_scale,
        out=options.out,
        progress=Progress().counter("drawing"),
    )
    print("\n".join(str(path) for path in files))


def _answers(options: argparse.Namespace, recipe: Recipe, prompts: Sequence[Prompt]) -> None:
    if options.guidance_scale is not None:
        raise UsageError("--guidance-scale belongs to pictures; answers have --eval.decoding.guidance")
    from flowgrpo.progress import Progress
    from flowgrpo.unmasking import in_terminal, unmask, write_page

    settings = {} if options.steps is None else {"steps": options.steps}
    found = unmask(
        recipe,
        prompts,
        adapter=options.adapter,
        seeds=options.seeds,
        settings=settings,
        progress=Progress().counter("answering"),
    )
    answers = list(found)
    for answer in answers:
        print(f"{answer.prompt} [seed {answer.seed}, {answer.length} tokens, {answer.forwards} forwards]")
        if options.show_steps:
            print(in_terminal(answer, colour=sys.stdout.isatty()))
        print(answer.text)
    if options.html:
        write_page(answers, options.html)
        print(options.html, file=sys.stderr)


SAMPLERS: dict[str, Callable[[argparse.Namespace, Recipe, Sequence[Prompt]], None]] = {
    "flow": _pictures,
    "masked_lm": _answers,
}
"""`model.kind` -> what it does with (options, recipe, prompts)."""
