"""Print how to cite a recipe: BibTeX of the papers that it and its parts follow, and of flowgrpo itself."""

from __future__ import annotations

import argparse

from flowgrpo import __version__
from flowgrpo.paper_parts import parts_in_use
from flowgrpo.papers import PAPERS, bibtex, entry, papers_of
from flowgrpo.recipe_loading import load_recipe

HELP = "print how to cite a recipe"
TAKES_OVERRIDES = True
OWN = {
    "title": "{flowgrpo: group-relative policy optimisation of diffusion and flow models}",
    "author": "{The flowgrpo authors}",
    "note": f"Software, version {__version__}, Apache-2.0",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="shipped name or YAML file")


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    recipe = load_recipe(options.recipe, overrides).recipe
    keys = papers_of(recipe.paper)
    if not keys:
        print(f"% The recipe {recipe.name} names no paper.\n")
    used = parts_in_use(recipe)
    for key in dict.fromkeys((*keys, *used)):
        parts = f" ({used[key]})" if key in used else ""
        print(f"% {PAPERS[key].note}{parts}\n{bibtex(key)}\n")
    print(f"% the implementation\n{entry('misc', 'flowgrpo', OWN)}")
    return 0
