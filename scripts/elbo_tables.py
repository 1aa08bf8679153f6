"""One answer under all of its masks, so that any mask plan is scored by looking up instead of asking the model.

An answer of n tokens has 2^n masks. Once the log-probability of every masked token under every mask is in a table, a
draw of an estimator costs no forward pass: thousands of draws give its mean and variance to three digits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from flowgrpo.likelihood_masked import LogitsFn, exact_elbo, target_log_probs
from flowgrpo.mask_plans import TIMES, coupled, coupled_elbo, espo, one_step, sdmc, uniform
from flowgrpo.views import Completions, Draw, MaskPlan

MASK = 1
"""Stands for the mask on the canvases that are looked up; their other tokens are all 0."""


@dataclass(frozen=True, slots=True)
class Tabulated:
    """An answer of n tokens under all of its masks.

    Attributes:
        elbo: the exact one, in nats.
        log_probs: float64 [2^n, n]: of token i under the mask whose number has the bits of its masked tokens; 0 where
            token i is not masked.
    """

    elbo: float
    log_probs: Tensor


@torch.no_grad()
def tabulate(logits_fn: LogitsFn, row: Completions, *, mask_id: int) -> Tabulated:
    """Enumerate an answer; the table keeps what `exact_elbo` asks the model on its way.

    Args:
        logits_fn: the policy.
        row: one completion.
        mask_id: id of the mask token.

    Raises:
        ValueError: there is more than one row, or the answer is too long to enumerate.
    """
    if len(row.ids) != 1:
        raise ValueError(f"a table holds one answer, got {len(row.ids)} rows")
    places = row.scored[0].nonzero().flatten()
    table = torch.zeros(2 ** len(places), len(places), dtype=torch.float64)

    def watched(ids: Tensor, scored: Tensor) -> Tensor:
        logits = logits_fn(ids, scored)
        found = target_log_probs(logits, row.ids.expand(ids.shape)[scored])
        masked = scored[:, places]
        table[mask_numbers(masked)] = table.new_zeros(masked.shape).masked_scatter(masked, found.double())
        return logits

    exact = exact_elbo(watched, row, mask_id=mask_id)
    return Tabulated(float(exact.elbo[0]), table)


def mask_numbers(masked: Tensor) -> Tensor:
    """The number of each mask, bit i for token i: bool [D, n] -> int64 [D]."""
    return (masked * 2 ** torch.arange(masked.shape[1])).sum(1)


def estimates(plan: MaskPlan, answer: Tabulated) -> Tensor:
    """The estimate of every row of a plan over canvases of the answer alone, [D]."""
    parts = [view.weights * answer.log_probs[mask_numbers(view.inputs == MASK)] for view in plan.views]
    return torch.stack(parts).sum((0, 2))


def canvases(size: int, draws: int) -> Completions:
    """`draws` rows of an answer of `size` tokens without a prompt: masks are drawn for them, no model reads them."""
    ids = torch.zeros(draws, size, dtype=torch.int64)
    everything, nothing = torch.ones_like(ids, dtype=torch.bool), torch.zeros_like(ids, dtype=torch.bool)
    return Completions(ids, everything, everything, nothing, nothing)


def generator_draw(seed: int) -> Draw:
    """Noise in the order of the calls: quick where, unlike in training, no row has to be found again."""
    generator = torch.Generator().manual_seed(seed)

    def draw(turn: int, where: Tensor) -> Tensor:
        return torch.rand(where.shape, generator=generator, dtype=torch.float64).masked_fill(~where, 1)

    return draw


def repeated(estimator: Callable[..., MaskPlan], rows: Completions, draw: Draw, times: int) -> MaskPlan:
    """The mean of independent draws of an estimator, as one plan."""
    plans = [estimator(rows, draw) for _ in range(times)]
    views = [replace(view, weights=view.weights / times) for plan in plans for view in plan.views]
    return replace(plans[0], views=tuple(views))


def independent_elbo(rows: Completions, draw: Draw) -> MaskPlan:
    """`coupled_elbo` without the coupling: the same two views, but of two draws that know nothing of each other."""
    one, other = coupled_elbo(rows, draw, mask_id=MASK), coupled_elbo(rows, draw, mask_id=MASK)
    return replace(one, views=(one.views[0], other.views[1]))


def coupled_independent(rows: Completions, draw: Draw) -> MaskPlan:
    """`coupled` with one share for both masks, as there, but the second mask drawn by itself instead of the rest."""
    everywhere = torch.ones(len(rows.ids), 1, dtype=torch.bool)
    share = 0.2 + 0.6 * draw(TIMES, everywhere).squeeze(1)
    one, other = (coupled(rows, draw, mask_id=MASK, times=share) for _ in range(2))
    return replace(one, views=(*one.views[:2], other.views[2]))


@dataclass(frozen=True, slots=True)
class Contender:
    """An estimator at any multiple of its own number of forwards.

    Attributes:
        forwards: of its smallest plan.
        plan: (canvases, noise, multiple) -> plan of `forwards` times the multiple views.
    """

    forwards: int
    plan: Callable[[Completions, Draw, int], MaskPlan]


def _again(estimator: Callable[..., MaskPlan]) -> Callable[[Completions, Draw, int], MaskPlan]:
    return partial(repeated, estimator)


def _nodes(nodes: int, form: str) -> Contender:
    return Contender(
        nodes, lambda rows, draw, times: sdmc(rows, draw, mask_id=MASK, nodes=nodes, masks=times, form=form)
    )


def _times(form: str) -> Contender:
    return Contender(1, lambda rows, draw, times: uniform(rows, draw, mask_id=MASK, draws=times, form=form))


CONTENDERS: dict[str, Contender] = {
    "one_step": Contender(1, _again(partial(one_step, mask_id=MASK, prompt_mask=0.0))),
    "coupled": Contender(3, _again(partial(coupled, mask_id=MASK))),
    "coupled_independent": Contender(3, _again(coupled_independent)),
    "uniform": _times("bernoulli"),
    "uniform_exact": _times("exact"),
    "independent_elbo": Contender(2, _again(independent_elbo)),
    "coupled_elbo": Contender(2, _again(partial(coupled_elbo, mask_id=MASK))),
    "espo": Contender(2, lambda rows, draw, times: espo(rows, draw, mask_id=MASK, pairs=times)),
    "sdmc_2": _nodes(2, "exact"),
    "sdmc_3": _nodes(3, "exact"),
    "sdmc_2_floor": _nodes(2, "floor"),
    "sdmc_3_floor": _nodes(3, "floor"),
    "sdmc_2_bernoulli": _nodes(2, "bernoulli"),
    "sdmc_3_bernoulli": _nodes(3, "bernoulli"),
}


def moments(answer: Tabulated, budgets: tuple[int, ...], *, draws: int, seed: int) -> dict[str, dict[str, list[float]]]:
    """Mean and variance (of the draws, not corrected) of every contender at every budget that it can use up.

    Args:
        answer: what is estimated.
        budgets: forward passes.
        draws: estimates per contender and budget.
        seed: of the masks.

    Returns:
        Contender -> budget -> [mean, variance], rounded to 7 digits.
    """
    rows = canvases(answer.log_probs.shape[1], draws)
    found: dict[str, dict[str, list[float]]] = {}
    for name, contender in CONTENDERS.items():
        for budget in budgets:
            times, left = divmod(budget, contender.forwards)
            if times and not left:
                values = estimates(contender.plan(rows, generator_draw(seed), times), answer)
                pair = [float(f"{x:.7g}") for x in (values.mean(), values.var(correction=0))]
                found.setdefault(name, {})[str(budget)] = pair
    return found
