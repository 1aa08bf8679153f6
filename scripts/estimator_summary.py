"""From means and variances per problem to bias, spread and error per estimator, each with its standard error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

Rows = Sequence[Mapping[str, Any]]
"""One per problem: `elbo`, and `estimates` as `elbo_tables.moments` returns them."""

PAIRS = (
    *(("sdmc_2", other, 2) for other in ("uniform", "uniform_exact", "coupled_elbo")),
    *(("sdmc_3", other, 3) for other in ("uniform", "uniform_exact")),
    *(("sdmc_2_floor", "uniform", 2), ("sdmc_3_floor", "uniform", 3)),
    *(("sdmc_2_bernoulli", "uniform", 2), ("sdmc_3_bernoulli", "uniform", 3)),
    *(("sdmc_2", "uniform_exact", 12), ("sdmc_3", "uniform_exact", 12), ("sdmc_3", "espo", 12)),
    *(("coupled_elbo", "independent_elbo", budget) for budget in (2, 4, 6, 12)),
    *(("coupled", "coupled_independent", budget) for budget in (3, 6, 12)),
    *(("coupled_elbo", "uniform_exact", 2), ("espo", "coupled_elbo", 4), ("espo", "coupled_elbo", 12)),
)
"""(one, other, forwards): what is compared."""


@dataclass(frozen=True, slots=True)
class Summary:
    """One estimator at one budget over P problems, in nats.

    Attributes:
        estimator: its name.
        forwards: its budget.
        bias: mean of estimate minus exact ELBO; `bias_se` from the differences between problems.
        bias_rms: root mean square of the problems' biases, without what the draws' noise adds: biases of both signs
            do not cancel here.
        std: root of the mean variance.
        rmse: root of the mean squared error; `std_se` and `rmse_se` likewise from the problems.
    """

    estimator: str
    forwards: int
    bias: float
    bias_se: float
    bias_rms: float
    std: float
    std_se: float
    rmse: float
    rmse_se: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Ratios of mean variance and of mean squared error, one to other; below 1 the first is better."""

    one: str
    other: str
    forwards: int
    variance: float
    variance_se: float
    error: float
    error_se: float


def summarise(rows: Rows, draws: int) -> list[Summary]:
    """All estimators and budgets that the rows hold, in their order.

    Args:
        rows: at least two problems.
        draws: estimates behind each mean.

    Raises:
        ValueError: fewer than two problems, which have no standard error.
    """
    if len(rows) < 2:
        raise ValueError(f"a standard error needs at least 2 problems, got {len(rows)}")
    cells = [(name, int(budget)) for name, found in rows[0]["estimates"].items() for budget in found]
    return [_summary(rows, name, budget, draws) for name, budget in cells]


def _summary(rows: Rows, name: str, budget: int, draws: int) -> Summary:
    errors, variances = columns(rows, name, budget)
    squares = [error**2 + variance for error, variance in zip(errors, variances, strict=True)]
    proper = [error**2 - variance / (draws - 1) for error, variance in zip(errors, variances, strict=True)]
    std, std_se = _root(variances)
    rmse, rmse_se = _root(squares)
    return Summary(
        estimator=name,
        forwards=budget,
        bias=fmean(errors),
        bias_se=_standard_error(errors),
        bias_rms=math.sqrt(max(0.0, fmean(proper))),
        std=std,
        std_se=std_se,
        rmse=rmse,
        rmse_se=rmse_se,
    )


def columns(rows: Rows, name: str, budget: int) -> tuple[list[float], list[float]]:
    """(mean error, variance) of each problem."""
    pairs = [(*row["estimates"][name][str(budget)], row["elbo"]) for row in rows]
    return [mean - elbo for mean, _, elbo in pairs], [variance for _, variance, _ in pairs]


def compare(rows: Rows, pairs: Sequence[tuple[str, str, int]] = PAIRS) -> list[Comparison]:
    """Each pair on the same problems."""
    return [_comparison(rows, *pair) for pair in pairs]


def _comparison(rows: Rows, one: str, other: str, budget: int) -> Comparison:
    (errors, variances), (errors_2, variances_2) = (columns(rows, name, budget) for name in (one, other))
    squares = [e**2 + v for e, v in zip(errors, variances, strict=True)]
    squares_2 = [e**2 + v for e, v in zip(errors_2, variances_2, strict=True)]
    return Comparison(one, other, budget, *ratio(variances, variances_2), *ratio(squares, squares_2))


def ratio(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Ratio of the means of paired values, and its standard error by the delta method.

    Args:
        first: one per problem.
        second: likewise, with a mean other than 0.
    """
    value = fmean(first) / fmean(second)
    rest = [a - value * b for a, b in zip(first, second, strict=True)]
    return value, _standard_error(rest) / abs(fmean(second))


def verdict(value: float, error: float) -> str:
    """Whether a ratio lies below or above 1 by more than two standard errors."""
    return "less" if value + 2 * error < 1 else "more" if value - 2 * error > 1 else "even"


def _standard_error(values: Sequence[float]) -> float:
    return stdev(values) / math.sqrt(len(values))


def _root(values: Sequence[float]) -> tuple[float, float]:
    """Root of a mean, with its standard error."""
    root = math.sqrt(fmean(values))
    return root, _standard_error(values) / (2 * root) if root else 0.0
