"""What one iteration takes: samples, groups, updates, forwards, decodes, scores. Pure Python.

The numbers follow from the plan's cost and from how updates are cut; a run's metrics count the same things.
"""

from __future__ import annotations

from dataclasses import dataclass

from flowgrpo.planning import plan_for, roots_per_group
from flowgrpo.recipe import Recipe
from flowgrpo.recipe_checks import kept_samples
from samplers.plans import Plan, cost


@dataclass(frozen=True, slots=True)
class Geometry:
    """Counts of one iteration. Forwards are network inputs; `*_rows` are what the network sees with guidance.

    samples: pictures drawn, decoded and scored; kept: those that are trained on; edges: policy-gradient units before
    selection; updates: optimizer steps; micro_batches: forward and backward passes per update, at most; inputs:
    network inputs that are trained in one inner epoch (at most, where a selection leaves some out); exact: whether
    `inputs` is reached.
    """

    groups: int
    group_size: int
    samples: int
    kept: int
    edges: int
    trained_steps: tuple[int, ...]
    updates: int
    micro_batches: int
    inputs: int
    exact: bool
    sampling: int
    trained: int
    old: int
    reference: int
    sampling_rows: int
    trained_rows: int
    no_grad_rows: int
    decodes: int
    scored: int
    on_policy: bool


def counting_plan(recipe: Recipe, iteration: int = 1) -> Plan:
    """The plan of an iteration on a stand-in grid: counts do not depend on the noise levels."""
    steps = recipe.sampler.steps
    return plan_for(recipe, tuple(1 - i / steps for i in range(steps + 1)), iteration)


def geometry(recipe: Recipe, *, negative_branch: bool = True) -> Geometry:
    """The counts of one iteration.

    Args:
        recipe: a checked recipe.
        negative_branch: whether the model runs a second row for guidance; FLUX takes the scale as an input instead.

    Raises: ValueError: the plan does not fit the steps (`load_recipe` refuses such recipes beforehand).
    """
    train, model = recipe.train, recipe.model
    plan = counting_plan(recipe)
    groups = train.prompts_per_iteration
    total = cost(plan, roots_per_group(recipe) * groups)
    inputs = _trained_inputs(recipe, plan, total.trained_forwards)
    first = -(-inputs // train.updates_per_iteration)
    trained = inputs * train.inner_epochs
    old = inputs if train.inner_epochs > 1 else inputs - first
    reference = trained if recipe.objective.kl != "none" else 0
    in_rollout = 2 if negative_branch and model.guidance_scale > 1 else 1
    in_training = in_rollout if model.guidance_in_training else 1
    return Geometry(
        groups=groups,
        group_size=total.leaves // groups,
        samples=total.leaves,
        kept=kept_samples(recipe),
        edges=total.edges,
        trained_steps=plan.trained_steps,
        updates=train.updates_per_iteration * train.inner_epochs,
        micro_batches=-(-first // train.micro_batch_size),
        inputs=inputs,
        exact=_is_exact(recipe),
        sampling=total.forwards,
        trained=trained,
        old=old,
        reference=reference,
        sampling_rows=total.forwards * in_rollout,
        trained_rows=trained * in_training,
        no_grad_rows=(old + reference) * in_training,
        decodes=total.leaves,
        scored=total.leaves * len(recipe.reward.names),
        on_policy=train.updates_per_iteration * train.inner_epochs == 1,
    )


def _trained_inputs(recipe: Recipe, plan: Plan, all_inputs: int) -> int:
    """Network inputs that selection leaves; where members share one it may be kept by any of them, so at most."""
    steps = len(plan.trained_steps)
    if recipe.objective.select == "random_steps":
        return min(all_inputs, kept_samples(recipe) * max(1, int(recipe.objective.step_share * steps + 1e-9)))
    if recipe.objective.select == "best_of_n":
        return min(all_inputs, kept_samples(recipe) * steps)
    return all_inputs


def _is_exact(recipe: Recipe) -> bool:
    select, separate = recipe.objective.select, recipe.sampler.initial_noise == "separate"
    return select == "all" or (separate and ":" not in select)
