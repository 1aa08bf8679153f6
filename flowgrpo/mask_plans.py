"""Mask plans: which positions a masked-diffusion model has to guess, and how each guess counts.

An estimator is a function that draws a plan of views,

    estimator(rows, draw, *, mask_id, ...) -> MaskPlan

and `likelihood_masked.likelihood` runs any of them. The evidence lower bound (ELBO) that most of them approximate, for
n scored tokens y and S the masked positions, is

    sum over k = 1 ... n of H_k / k,   H_k = mean over all S of size k of sum over i in S of log p(y_i | y outside S).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from flowgrpo.views import Completions, Draw, MaskPlan, View, lowest

Quadrature = Sequence[tuple[float, float]]
"""(time in (0, 1], weight) of each node; weights add up to 1."""

TIMES = 0
"""Turn of the draws that pick mask shares; masks and prompts have the turns after it."""

T = TypeVar("T")


def one_step(rows: Completions, draw: Draw, *, mask_id: int, prompt_mask: float) -> MaskPlan:
    """The whole completion is masked, and each prompt token with some probability: one forward.

    Not the ELBO: tokens are guessed independently of each other. It has no noise beyond the prompt's.

    Source: diffu-GRPO (d1, arXiv 2504.12216), sec. 3; its recipes use prompt_mask 0.15.

    Args:
        rows: completions.
        draw: noise.
        mask_id: id of the mask token.
        prompt_mask: probability that a prompt token is hidden, in [0, 1].

    Returns:
        MaskPlan: one view, weight 1.
    """
    masked = rows.completion | _hidden_prompt(rows, draw, prompt_mask, point=0)
    return _plan(rows, [_view(rows, masked, 1.0, mask_id)])


def coupled(
    rows: Completions,
    draw: Draw,
    *,
    mask_id: int,
    low: float = 0.2,
    high: float = 0.8,
    times: Tensor | None = None,
) -> MaskPlan:
    """Half of (everything masked + two complementary masks, each over its share): three forwards.

    Each token counts once in the first view and once in one of the others, about 1.5 log-probs in the mean; the sum is
    neither the ELBO nor a log-likelihood. `coupled_elbo` is the unbiased pair.

    Source: coupled-GRPO (DiffuCoder, arXiv 2506.20639) as its code runs it; the paper counts the pair alone.

    Args:
        rows: completions.
        draw: noise.
        mask_id: id of the mask token.
        low: least share of masked tokens, > 0.
        high: greatest share, < 1.
        times: the share of each row, [B] or [1], instead of drawing it; the published code shares one per batch.

    Returns:
        MaskPlan: views with weights 1/2, 1/(2t), 1/(2 (1 - t)).
    """
    if times is None:
        times = low + (high - low) * draw(TIMES, _ones(rows, 1)).squeeze(1)
    share = times.double().expand(len(rows.ids)).unsqueeze(1)
    first = rows.completion & (draw(_turn(0), rows.completion) < share)
    return _plan(
        rows,
        [
            _view(rows, rows.completion, 0.5, mask_id),
            _view(rows, first, 0.5 / share, mask_id),
            _view(rows, rows.completion & ~first, 0.5 / (1 - share), mask_id),
        ],
    )


def coupled_elbo(rows: Completions, draw: Draw, *, mask_id: int) -> MaskPlan:
    """The unbiased complementary pair: masks as in `coupled` with t over all of (0, 1), and t integrated out.

    Given that k of n tokens fell into the first mask, the mean of 1/t is (n + 1) / k, which has finite variance; 1/t
    has not. Every token is guessed exactly once.

    Source: ESPO (its published code), with the masks of coupled-GRPO; `espo` with one pair has the same distribution.

    Args:
        rows: completions.
        draw: noise.
        mask_id: id of the mask token.

    Returns:
        MaskPlan: two views, weights (n + 1) / (2 k) and (n + 1) / (2 (n - k)).
    """
    first = rows.scored & (draw(_turn(0), rows.scored) < draw(TIMES, _ones(rows, 1)))
    return _plan(rows, _pair(rows, first, 1, mask_id))


def espo(rows: Completions, draw: Draw, *, mask_id: int, pairs: int = 1) -> MaskPlan:
    """Complementary pairs whose mask counts k are uniform over 0 ... n and evenly spread over a row's pairs; unbiased.

    ESPO spreads counts over the batch instead, which makes a row's masks depend on its neighbours; for one row alone
    both have the same distribution. It scores the full generation length: give it rows without end tokens for that.

    Source: ESPO (its published code).

    Args:
        rows: completions.
        draw: noise.
        mask_id: id of the mask token.
        pairs: number of pairs, >= 1; two forwards each.

    Returns:
        MaskPlan: 2 * pairs views.
    """
    size = rows.length + 1
    begin = (draw(TIMES, _ones(rows, 1)).squeeze(1) * size).floor().long()
    views = []
    for pair in range(_positive("pairs", pairs)):
        count = (begin + size * pair // pairs) % size
        first = lowest(draw(_turn(pair), rows.scored), count, rows.scored)
        views += _pair(rows, first, pairs, mask_id)
    return _plan(rows, views)


def sdmc(
    rows: Completions,
    draw: Draw,
    *,
    mask_id: int,
    nodes: int | Quadrature = 3,
    masks: int = 1,
    form: str = "exact",
    prompt_mask: float = 0.0,
) -> MaskPlan:
    """Semi-deterministic Monte Carlo: fixed times from a quadrature, random masks at each: N K forwards.

    Form "exact" masks k = ceil(n t) tokens with coefficient w n / (k K): the ELBO is the mean of (n / k) H_k over k,
    and the k-th of n equal parts of (0, 1] is where ceil(n t) = k. Form "floor" is that of a published port,
    k = floor(n t) with coefficient w / (t K), which shrinks the estimate by k / (n t). Form "bernoulli" masks each
    token by itself; its bias is the quadrature's alone, and none once 2 N >= n.

    Source: GDPO (Group Diffusion Policy Optimization, ICLR 2026).

    Args:
        rows: completions.
        draw: noise.
        mask_id: id of the mask token.
        nodes: number N of Gauss-Legendre nodes on (0, 1), or (time, weight) of each.
        masks: number K of masks per node.
        form: key of `FORMS`.
        prompt_mask: probability that a prompt token is hidden, in [0, 1].

    Returns:
        MaskPlan: N K views.
    """
    quadrature = gauss_legendre(nodes) if isinstance(nodes, int) else nodes
    masks = _positive("masks", masks)
    points = [(time, weight / masks) for time, weight in quadrature for _ in range(masks)]
    draws = [(torch.full_like(rows.length, time, dtype=torch.float64), weight) for time, weight in points]
    return _at_times(rows, draw, draws, mask_id=mask_id, form=form, prompt_mask=prompt_mask)


def uniform(
    rows: Completions,
    draw: Draw,
    *,
    mask_id: int,
    draws: int = 2,
    form: str = "bernoulli",
    times: Tensor | None = None,
    prompt_mask: float = 0.0,
) -> MaskPlan:
    """Double Monte Carlo: random times and random masks. The baseline that the others are measured against.

    Unbiased in form "bernoulli", with a variance that grows without bound as t -> 0, and in form "exact", where k is
    uniform over 1 ... n (the log-likelihood of LLaDA's evaluation).

    Source: LLaDA (arXiv 2502.09992), eq. 4 and 6.

    Args:
        rows: completions.
        draw: noise.
        mask_id: id of the mask token.
        draws: number of times, >= 1; one forward each.
        form: key of `FORMS`.
        times: [B, draws] in (0, 1], instead of drawing them.
        prompt_mask: probability that a prompt token is hidden, in [0, 1].

    Returns:
        MaskPlan: one view per time.
    """
    if times is None:
        times = draw(TIMES, _ones(rows, _positive("draws", draws)))
    points = [(column, 1 / times.shape[1]) for column in times.double().unbind(1)]
    return _at_times(rows, draw, points, mask_id=mask_id, form=form, prompt_mask=prompt_mask)


def trajectory(
    rows: Completions, canvases: Tensor, predictions: Tensor, *, mask_id: int, weight: str = "mean"
) -> MaskPlan:
    """Views that were recorded while sampling: the model is asked again what it filled in at each of V steps.

    Units are views here (`per="view"`), so that each step has its own advantage.

    Source: MDPO (arXiv 2508.13148); its loss divides by the number of masks twice, which is weight "published".

    Args:
        rows: completions; positions after the first end token are not scored.
        canvases: before each step, int64 [B, V, T].
        predictions: what the model filled in at each step, masks that it did not keep included, int64 [B, V, T].
        mask_id: id of the mask token.
        weight: key of `STEP_WEIGHTS`.

    Returns:
        MaskPlan: V views.

    Raises:
        ValueError: shapes differ, or the weight is unknown.
    """
    want = (len(rows.ids), canvases.shape[1], rows.ids.shape[1])
    if tuple(canvases.shape) != want or tuple(predictions.shape) != want:
        shapes = f"canvases {tuple(canvases.shape)} and predictions {tuple(predictions.shape)}"
        raise ValueError(f"{shapes} must both be [B, V, T] = {want}")
    rule = _choice(weight, STEP_WEIGHTS, "weight")
    views = []
    for inputs, targets in zip(canvases.unbind(1), predictions.unbind(1), strict=True):
        scored = rows.scored & (inputs == mask_id)
        weights = rule(rows.completion.sum(1).double(), scored.sum(1).double().clamp(min=1))
        views.append(View(inputs, targets, scored, weights.unsqueeze(1) * scored))
    return _plan(rows, views)


STEP_WEIGHTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": lambda tokens, masked: 1 / masked,
    "elbo": lambda tokens, masked: tokens / masked,
    "published": lambda tokens, masked: tokens / masked.square(),
}
"""(completion tokens [B], scored masks [B]) -> weight of each log-probability [B]."""


def gauss_legendre(nodes: int) -> list[tuple[float, float]]:
    """(time, weight) of Gauss-Legendre quadrature on (0, 1): exact for polynomials up to degree 2 nodes - 1."""
    points, weights = np.polynomial.legendre.leggauss(_positive("nodes", nodes))
    return [((1 + float(point)) / 2, float(weight) / 2) for point, weight in zip(points, weights, strict=True)]


def _exact(rows: Completions, noise: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    count = (rows.length * time).ceil().long().clamp(min=1).minimum(rows.length)
    return lowest(noise, count, rows.scored), rows.length.double() / count


def _floor(rows: Completions, noise: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    count = (rows.length * time).floor().long().clamp(min=1).minimum(rows.length)
    return lowest(noise, count, rows.scored), 1 / time


def _bernoulli(rows: Completions, noise: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    return rows.scored & (noise < time.unsqueeze(1)), 1 / time


FORMS: dict[str, Callable[[Completions, Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "exact": _exact,
    "floor": _floor,
    "bernoulli": _bernoulli,
}
"""(rows, uniform noise [B, T], times [B]) -> (masked [B, T], coefficient of the masked sum [B])."""


def _at_times(
    rows: Completions,
    draw: Draw,
    points: Sequence[tuple[Tensor, float]],
    *,
    mask_id: int,
    form: str,
    prompt_mask: float,
) -> MaskPlan:
    """One view per (times [B], weight)."""
    rule = _choice(form, FORMS, "form")
    views = []
    for point, (time, weight) in enumerate(points):
        masked, coefficient = rule(rows, draw(_turn(point), rows.scored), time)
        prompt = _hidden_prompt(rows, draw, prompt_mask, point)
        views.append(_view(rows, masked | prompt, weight * coefficient.unsqueeze(1), mask_id))
    return _plan(rows, views)


def _pair(rows: Completions, first: Tensor, pairs: int, mask_id: int) -> list[View]:
    """A mask within the scored positions and its complement."""
    scale = (rows.length + 1).double() / (2 * pairs)
    parts = (first, rows.scored & ~first)
    return [_view(rows, part, (scale / part.sum(1).clamp(min=1)).unsqueeze(1), mask_id) for part in parts]


def _view(rows: Completions, masked: Tensor, weight: Tensor | float, mask_id: int) -> View:
    scored = masked & rows.scored
    if bool((rows.ids[rows.scored] == mask_id).any()):
        raise ValueError(f"a scored token is the mask token {mask_id}: a wrong mask id, or an unfinished completion")
    inputs = rows.ids.masked_fill(masked | rows.hidden, mask_id)
    return View(inputs, rows.ids, scored, weight * scored.double())


def _plan(rows: Completions, views: list[View]) -> MaskPlan:
    return MaskPlan(tuple(views), rows.length, int(rows.completion.any(0).nonzero()[0]))


def _hidden_prompt(rows: Completions, draw: Draw, probability: float, point: int) -> Tensor:
    if not 0 <= probability <= 1:
        raise ValueError(f"prompt_mask is a probability, in [0, 1], got {probability}")
    if not probability:
        return torch.zeros_like(rows.prompt)
    return rows.prompt & (draw(_turn(point, prompt=True), rows.prompt) < probability)


def _turn(point: int, *, prompt: bool = False) -> int:
    return 1 + 2 * point + prompt


def _ones(rows: Completions, count: int) -> Tensor:
    return torch.ones(len(rows.ids), count, dtype=torch.bool, device=rows.ids.device)


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return value


def _choice(name: str, table: Mapping[str, T], what: str) -> T:
    if name not in table:
        raise ValueError(f"{what} must be one of {', '.join(table)}, got {name!r}")
    return table[name]


ESTIMATORS: dict[str, Callable[..., MaskPlan]] = {
    "one_step": one_step,
    "coupled": coupled,
    "coupled_elbo": coupled_elbo,
    "sdmc": sdmc,
    "sdmc_floor": partial(sdmc, form="floor"),
    "espo": espo,
    "uniform": uniform,
}
"""Estimators that draw their masks, by name: (rows, draw, *, mask_id, ...) -> MaskPlan."""
