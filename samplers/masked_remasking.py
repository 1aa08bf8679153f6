"""Which masks a step writes, and which decided tokens it takes back.

A remasking is ``remasking(step) -> Outcome``. Confidences are ranked within each row; ties go to the lowest column.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from samplers.plans import unknown_name


@dataclass(frozen=True, slots=True)
class UnmaskingStep:
    """One step of n rows of L columns.

    Attributes:
        scope: masks that may be written now [n, L].
        confidence: of this step's guesses, meaningful in ``scope`` [n, L].
        memory: confidence of the newest guess that was written to each position, +inf where none was [n, L].
        start: first column of each row's block [n].
        count: number of masks to reveal in each row [n].
        left: number of masks that the schedule leaves in each row's block [n].
    """

    scope: Tensor
    confidence: Tensor
    memory: Tensor
    start: Tensor
    count: Tensor
    left: Tensor


@dataclass(frozen=True, slots=True)
class Outcome:
    """Positions that take their guess, positions that become masks again (bool [n, L] each), and the new memory."""

    write: Tensor
    remask: Tensor
    memory: Tensor


Remasking = Callable[[UnmaskingStep], Outcome]


def none(step: UnmaskingStep) -> Outcome:
    """Write the most confident masks; what is written stays."""
    write = step.scope & (descending_rank(step.confidence, step.scope) < step.count.unsqueeze(1))
    return Outcome(write, torch.zeros_like(write), torch.where(write, step.confidence, step.memory))


def running_confidence(
    step: UnmaskingStep, *, scope: Literal["row", "block"] = "row", memory: Literal["last", "max"] = "last"
) -> Outcome:
    """Write every mask in scope, then take back the positions with the lowest remembered confidence.

    As many are taken back as the schedule leaves masked, so an early token that later ones outshine is revised.
    Given tokens are never taken back. Source: running confidence remasking, MDPO (arXiv 2508.13148). Its code keeps the
    confidence of the last guess and looks at the whole row, its text speaks of the maximum.

    Args:
        step: the step; ``count`` is not used.
        scope: ``"row"`` may take back tokens of earlier blocks, ``"block"`` of the current one only.
        memory: remember each position's ``"last"`` confidence, or its ``"max"``.

    Returns:
        Outcome: with the memory after writing; taking back does not erase it.
    """
    fresh = step.confidence
    if memory == "max":
        fresh = torch.where(step.memory.isinf(), fresh, torch.maximum(fresh, step.memory))
    kept = torch.where(step.scope, fresh, step.memory)
    eligible = ~kept.isinf()
    if scope == "block":
        columns = torch.arange(kept.shape[1], device=kept.device)
        eligible &= columns >= step.start.unsqueeze(1)
    remask = eligible & (descending_rank(-kept, eligible) < step.left.unsqueeze(1))
    return Outcome(step.scope, remask, kept)


REMASKINGS: dict[str, Remasking] = {
    "none": none,
    "rcr": running_confidence,
    "rcr_max": partial(running_confidence, memory="max"),
    "rcr_block": partial(running_confidence, scope="block"),
    "rcr_block_max": partial(running_confidence, scope="block", memory="max"),
}


def resolve_remasking(remasking: str | Remasking) -> Remasking:
    """A remasking by name, or itself; ValueError with the nearest match for an unknown name."""
    if callable(remasking):
        return remasking
    if remasking not in REMASKINGS:
        raise ValueError(unknown_name("remasking", remasking, REMASKINGS))
    return REMASKINGS[remasking]


def descending_rank(values: Tensor, among: Tensor) -> Tensor:
    """Place of each position of a row when sorted by falling value; those not in ``among`` come last.

    Args:
        values: [n, L].
        among: bool [n, L].

    Returns:
        Tensor: int64 [n, L], 0 is the greatest; equal values rank by column.
    """
    order = values.masked_fill(~among, -math.inf).argsort(dim=-1, descending=True, stable=True)
    return order.argsort(dim=-1)


def reveal_count(
    confidence: Tensor, entropy: Tensor, scope: Tensor, quota: Tensor, threshold: float | None, bound: float | None
) -> Tensor:
    """How many of the most confident masks to reveal: the quota, or more where the model is sure.

    Args:
        confidence: [n, L].
        entropy: in nats [n, L].
        scope: masks that may be revealed, bool [n, L].
        quota: least number of each row [n].
        threshold: also reveal every mask of at least this confidence (Fast-dLLM, arXiv 2505.22618).
        bound: also reveal the longest prefix, by falling confidence, whose entropies add up to at most ``bound`` more
            than their greatest (EB-Sampler, arXiv 2505.24857): an upper bound of what parallel drawing loses.

    Returns:
        Tensor: int64 [n], at most the masks in scope.
    """
    count = quota
    if threshold is not None:
        count = torch.maximum(count, (scope & (confidence >= threshold)).sum(-1))
    if bound is not None:
        order = confidence.masked_fill(~scope, -math.inf).argsort(dim=-1, descending=True, stable=True)
        ranked = entropy.masked_fill(~scope, math.inf).gather(-1, order)
        # Sum minus maximum never falls along a prefix, so counting positions finds its end.
        excess = ranked.cumsum(-1) - ranked.cummax(-1).values
        count = torch.maximum(count, (excess <= bound).sum(-1))
    return torch.minimum(count, scope.sum(-1))
