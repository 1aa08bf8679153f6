"""The objective: from a recipe's names to functions, and from a record to a loss.

Torch-free on import, so that `check` can ask what a recipe needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from flowgrpo import recipe
from flowgrpo.advantages import ADVANTAGES, combined_advantages
from flowgrpo.credit import CREDITS
from flowgrpo.errors import RecipeError
from flowgrpo.importing import resolve
from flowgrpo.kl import KLS
from flowgrpo.ratios import RATIOS
from flowgrpo.records import Record, fields_read, fields_refused
from flowgrpo.reductions import REDUCTIONS
from flowgrpo.select import SELECTIONS
from flowgrpo.surrogates import SURROGATES, Surrogate
from flowgrpo.weights import WEIGHTS

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Objective:
    """A resolved recipe section: functions and numbers, chosen once.

    Attributes:
        advantages: (rewards {scorer: [n]}, valid [n], group [n], *, weights, combine) -> [n] float64.
        credit: (advantages, rewards, valid, tree) -> advantages of edges [E], and which have a valid sample [E].
        selections: each (advantages, valid, *, group, step, sample, source, leaves, seed, iteration) -> keep; applied
            one after the other by `select_units`.
        ratio: record -> log ratio [B, S].
        surrogate: (log_ratio, advantages, *, low, high) -> `Surrogate`, or the loss alone.
        kl: record -> [B, S].
        weight: (record, *, trained_std) -> [B, S].
        reduction: (keep, leaf_of, edge_of) -> weight of each unit in the loss of the optimizer step.
        clip_low: lower clip range of the ratio.
        clip_high: upper clip range of the ratio.
        beta: factor of the KL.
    """

    advantages: Callable[..., Tensor]
    credit: Callable[..., tuple[Tensor, Tensor]]
    selections: tuple[Callable[..., Tensor], ...]
    ratio: Callable[[Record], Tensor]
    surrogate: Callable[..., Surrogate | Tensor]
    kl: Callable[[Record], Tensor]
    weight: Callable[..., Tensor]
    reduction: Callable[[Tensor, Tensor, Tensor], Tensor]
    clip_low: float
    clip_high: float
    beta: float

    @property
    def reads(self) -> frozenset[str]:
        """Fields of the record that this objective reads; "ref_gap" among them means a reference forward."""
        return fields_read(self.ratio) | fields_read(self.kl) | fields_read(self.weight)


def resolve_objective(section: recipe.Objective) -> Objective:
    """Turn names and import paths into functions.

    Args:
        section: the recipe's objective.

    Returns:
        Objective: what the training loop calls.

    Raises:
        RecipeError: an unknown name, or an import path that leads nowhere.
    """
    advantages = partial(
        combined_advantages,
        kind=resolve(section.advantage, ADVANTAGES, "objective.advantage"),
        std=section.std,
        ddof=section.ddof,
        eps=section.eps,
        min_std=section.min_std,
        clamp=section.adv_clip,
    )
    settings = {
        "share": section.step_share,
        "best_of": section.best_of,
        "scope": section.best_of_scope,
        "extreme_b": section.extreme_b,
        "prune_depths": section.prune_depths,
        "prune_every": section.prune_every,
        "prune_direction": section.prune_direction,
        "prune_stop": section.prune_stop,
        "train_steps": section.train_steps,
    }
    selections = (resolve(name, SELECTIONS, "objective.select") for name in section.select)
    return Objective(
        advantages=advantages,
        credit=CREDITS[section.credit],
        selections=tuple(partial(selection, **settings) for selection in selections),
        ratio=resolve(section.ratio, RATIOS, "objective.ratio"),
        surrogate=resolve(section.surrogate, SURROGATES, "objective.surrogate"),
        kl=resolve(section.kl, KLS, "objective.kl"),
        weight=resolve(section.weight, WEIGHTS, "objective.weight"),
        reduction=resolve(section.reduction, REDUCTIONS, "objective.reduction"),
        clip_low=section.clip_low,
        clip_high=section.clip_high,
        beta=section.beta,
    )


READERS: dict[str, Mapping[str, Callable[..., Any]]] = {"ratio": RATIOS, "kl": KLS, "weight": WEIGHTS}
"""Keys of the objective whose functions read the record."""


def requirements(section: recipe.Objective) -> dict[str, frozenset[str]]:
    """Fields of the record that each choice of a recipe reads.

    Args:
        section: the recipe's objective.

    Returns:
        dict[str, frozenset[str]]: "ratio", "kl" and "weight" -> field names.
    """
    return {key: fields_read(_reader(section, key)) for key in READERS}


def check_requirements(section: recipe.Objective, available: Iterable[str], likelihood: str) -> None:
    """Refuse a recipe that reads what its likelihood does not give, or that its likelihood makes meaningless.

    Args:
        section: the recipe's objective.
        available: fields that the likelihood fills in, such as `likelihood_flow.FIELDS`.
        likelihood: what the likelihood is called in messages.

    Raises:
        RecipeError: one sentence for each choice that reads a missing field or refuses one that is there.
    """
    problems = [text for key in READERS for text in unfit(section, key, available, likelihood)]
    if problems:
        raise RecipeError(problems)


def unfit(section: recipe.Objective, key: str, available: Iterable[str], likelihood: str) -> Iterator[str]:
    """Why the function at one key of `READERS` does not go with a likelihood: at most one sentence."""
    function, name, given = _reader(section, key), f"objective.{key} = {getattr(section, key)}", set(available)
    if missing := fields_read(function) - given:
        yield (
            f"{name} reads {', '.join(sorted(missing))}, which the {likelihood} likelihood does not give (it gives "
            f"{', '.join(sorted(given))})"
        )
    elif unwanted := fields_refused(function) & given:
        yield (
            f"{name} makes no sense where units have a {', '.join(sorted(unwanted))}, as those of the {likelihood} "
            "likelihood do: they are whole sequences"
        )


def _reader(section: recipe.Objective, key: str) -> Callable[..., Any]:
    return resolve(getattr(section, key), READERS[key], f"objective.{key}")


def select_units(
    objective: Objective,
    advantages: Tensor,
    valid: Tensor,
    *,
    group: Tensor,
    step: Tensor,
    sample: Tensor,
    seed: int,
    iteration: int,
    source: Tensor | None = None,
    leaves: Tensor | None = None,
) -> Tensor:
    """Which units are trained; a unit without a valid sample never is, whatever a user's own function says.

    Args:
        objective: the resolved objective.
        advantages: of units, [B, S] or [E].
        valid: of units, bool, same shape.
        group: number of each unit's group, same shape.
        step: number of each unit's sampling step, same shape.
        sample: number of each unit's sample in the iteration's global batch, same shape.
        seed: of the run.
        iteration: number of the iteration, from 1.
        source: number of the network input that each tree edge starts from, [E].
        leaves: half-open range of the samples below each tree edge, [E, 2].

    Returns:
        Tensor: keep, bool, same shape.

    Raises:
        ValueError: the selection returns another shape.
    """
    facts = {"group": group, "step": step, "sample": sample, "source": source, "leaves": leaves}
    keep = valid
    for selection in objective.selections:
        chosen = selection(advantages, keep, seed=seed, iteration=iteration, **facts)
        if chosen.shape != valid.shape:
            raise ValueError(f"objective.select returned shape {tuple(chosen.shape)} for units {tuple(valid.shape)}")
        keep = keep & chosen.bool()
    return keep


def unit_losses(
    objective: Objective,
    record: Record,
    advantages: Tensor,
    unit_weight: Tensor,
    *,
    trained_std: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of a micro-batch: its share of the loss of the whole optimizer step.

        loss = sum of unit_weight * (weight * surrogate + beta * kl)

    Args:
        objective: the resolved objective.
        record: likelihood of the micro-batch's units, [B, S].
        advantages: of the units, [B, S].
        unit_weight: [B, S], these units' part of `objective.reduction` over the whole optimizer step.
        trained_std: transition std of each trained step of the plan, for weights that compare steps.

    Returns:
        tuple[Tensor, dict[str, Tensor]]: the loss (a scalar; micro-batches add up), and per unit, [B, S], without
            gradient: `ratio_minus_1`, `clip_low`, `clip_high` (bool), `kl`, `weight`, `loss` (before unit_weight).

    Raises:
        ValueError: shapes differ.
    """
    log_ratio = objective.ratio(record)
    if not log_ratio.shape == advantages.shape == unit_weight.shape:
        shapes = ", ".join(str(tuple(part.shape)) for part in (log_ratio, advantages, unit_weight))
        raise ValueError(f"log ratio, advantages and unit_weight must have one shape [B, S], got {shapes}")
    result = objective.surrogate(log_ratio, advantages.to(log_ratio), low=objective.clip_low, high=objective.clip_high)
    surrogate = result if isinstance(result, Surrogate) else _unclipped(result)
    weight = objective.weight(record, trained_std=trained_std).detach()
    kl = objective.kl(record)
    loss = weight * surrogate.loss + (objective.beta * kl if objective.beta else 0.0)
    metrics = {
        "ratio_minus_1": log_ratio.expm1(),
        "clip_low": surrogate.clip_low,
        "clip_high": surrogate.clip_high,
        "kl": kl,
        "weight": weight,
        "loss": loss,
    }
    return (loss * unit_weight.to(loss)).sum(), {name: value.detach() for name, value in metrics.items()}


def _unclipped(loss: Tensor) -> Surrogate:
    never = (loss != loss).logical_and(loss == loss)
    return Surrogate(loss, never, never)


def clip_warning(section: recipe.Objective, largest_gap: float) -> str | None:
    """What to say of a clip range that has not acted yet; what is visible beforehand is `recipe_checks.cautions`.

    Args:
        section: the recipe's objective.
        largest_gap: the largest |ratio - 1| of the off-policy updates so far.

    Returns:
        str | None: one sentence with the ratio that the range belongs to, or None where the range was reached.
    """
    if largest_gap >= min(section.clip_low, section.clip_high):
        return None
    return (
        f"the clip range [1 - {section.clip_low:g}, 1 + {section.clip_high:g}] of the ratio {section.ratio!r} has "
        f"never acted: the largest |ratio - 1| so far is {largest_gap:.2e}"
    )
