"""From rewarded answers of a masked language model to credited units: which samples or steps are trained, on which
views, with which advantage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from flowgrpo.credit import Tree
from flowgrpo.credit_text import step_rewards
from flowgrpo.likelihoods import LIKELIHOODS, likelihood_of
from flowgrpo.mask_plans import ESTIMATORS, trajectory
from flowgrpo.masked_rollout import Answers
from flowgrpo.masked_work import MaskedWork
from flowgrpo.media import Collected
from flowgrpo.objective import Objective, select_units
from flowgrpo.policy import TextPolicy
from flowgrpo.recipe import Recipe
from flowgrpo.units import shuffle_order
from flowgrpo.views import Completions, MaskPlan, completions, keyed_draw

MASKS = 3
"""First number of the keys of mask plans: keeps them apart from the noise of rollouts."""


@dataclass(frozen=True, slots=True)
class Iteration:
    """What stays the same through the credit of one iteration."""

    policy: TextPolicy
    recipe: Recipe
    objective: Objective
    number: int


@dataclass(frozen=True, slots=True)
class Chosen:
    """Units before they have a likelihood: advantages and keep [N, C], C being 1, or the number of recorded steps."""

    advantages: Tensor
    keep: Tensor


@dataclass(frozen=True, slots=True)
class Planned:
    """Mask plans with the units that they score: advantages, keep and step [N, S]; `then` as in `MaskedWork`."""

    plans: tuple[MaskPlan, ...]
    advantages: Tensor
    keep: Tensor
    step: Tensor
    then: Tensor | None = None


def credited(run: Iteration, collected: Collected) -> MaskedWork:
    """Credit, selection and mask plans of one iteration."""
    answers: Answers = collected.rollout
    rows = _completions(run, answers)
    recorded = answers.decoded.canvases is not None
    chosen = _steps(run, collected, rows) if recorded else _samples(run, collected)
    planned = (_recorded if recorded else _drawn)(run, answers, rows, chosen)
    return MaskedWork(
        policy=run.policy,
        objective=run.objective,
        attention=answers.attention,
        plans=planned.plans,
        per=likelihood_of(run.recipe).per,
        temperature=run.recipe.objective.score_temperature,
        advantages=planned.advantages,
        keep=planned.keep,
        step=planned.step.flatten(),
        steps=int(answers.decoded.steps.max()),
        own=answers.own,
        then=planned.then,
    )


def _completions(run: Iteration, answers: Answers) -> Completions:
    return completions(
        answers.decoded.ids,
        prompt_columns=answers.start,
        eos_ids=run.policy.ends.tokens,
        attention_mask=answers.attention,
        tail=run.recipe.objective.tail,
    )


def _order(run: Iteration, size: int) -> Tensor:
    """Whose reward each sample gets: its own, but in the control experiment."""
    train = run.recipe.train
    return shuffle_order(train.seed, run.number, size) if train.shuffle_rewards else torch.arange(size)


def _compare(run: Iteration) -> Callable[..., Tensor]:
    reward = run.recipe.reward
    return partial(run.objective.advantages, weights=reward.names, combine=reward.combine)


def _samples(run: Iteration, collected: Collected) -> Chosen:
    """Answers are compared with those of their prompt."""
    rewards, size = collected.rewards, len(collected.group)
    order, each = _order(run, size), torch.arange(size)
    tree = Tree(each, each, torch.zeros_like(each), collected.group)
    scores = {name: values[order] for name, values in rewards.scores.items()}
    advantages, heard = run.objective.credit(_compare(run), scores, rewards.valid[order], tree)
    keep = _selected(run, advantages, heard, collected.group, torch.zeros_like(each), each)
    return Chosen(advantages.unsqueeze(1), keep.unsqueeze(1))


def _steps(run: Iteration, collected: Collected, rows: Completions) -> Chosen:
    """Recorded steps get the advantage of their answer, or are compared with the same step of the group's others.

    Source of the latter: MDPO (arXiv 2508.13148); see `credit_text.step_rewards`.
    """
    answers: Answers = collected.rollout
    if answers.step_scores is None or answers.step_valid is None or answers.decoded.canvases is None:
        raise ValueError("steps can only be credited where their predictions were scored")
    order, canvases = _order(run, len(collected.group)), answers.decoded.canvases
    size, count = canvases.shape[:2]
    valid = answers.step_valid[order].unsqueeze(1).expand(size, count)
    step = torch.arange(count).expand(size, count)
    group = collected.group.unsqueeze(1).expand(size, count)
    if run.recipe.objective.credit == "step":
        values = {name: step_rewards(part[order]).flatten() for name, part in answers.step_scores.items()}
        peers = (group * count + step).flatten()
        advantages = _compare(run)(values, valid.flatten(), peers).reshape(size, count)
    else:
        finals = {name: part[order][:, -1] for name, part in answers.step_scores.items()}
        advantages = _compare(run)(finals, valid[:, -1], collected.group).unsqueeze(1).expand(size, count)
    masked = (rows.scored.unsqueeze(1) & (canvases == run.policy.mask_id)).any(-1)
    sample = torch.arange(size).unsqueeze(1).expand(size, count)
    flat = (part.flatten() for part in (advantages, valid & masked, group, step, sample))
    return Chosen(advantages, _selected(run, *flat).reshape(size, count))


def _selected(run: Iteration, advantages: Tensor, valid: Tensor, group: Tensor, step: Tensor, sample: Tensor) -> Tensor:
    return select_units(
        run.objective,
        advantages,
        valid,
        group=group,
        step=step,
        sample=sample,
        seed=run.recipe.train.seed,
        iteration=run.number,
    )


def _drawn(run: Iteration, answers: Answers, rows: Completions, chosen: Chosen) -> Planned:
    """Masks drawn by (seed, iteration, epoch, sample): one plan per inner epoch, or one for all."""
    section, train = run.recipe.objective, run.recipe.train
    facts = LIKELIHOODS[section.likelihood]
    estimator, options = ESTIMATORS[section.likelihood], facts.options(section)

    def plan(epoch: int) -> MaskPlan:
        keys = [(MASKS, train.seed, run.number, epoch, sample) for sample in range(len(rows.ids))]
        return estimator(rows, keyed_draw(keys), mask_id=run.policy.mask_id, **options)

    plans = tuple(plan(epoch) for epoch in range(train.inner_epochs if section.fresh_masks else 1))
    units = _unit_columns(run, answers, rows, plans[0].start)
    keep = chosen.keep & units["scored"]
    return Planned(plans, chosen.advantages.expand(keep.shape).contiguous(), keep, units["step"])


def _unit_columns(run: Iteration, answers: Answers, rows: Completions, start: int) -> Mapping[str, Tensor]:
    """Which units count and the sampling step of each: tokens, in which their final value was revealed."""
    if likelihood_of(run.recipe).per == "token":
        return {"scored": rows.scored[:, start:], "step": answers.decoded.step[:, start:].clamp(min=0)}
    one = torch.ones(len(rows.ids), 1, dtype=torch.bool)
    return {"scored": one, "step": torch.zeros(len(rows.ids), 1, dtype=torch.int64)}


def _recorded(run: Iteration, answers: Answers, rows: Completions, chosen: Chosen) -> Planned:
    """The kept steps of each sample, in their order; rows with fewer than others end in views that score nothing."""
    decoded = answers.decoded
    canvases, guesses, confidences = decoded.canvases, decoded.guesses, decoded.confidences
    if canvases is None or guesses is None or confidences is None:
        raise ValueError("the rollout was not recorded")
    most = max(1, int(chosen.keep.sum(1).max()))
    step = (~chosen.keep).long().argsort(dim=1, stable=True)[:, :most]
    keep = chosen.keep.gather(1, step)
    index = step.unsqueeze(-1).expand(-1, -1, canvases.shape[2])
    inputs = torch.where(keep.unsqueeze(-1), canvases.gather(1, index), decoded.ids.unsqueeze(1))
    plan = trajectory(
        rows,
        inputs,
        guesses.gather(1, index),
        mask_id=run.policy.mask_id,
        weight=run.recipe.objective.step_weight,
    )
    then = _density(run.recipe, plan, confidences.gather(1, index))
    return Planned((plan,), chosen.advantages.gather(1, step), keep, step, then)


def _density(recipe: Recipe, plan: MaskPlan, confidence: Tensor) -> Tensor | None:
    """Likelihood of the recorded guesses by the rollout's own probabilities [N, V], where it noted the scored ones."""
    if not _confidence_is_density(recipe):
        return None
    logs = confidence.double().clamp(min=torch.finfo(torch.float64).tiny).log()
    return torch.stack([(view.weights * logs[:, i]).sum(1) for i, view in enumerate(plan.views)], dim=1)


def _confidence_is_density(recipe: Recipe) -> bool:
    """Whether the recorded confidence of a guess is the probability that training computes for it."""
    sampler, temperature = recipe.sampler, recipe.objective.score_temperature
    if sampler.guidance > 0:
        return False
    tempered: dict[str, Any] = {
        "low_confidence": temperature == 1,
        "maskgit_plus": temperature == sampler.temperature and sampler.top_k is None and sampler.top_p == 1,
    }
    return bool(tempered.get(sampler.order, False))
