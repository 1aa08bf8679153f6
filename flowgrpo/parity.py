"""The start-up checks: does training see the densities that the rollout drew from?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from flowgrpo.errors import RunError
from flowgrpo.recipe import Recipe
from flowgrpo.runfolder import RunFolder

ALLOWED_SHARE = 0.1
"""Of the clip range: what rounding may use up before it is taken for learning."""


def gap_problem(recipe: Recipe, row: Mapping[str, Any]) -> str | None:
    """What is wrong with an iteration's `rollout_gap`, in one sentence, or None.

    The gap is the mean |log ratio| between the policy as training recomputes it and what the rollout drew from, per
    step, in units of the recipe's ratio. Likelihoods that are no density of the rollout's draws have none.
    """
    steps, gaps = row["per_step"]["step"], row["per_step"].get("rollout_gap")
    if not steps or gaps is None:
        return None
    allowed = ALLOWED_SHARE * min(recipe.objective.clip_low, recipe.objective.clip_high)
    gap, step = max(zip(gaps, steps, strict=True))
    if gap <= allowed:
        return None
    return (
        f"training recomputes log ratios that differ from the rollout's by {gap:.1e} at step {step}, more than a tenth "
        f"of the clip range ({allowed:.1e}); use float32, or batches of one size (sampler.batch_size and "
        "train.micro_batch_size) and one guidance in both, or wider clip ranges, or declare train.off_policy true"
    )


def ratio_problem(without_graph: Tensor, with_graph: Tensor) -> str | None:
    """What is wrong if one micro-batch, evaluated with and without a graph, gives two answers; None if it does not.

    Their equality to the bit makes the first ratio of every update exactly 1.
    """
    if torch.equal(without_graph, with_graph.detach()):
        return None
    gap = (without_graph - with_graph.detach()).abs().max().item()
    return (
        f"the same micro-batch gives answers that differ by up to {gap:.1e} with and without a graph, so that first "
        "ratios are not 1; choose an attention implementation that is deterministic and model.compile none, or declare "
        "train.off_policy true"
    )


def refuse(problem: str | None, recipe: Recipe, folder: RunFolder) -> None:
    """Stop a run that is off-policy without saying so; warn where it says so.

    Raises: RunError: there is a problem and `train.off_policy` is false.
    """
    if problem is None:
        return
    if not recipe.train.off_policy:
        raise RunError(problem)
    folder.event("warning", problem)
