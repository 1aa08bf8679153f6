"""The start-up checks: does training see the densities that the rollout drew from?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowgrpo.errors import RunError
from flowgrpo.recipe import Recipe
from flowgrpo.runfolder import RunFolder

ALLOWED_SHARE = 0.1
"""Of the clip range: what rounding may use up before it is taken for learning."""


def gap_problem(recipe: Recipe, row: Mapping[str, Any]) -> str | None:
    """What is wrong with an iteration's `rollout_gap`, in one sentence, or None.

    The gap is the mean |log ratio| between the policy as training recomputes it and the rollout's own velocities,
    per step, in units of the recipe's ratio.
    """
    steps = row["per_step"]["step"]
    if not steps:
        return None
    allowed = ALLOWED_SHARE * min(recipe.objective.clip_low, recipe.objective.clip_high)
    gap, step = max(zip(row["per_step"]["rollout_gap"], steps, strict=True))
    if gap <= allowed:
        return None
    return (
        f"training recomputes log ratios that differ from the rollout's by {gap:.1e} at step {step}, more than a tenth "
        f"of the clip range ({allowed:.1e}); use one dtype and one guidance in rollout and training, or widen "
        "objective.clip_low and clip_high, or declare train.off_policy true"
    )


def refuse_gap(recipe: Recipe, row: Mapping[str, Any], folder: RunFolder) -> None:
    """Stop a run whose first iteration is off-policy without saying so; warn where it says so.

    Raises: RunError: the gap is too large and `train.off_policy` is false.
    """
    problem = gap_problem(recipe, row)
    if problem is None:
        return
    if not recipe.train.off_policy:
        raise RunError(problem)
    folder.event("warning", problem)
