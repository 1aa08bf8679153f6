"""From a recipe's sampler section to the plan of one iteration. Pure Python: `flowgrpo check` counts with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from flowgrpo.importing import resolve
from samplers.plans import Plan, all_steps, branch, flash_tail, single_branch, window, with_tail
from samplers.windows import WINDOWS

if TYPE_CHECKING:
    from flowgrpo.recipe import Recipe

PlanMaker = Callable[..., Plan]
Window = tuple[int, int] | None
"""First step and width of an iteration's window; None where every step but the last is stochastic."""


def _chain(sigmas: Sequence[float], recipe: Recipe, iteration: int, children: int) -> Plan:
    held, solver = window_of(recipe, iteration), recipe.sampler.solver
    if held is None:
        return all_steps(sigmas, children=children, solver=solver)
    return window(sigmas, *held, children=children, solver=solver)


def _branch(sigmas: Sequence[float], recipe: Recipe, iteration: int, children: int) -> Plan:
    sampler = recipe.sampler
    return branch(
        sigmas,
        sampler.split_steps,
        sampler.children,
        split_noise=sampler.split_noise,
        sde_steps=_window_steps(recipe, iteration),
        solver=sampler.solver,
    )


def _single_branch(sigmas: Sequence[float], recipe: Recipe, iteration: int, children: int) -> Plan:
    sampler = recipe.sampler
    return single_branch(sigmas, sampler.children, steps=_window_steps(recipe, iteration), solver=sampler.solver)


PLANS: dict[str, PlanMaker] = {"chain": _chain, "branch": _branch, "single_branch": _single_branch}


def kernel_of(recipe: Recipe) -> Callable[..., Any]:
    """The stochastic step of a recipe, ours by name or a user's own. Imports torch."""
    from samplers import KERNELS

    return resolve(recipe.sampler.kernel, KERNELS, "sampler.kernel")


def window_range(recipe: Recipe) -> tuple[int, int]:
    """[low, high): steps that a window may contain."""
    sampler = recipe.sampler
    return sampler.window_low, sampler.steps - 1 if sampler.window_high is None else sampler.window_high


def window_of(recipe: Recipe, iteration: int) -> Window:
    """First step and width of the window of an iteration (counted from 1); every group and rank has the same."""
    sampler = recipe.sampler
    if sampler.window == "none":
        return None
    low, high = window_range(recipe)
    rule = resolve(sampler.window, WINDOWS, "sampler.window")
    start = rule(
        iteration - 1,
        low=low,
        high=high,
        width=sampler.window_width,
        stride=sampler.window_stride,
        tau=sampler.window_tau,
        decay=sampler.window_decay,
        decay_from=sampler.window_decay_from,
        seed=recipe.train.seed,
    )
    return start, sampler.window_width


def roots_per_group(recipe: Recipe) -> int:
    """Distinct initial noises of one group: every member's own, one that they share, or as many as trees are needed."""
    return max(1, recipe.train.group_size // leaves_per_root(recipe))


def leaves_per_root(recipe: Recipe) -> int:
    """Samples that descend from one initial noise."""
    sampler = recipe.sampler
    if sampler.plan == "branch":
        return int(sampler.children ** len(set(sampler.split_steps)))
    if sampler.plan == "single_branch":
        return sampler.children * (sampler.steps - 1 if sampler.window == "none" else sampler.window_width)
    return 1 if sampler.initial_noise == "separate" else recipe.train.group_size


def plan_for(recipe: Recipe, sigmas: Sequence[float], iteration: int) -> Plan:
    """The plan that every group of an iteration (counted from 1) follows.

    A user's own maker is called as `maker(sigmas, recipe, iteration, children)`, where `children` is the number of
    branches that the first SDE step must open so that each group ends in `group_size` samples.
    """
    children = recipe.train.group_size // roots_per_group(recipe)
    maker = resolve(recipe.sampler.plan, PLANS, "sampler.plan")
    plan = maker(tuple(sigmas), recipe, iteration, children)
    return plan if recipe.sampler.tail_ratio is None else _with_tail(plan, recipe.sampler.tail_ratio)


def _window_steps(recipe: Recipe, iteration: int) -> range | None:
    held = window_of(recipe, iteration)
    return None if held is None else range(held[0], sum(held))


def _with_tail(plan: Plan, ratio: float) -> Plan:
    stop = 1 + max(i for i, step in enumerate(plan.steps) if step.kind == "sde")
    return with_tail(plan, flash_tail(len(plan.steps), 0, stop, ratio))
