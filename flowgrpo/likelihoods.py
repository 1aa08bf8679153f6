"""What a recipe's likelihood is: what its units are, which fields it gives, and what it costs. Torch-free."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from flowgrpo.records import GAUSSIAN_FIELDS, SEQUENCE_FIELDS, TOKEN_FIELDS

if TYPE_CHECKING:
    from flowgrpo.recipe import Objective, Recipe

Unit = Literal["edge", "token", "sequence", "view"]
FIELDS: dict[str, frozenset[str]] = {
    "edge": GAUSSIAN_FIELDS,
    "token": TOKEN_FIELDS,
    "sequence": SEQUENCE_FIELDS,
    "view": TOKEN_FIELDS,
}
"""Fields of the record by what a unit is."""


@dataclass(frozen=True, slots=True)
class Likelihood:
    """How a kind of likelihood is described before anything is loaded.

    Attributes:
        kind: `model.kind` that it belongs to.
        per: what its units are.
        views: recipe section -> forward passes of one sample.
        options: recipe section -> keyword arguments of the estimator of that name in `mask_plans.ESTIMATORS`.
    """

    kind: str
    per: Unit
    views: Callable[[Objective], int] = lambda section: 1
    options: Callable[[Objective], dict[str, Any]] = lambda section: {}


@dataclass(frozen=True, slots=True)
class Chosen:
    """The likelihood of one recipe: its units, the fields that they have, and what it is called in messages."""

    per: Unit
    fields: frozenset[str]
    title: str


def _quadrature(section: Objective) -> dict[str, Any]:
    return {"nodes": section.nodes, "masks": section.masks, "prompt_mask": section.prompt_mask}


LIKELIHOODS: dict[str, Likelihood] = {
    "gaussian": Likelihood("flow", "edge"),
    "one_step": Likelihood("masked_lm", "token", options=lambda section: {"prompt_mask": section.prompt_mask}),
    "coupled": Likelihood(
        "masked_lm", "token", lambda section: 3, lambda section: {"low": section.mask_low, "high": section.mask_high}
    ),
    "coupled_elbo": Likelihood("masked_lm", "sequence", lambda section: 2),
    "sdmc": Likelihood("masked_lm", "sequence", lambda section: section.nodes * section.masks, _quadrature),
    "sdmc_floor": Likelihood("masked_lm", "sequence", lambda section: section.nodes * section.masks, _quadrature),
    "espo": Likelihood(
        "masked_lm", "sequence", lambda section: 2 * section.masks, lambda section: {"pairs": section.masks}
    ),
    "uniform": Likelihood(
        "masked_lm",
        "sequence",
        lambda section: section.masks,
        lambda section: {"draws": section.masks, "prompt_mask": section.prompt_mask},
    ),
    "trajectory": Likelihood("masked_lm", "view", lambda section: section.train_steps),
}
"""`objective.likelihood` -> what it is."""
TITLES = {"gaussian": "flow"}
"""What messages call a likelihood, where its name alone would not tell."""


def likelihood_of(recipe: Recipe) -> Chosen:
    """The likelihood that a recipe names, with the units that it asks for."""
    section = recipe.objective
    facts = LIKELIHOODS[section.likelihood]
    per: Unit = facts.per if section.units == "natural" else section.units
    return Chosen(per, FIELDS[per], TITLES.get(section.likelihood, section.likelihood))
