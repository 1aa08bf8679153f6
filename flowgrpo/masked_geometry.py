"""What one iteration of a masked language model takes: answers, canvases seen, forwards. Pure Python.

A run's metrics count the same things; where rows end early, or samples are left out, these are upper bounds.
"""

from __future__ import annotations

from dataclasses import dataclass

from flowgrpo.likelihoods import LIKELIHOODS, likelihood_of
from flowgrpo.recipe import Recipe
from flowgrpo.recipe_checks import kept_samples


@dataclass(frozen=True, slots=True)
class AnswerGeometry:
    """Counts of one iteration; forwards are canvases that the network sees.

    kept: answers that are trained on; views: forwards of one answer's likelihood; per: what a unit is; passes: how
    often a trained view is evaluated, twice where gradients of several views are taken one at a time; scored: texts
    that are scored, at most.
    """

    groups: int
    samples: int
    kept: int
    views: int
    per: str
    passes: int
    updates: int
    micro_batches: int
    sampling: int
    trained: int
    old: int
    reference: int
    scored: int
    on_policy: bool


def answer_geometry(recipe: Recipe) -> AnswerGeometry:
    """The counts of one iteration of a checked recipe."""
    train, sampler, objective = recipe.train, recipe.sampler, recipe.objective
    samples, kept = train.prompts_per_iteration * train.group_size, kept_samples(recipe)
    recorded = objective.likelihood == "trajectory"
    views = _recorded_views(recipe) if recorded else LIKELIHOODS[objective.likelihood].views(objective)
    passes = 2 if views > 1 else 1
    first = -(-kept // train.updates_per_iteration)
    rounds = 1 if recorded or not objective.fresh_masks else train.inner_epochs
    remembered = kept * rounds - (first if train.inner_epochs == 1 or rounds > 1 else 0)
    every = kept * views * train.inner_epochs
    steps = min(sampler.steps, sampler.gen_length)
    return AnswerGeometry(
        groups=train.prompts_per_iteration,
        samples=samples,
        kept=kept,
        views=views,
        per=likelihood_of(recipe).per,
        passes=passes,
        updates=train.updates_per_iteration * train.inner_epochs,
        micro_batches=-(-first // train.most_per_forward),
        sampling=samples * steps * (2 if sampler.guidance > 0 else 1),
        trained=every * passes,
        old=remembered * views,
        reference=every if objective.kl != "none" else 0,
        scored=samples * (steps if recorded else 1) * len(recipe.reward.names),
        on_policy=train.updates_per_iteration * train.inner_epochs == 1,
    )


def _recorded_views(recipe: Recipe) -> int:
    """Steps of each answer that are trained."""
    steps = min(recipe.sampler.steps, recipe.sampler.gen_length)
    for name in recipe.objective.select:
        if name == "largest_steps":
            steps = min(steps, recipe.objective.train_steps)
        elif name == "random_steps":
            steps = max(1, int(recipe.objective.step_share * steps + 1e-9))
    return steps
