"""Select: which units are trained. Only kept units are forwarded and counted.

A selection is called with arrays of one shape, [B, S] or [E], and ignores what it does not use:

    select(advantages, valid, *, group, step, sample, seed, iteration, share, best_of, scope) -> keep
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor


def every(advantages: Tensor, valid: Tensor, **_: Any) -> Tensor:
    """All units of valid samples.

    Args:
        advantages: per unit.
        valid: per unit, bool.
        **_: ignored.

    Returns:
        Tensor: bool, shape of valid.
    """
    return valid


def random_steps(
    advantages: Tensor,
    valid: Tensor,
    *,
    step: Tensor,
    sample: Tensor,
    seed: int,
    iteration: int,
    share: float,
    **_: Any,
) -> Tensor:
    """A random share of each sample's steps, rounded down, at least one.

    Steps are drawn by hashing (seed, iteration, sample, step): the choice depends neither on the order of units nor on
    how they are spread over batches or ranks.

    Source: DanceGRPO (arXiv 2505.07818), timestep selection; its code rounds down, at 0.6 of 15 steps.

    Args:
        advantages: per unit.
        valid: per unit, bool.
        step: per unit, number of its sampling step.
        sample: per unit, number of its sample in the iteration's global batch.
        seed: of the run.
        iteration: number of the iteration.
        share: of the steps, in [0, 1].
        **_: ignored.

    Returns:
        Tensor: bool, shape of valid.
    """
    pairs = list(zip(sample.flatten().tolist(), step.flatten().tolist(), strict=True))
    steps_of: dict[int, set[int]] = defaultdict(set)
    for owner, number in pairs:
        steps_of[owner].add(number)
    chosen = {owner: _draw(steps, share, (seed, iteration, owner)) for owner, steps in steps_of.items()}
    return valid & valid.new_tensor([number in chosen[owner] for owner, number in pairs]).reshape(valid.shape)


def best_of_n(
    advantages: Tensor,
    valid: Tensor,
    *,
    group: Tensor,
    step: Tensor,
    best_of: int,
    scope: Literal["group", "batch"] = "group",
    **_: Any,
) -> Tensor:
    """The best and the worst half of N, at each step: N // 2 units of highest and N // 2 of lowest advantage.

    For chains that is the same choice of samples at every step; in trees it ranks the nodes of one depth. All are kept
    where there are at most N. Ties go to the lowest position, the best half chosen first.

    Source: DanceGRPO (arXiv 2505.07818), best-of-N; its code ranks the whole local batch (scope "batch").

    Args:
        advantages: per unit.
        valid: per unit, bool; invalid units are not ranked.
        group: per unit, number of its group.
        step: per unit, number of its sampling step.
        best_of: N >= 2.
        scope: rank within each group, or over the whole batch.
        **_: ignored.

    Returns:
        Tensor: bool, shape of valid.
    """
    scopes = group if scope == "group" else group * 0
    members: dict[tuple[int, int], list[int]] = defaultdict(list)
    units = zip(scopes.flatten().tolist(), step.flatten().tolist(), valid.flatten().tolist(), strict=True)
    for position, (owner, number, usable) in enumerate(units):
        if usable:
            members[owner, number].append(position)
    values = advantages.flatten().tolist()
    kept = {position for positions in members.values() for position in _extremes(positions, values, best_of)}
    return valid.new_tensor([position in kept for position in range(len(values))]).reshape(valid.shape)


def _draw(steps: Iterable[int], share: float, key: tuple[int, ...]) -> set[int]:
    ranked = sorted(steps, key=lambda step: hashlib.blake2b(repr((*key, step)).encode(), digest_size=8).digest())
    # A product such as 0.29 * 100 falls just below the integer that it means.
    return set(ranked[: max(1, math.floor(share * len(ranked) + 1e-9))])


def _extremes(positions: list[int], values: list[float], count: int) -> list[int]:
    """Positions (ascending) of the count // 2 highest and count // 2 lowest values, or all of at most `count`."""
    if len(positions) <= count:
        return positions
    best = sorted(positions, key=lambda position: -values[position])[: count // 2]
    rest = sorted(set(positions) - set(best))
    return best + sorted(rest, key=lambda position: values[position])[: count // 2]


SELECTIONS: dict[str, Callable[..., Tensor]] = {"all": every, "random_steps": random_steps, "best_of_n": best_of_n}
