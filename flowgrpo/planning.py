"""From a recipe's sampler section to the plan of one iteration. Pure Python: `flowgrpo check` counts with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from flowgrpo.importing import resolve
from flowgrpo.recipe_checks import window_range
from samplers.plans import Plan, all_steps, random_window_start, window

if TYPE_CHECKING:
    from flowgrpo.recipe import Recipe

PlanMaker = Callable[..., Plan]


def _all_steps(sigmas: Sequence[float], recipe: Recipe, iteration: int, children: int) -> Plan:
    return all_steps(sigmas, children=children, solver=recipe.sampler.solver)


def _random_window(sigmas: Sequence[float], recipe: Recipe, iteration: int, children: int) -> Plan:
    """Flow-GRPO-Fast: one window per iteration, the same for every group (and rank)."""
    low, high = window_range(recipe)
    width = recipe.sampler.window_width
    start = random_window_start(recipe.train.seed, iteration, width=width, low=low, high=high)
    return window(sigmas, start, width, children=children, solver=recipe.sampler.solver)


PLANS: dict[str, PlanMaker] = {"all_steps": _all_steps, "random_window": _random_window}


def kernel_of(recipe: Recipe) -> Callable[..., Any]:
    """The stochastic step of a recipe, ours by name or a user's own. Imports torch."""
    from samplers import KERNELS

    return resolve(recipe.sampler.kernel, KERNELS, "sampler.kernel")


def roots_per_group(recipe: Recipe) -> int:
    """Distinct initial noises of one group: every member's own, or one that the first SDE step branches."""
    return recipe.train.group_size if recipe.sampler.initial_noise == "separate" else 1


def plan_for(recipe: Recipe, sigmas: Sequence[float], iteration: int) -> Plan:
    """The plan that every group of an iteration (counted from 1) follows.

    A user's own maker is called as `maker(sigmas, recipe, iteration, children)`, where `children` is the number of
    branches that the first SDE step must open so that each group ends in `group_size` samples.
    """
    children = recipe.train.group_size // roots_per_group(recipe)
    maker = resolve(recipe.sampler.plan, PLANS, "sampler.plan")
    return maker(tuple(sigmas), recipe, iteration, children)
