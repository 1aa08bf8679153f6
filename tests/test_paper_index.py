"""docs/paper_index.md: what it names exists, and nothing that exists is missing from it."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from flowgrpo.assets import shipped_recipes
from flowgrpo.papers import PAPERS, papers_of
from flowgrpo.recipe_loading import load_recipe

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "paper_index.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`((?:samplers|flowgrpo|reward_models)(?:\.\w+)+)`", TEXT)))
OVERVIEW = [line.split("|")[1:-1] for line in TEXT.split("## Flow-GRPO")[0].splitlines() if line.startswith("| ")][1:]
RECIPES = sorted({name for row in OVERVIEW for name in re.findall(r"`(\w+)`", row[1])})
OURS = frozenset({"flagship"})
"""Recipes of no single paper."""


def test_there_is_something_to_check() -> None:
    assert len(NAMED) >= 30 and len(RECIPES) >= 20 and len(OVERVIEW) >= 11


@pytest.mark.parametrize("path", NAMED)
def test_every_function_named_can_be_imported(path: str) -> None:
    module, _, name = path.rpartition(".")
    assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_named_ships_and_follows_its_paper(name: str) -> None:
    assert name in shipped_recipes()
    numbers = [number for row in OVERVIEW if f"`{name}`" in row[1] for number in re.findall(r"\d{4}\.\d{5}", row[0])]
    cited = [PAPERS[key].arxiv for key in papers_of(load_recipe(name).recipe.paper)]
    assert not cited or set(cited) & set(numbers), f"{name} cites {cited}, the index lists it under {numbers}"


def test_every_recipe_with_a_paper_is_in_the_index() -> None:
    cited = {name for name in shipped_recipes() if papers_of(load_recipe(name).recipe.paper)}
    assert cited - OURS <= set(RECIPES)


def test_the_overview_names_papers_of_the_table() -> None:
    listed = {paper.arxiv for paper in PAPERS.values()}
    assert all(set(re.findall(r"\d{4}\.\d{5}", row[0])) <= listed for row in OVERVIEW)


def test_every_cell_of_a_table_is_filled() -> None:
    for line in TEXT.splitlines():
        if line.startswith("|"):
            assert all(cell.strip() for cell in line.replace("\\|", "").split("|")[1:-1]), line
