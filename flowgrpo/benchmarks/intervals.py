"""How sure the numbers of a benchmark are: prompts drawn again with replacement.

Pictures of one prompt, and test points of one picture, are not independent; whole prompts are drawn, so that their
dependence is kept. Two models are compared on the same draws: a prompt that is hard for both does not blur the
difference (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 8 and 13).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from flowgrpo.benchmarks.tally import OVERALL, Cell, Tally

DRAWS = 2000
SEED = 0
INNER = (2.5, 97.5)
"""Percentiles of a two-sided 95 % interval."""

Interval = tuple[float, float]


def intervals(counts: Tally) -> dict[Cell, Interval]:
    """95 % interval of every accuracy in [0, 1] and of the overall score; cells without a judged point are left out."""
    return _percentiles(_draws(counts, _tasks(counts)))


def paired_differences(ours: Tally, theirs: Tally) -> dict[Cell, Interval]:
    """95 % interval of (theirs - ours) for every cell that both have, over the tasks that both have."""
    tasks = [task for task in _tasks(ours) if task in set(_tasks(theirs))]
    if not tasks:
        return {}
    first, second = _draws(ours, tasks), _draws(theirs, tasks)
    return _percentiles({cell: second[cell] - first[cell] for cell in first if cell in second})


def _tasks(counts: Tally) -> list[int]:
    return sorted({task for held in counts.cells.values() for task in held})


def _draws(counts: Tally, tasks: list[int]) -> dict[Cell, np.ndarray]:
    """Cell -> accuracy in each draw [DRAWS], NaN where a draw has no judged point of the cell."""
    size = len(tasks)
    if not size:
        return {}
    weights = np.random.default_rng(SEED).multinomial(size, np.full(size, 1 / size), DRAWS).astype(float)
    cells = list(counts.cells)
    correct, total = (np.zeros((size, len(cells))) for _ in range(2))
    row_of = {task: row for row, task in enumerate(tasks)}
    for column, cell in enumerate(cells):
        for task, count in counts.cells[cell].items():
            if task in row_of:
                correct[row_of[task], column], total[row_of[task], column] = count.correct, count.total
    with np.errstate(invalid="ignore"):
        shares = (weights @ correct) / (weights @ total)
    found = {cell: shares[:, column] for column, cell in enumerate(cells)}
    found[OVERALL] = _mean_of_known(shares[:, [cell[0] == "dimension" for cell in cells]])
    return found


def _mean_of_known(shares: np.ndarray) -> np.ndarray:
    """Mean over columns, those that are NaN left out; NaN where all are."""
    known = np.isfinite(shares)
    with np.errstate(invalid="ignore"):
        return np.where(known, shares, 0.0).sum(1) / known.sum(1)


def _percentiles(draws: Mapping[Cell, np.ndarray]) -> dict[Cell, Interval]:
    found = {}
    for cell, values in draws.items():
        known = values[np.isfinite(values)]
        if len(known):
            low, high = np.percentile(known, INNER)
            found[cell] = (float(low), float(high))
    return found
