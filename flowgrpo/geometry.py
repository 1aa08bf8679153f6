"""What one iteration takes: samples, groups, updates, forwards, decodes, scores. Pure Python.

The numbers follow from the plan's cost and from how updates are cut; a run's metrics count the same things.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flowgrpo.planning import leaves_per_root, plan_for, roots_per_group
from flowgrpo.recipe import Objective, Recipe
from flowgrpo.recipe_checks import kept_samples
from flowgrpo.select import pruned_steps
from samplers.plans import Plan, cost


@dataclass(frozen=True, slots=True)
class Geometry:
    """Counts of one iteration. Forwards are network inputs; `*_rows` are what the network sees with guidance.

    samples: pictures drawn, decoded and scored; kept: those that are trained on; edges: policy-gradient units before
    selection; trained_edges: after it; updates: optimizer steps; micro_batches: forward and backward passes per update,
    at most; inputs: network inputs that are trained in one inner epoch (at most, where a selection leaves some out);
    exact: whether `inputs` is reached; stored_inputs: network inputs whose latents are kept, before selection.
    """

    groups: int
    group_size: int
    samples: int
    kept: int
    edges: int
    trained_edges: int
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
    stored_inputs: int


def counting_plan(recipe: Recipe, iteration: int = 1) -> Plan:
    """The plan of an iteration on a stand-in grid: counts do not depend on the noise levels."""
    steps = recipe.sampler.steps
    return plan_for(recipe, tuple(1 - i / steps for i in range(steps + 1)), iteration)


def geometry(recipe: Recipe, *, negative_branch: bool = True, iteration: int = 1) -> Geometry:
    """The counts of one iteration.

    Args:
        recipe: a checked recipe.
        iteration: which one, from 1; windows make iterations differ.
        negative_branch: whether the model runs a second row for guidance; FLUX takes the scale as an input instead.

    Raises: ValueError: the plan does not fit the steps (`load_recipe` refuses such recipes beforehand).
    """
    train, model = recipe.train, recipe.model
    plan = counting_plan(recipe, iteration)
    groups = train.prompts_per_iteration
    total = cost(plan, roots_per_group(recipe) * groups)
    edges, inputs = _kept(recipe, plan, iteration)
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
        trained_edges=edges,
        trained_steps=plan.trained_steps,
        updates=train.updates_per_iteration * train.inner_epochs,
        micro_batches=-(-first // train.most_per_forward),
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
        stored_inputs=total.trained_forwards,
    )


TRAINED_COST = 4.0
"""A trained forward with its backward pass in sampling forwards, where activations are recomputed (about 3 elsewhere);
`scripts/bench_methods.py` measures it."""
LONGEST_SCHEDULE = 300
"""Iterations that an average over the window's schedule looks at; published runs have about as many."""


@dataclass(frozen=True, slots=True)
class Price:
    """Network inputs per sample, averaged over a run's iterations: sampled, trained, and both in sampling forwards."""

    sampling: float
    trained: float

    @property
    def equivalents(self) -> float:
        return self.sampling + TRAINED_COST * self.trained


def price(recipe: Recipe, *, samples: int | None = None) -> Price:
    """What a sample of a recipe costs, averaged over the whole schedule of its window; decodes and scores apart.

    Args:
        recipe: a checked recipe.
        samples: divide by so many samples per iteration; None by the recipe's own.
    """
    iterations = range(1, min(recipe.train.iterations, LONGEST_SCHEDULE) + 1)
    counts = [geometry(recipe, iteration=iteration) for iteration in iterations]
    total = len(counts) * (counts[0].samples if samples is None else samples)
    return Price(sum(c.sampling for c in counts) / total, sum(c.inputs for c in counts) / total)


def flow_grpo_price(recipe: Recipe) -> Price:
    """The same for Flow-GRPO with the recipe's number of steps: every step sampled, all but the last trained."""
    return Price(recipe.sampler.steps, recipe.sampler.steps - 1)


@dataclass(frozen=True, slots=True)
class _Tree:
    """What a selection must know to count: groups, trained steps, last split and its fan-out, iteration."""

    groups: int
    steps: tuple[int, ...]
    split: int
    children: int
    iteration: int


def _kept(recipe: Recipe, plan: Plan, iteration: int) -> tuple[int, int]:
    """(edges, inputs) that the selections leave; where edges share an input, at most so many inputs."""
    groups, steps = recipe.train.prompts_per_iteration, plan.trained_steps
    nodes, splits = _nodes(plan, groups * roots_per_group(recipe))
    split = max(splits, default=-1)
    tree = _Tree(groups, steps, split, plan.steps[split].children, iteration)
    edges = {step: float(nodes[step] * plan.steps[step].children) for step in steps}
    for name in recipe.objective.select:
        narrow = _NARROWINGS.get(name, _everything)
        edges = {step: narrow(recipe.objective, tree, step, count) for step, count in edges.items()}
    # Which steps a sample draws is left open, so a random share bounds the sum over steps and no single one.
    total = sum(edges.values()) * _random_share(recipe.objective, len(steps))
    return round(total), round(min(total, sum(min(nodes[step], count) for step, count in edges.items())))


def _random_share(objective: Objective, steps: int) -> float:
    chosen = max(1, int(objective.step_share * steps + 1e-9))
    return chosen / steps if "random_steps" in objective.select else 1.0


def _everything(objective: Objective, tree: _Tree, step: int, count: float) -> float:
    return count


def _best_of_n(objective: Objective, tree: _Tree, step: int, count: float) -> float:
    return min(count, objective.best_of * (tree.groups if objective.best_of_scope == "group" else 1))


def _parent_top1(objective: Objective, tree: _Tree, step: int, count: float) -> float:
    return count / tree.children if step >= tree.split else count


def _extreme(objective: Objective, tree: _Tree, step: int, count: float) -> float:
    return min(count, 2 * objective.extreme_b * tree.groups) if step > tree.split else count


def _depth_window(objective: Objective, tree: _Tree, step: int, count: float) -> float:
    pruned = pruned_steps(
        tree.iteration,
        start=tree.split,
        last=max(tree.steps),
        size=objective.prune_depths,
        every=objective.prune_every,
        direction=objective.prune_direction,
        stop=objective.prune_stop,
    )
    return 0.0 if step in pruned else count


_NARROWINGS: dict[str, Callable[[Objective, _Tree, int, float], float]] = {
    "best_of_n": _best_of_n,
    "parent_top1": _parent_top1,
    "extreme": _extreme,
    "depth_window": _depth_window,
}
"""Selection -> edges of one step that it leaves, of so many."""


def _nodes(plan: Plan, roots: int) -> tuple[list[int], list[int]]:
    """Nodes that branch before each step, of so many roots, and the steps at which they split."""
    live, nodes, splits = roots, [], []
    for number, step in enumerate(plan.steps):
        nodes.append(live)
        if step.children > 1 or step.keep_trunk:
            splits.append(number)
        live *= 1 if step.keep_trunk else step.children
    return nodes, splits


def _is_exact(recipe: Recipe) -> bool:
    """Whether the counted inputs are what is trained, and not a bound: no shared input may be left out by chance."""
    select, chains = recipe.objective.select, leaves_per_root(recipe) == 1
    fixed = {"all", "parent_top1", "extreme", "depth_window"}
    return fixed.issuperset(select) or (chains and not any(":" in name for name in select))
