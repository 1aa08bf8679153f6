"""Select: which units are trained. Only kept units are forwarded and counted.

A selection is called with arrays of one shape, [B, S] or [E], and ignores what it does not use:

    select(advantages, valid, *, group, step, sample, source, leaves, seed, iteration, **settings) -> keep

`valid` is what the selections before it kept; the settings are those of the recipe's objective.
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
    return _ends(advantages, valid, scopes, step, best_of // 2)


def extreme(
    advantages: Tensor, valid: Tensor, *, group: Tensor, step: Tensor, source: Tensor, extreme_b: int, **_: Any
) -> Tensor:
    """Everything up to the last split, and after it only the b best and the b worst leaves of each prompt.

    Source: BranchGRPO (arXiv 2509.06040), width pruning, Extreme-b.

    Args:
        advantages: per edge; equal along a leaf's own edges, so that ranking edges of a step ranks leaves.
        valid: per edge, bool.
        group: per edge, number of its group.
        step: per edge, number of its sampling step.
        source: per edge, number of the network input that it starts from.
        extreme_b: b >= 1.
        **_: ignored.

    Returns:
        Tensor: bool, shape of valid.
    """
    late = step > last_split(source, step)
    return (valid & ~late) | _ends(advantages, valid & late, group, step, extreme_b)


def parent_top1(advantages: Tensor, valid: Tensor, *, step: Tensor, source: Tensor, leaves: Tensor, **_: Any) -> Tensor:
    """At the last split only the better child of each parent is trained, with all that descends from it.

    Ties go to the first child. Source: BranchGRPO (arXiv 2509.06040), width pruning, Parent-Top1; its code truncates
    every chain instead.

    Args:
        advantages: per edge [E].
        valid: per edge, bool.
        step: per edge, number of its sampling step.
        source: per edge, number of the network input that it starts from.
        leaves: half-open range of the leaves below each edge [E, 2].
        **_: ignored.

    Returns:
        Tensor: bool [E].
    """
    split = last_split(source, step)
    children: dict[int, list[int]] = defaultdict(list)
    for edge in (step == split).nonzero().flatten().tolist():
        children[int(source[edge])].append(edge)
    ranks = list(zip(valid.tolist(), advantages.tolist(), strict=True))
    better = [max(edges, key=lambda edge: (ranks[edge], -edge)) for edges in children.values()]
    taken = valid.new_zeros(int(leaves.max()) + 1)
    for first, last in leaves[better].tolist():
        taken[first:last] = True
    return valid & ((step < split) | taken[leaves[:, 0]])


def depth_window(
    advantages: Tensor,
    valid: Tensor,
    *,
    step: Tensor,
    source: Tensor,
    iteration: int,
    prune_depths: int,
    prune_every: int,
    prune_direction: Literal["later", "earlier"],
    prune_stop: int | None,
    **_: Any,
) -> Tensor:
    """All but the edges of a few neighbouring steps, a window that slides over the run: `pruned_steps`.

    Args:
        advantages: per edge.
        valid: per edge, bool.
        step: per edge, number of its sampling step.
        source: per edge, number of the network input that it starts from.
        iteration: number of the iteration, from 1.
        prune_depths: number of steps left out.
        prune_every: iterations between two moves.
        prune_direction: where the window moves.
        prune_stop: step that it does not pass.
        **_: ignored.

    Returns:
        Tensor: bool, shape of valid.
    """
    pruned = pruned_steps(
        iteration,
        start=last_split(source, step),
        last=int(step.max()),
        size=prune_depths,
        every=prune_every,
        direction=prune_direction,
        stop=prune_stop,
    )
    return valid & ~((step >= pruned.start) & (step < pruned.stop))


def largest_steps(
    advantages: Tensor, valid: Tensor, *, step: Tensor, sample: Tensor, train_steps: int, **_: Any
) -> Tensor:
    """The steps of each sample whose advantage is furthest from 0; ties go to the earlier step.

    Source: MDPO (arXiv 2508.13148), selection of train steps.

    Args:
        advantages: per unit.
        valid: per unit, bool.
        step: per unit, number of its sampling step.
        sample: per unit, number of its sample.
        train_steps: steps per sample, >= 1.
        **_: ignored.

    Returns:
        Tensor: bool, shape of valid.
    """
    members: dict[int, list[tuple[float, int, int]]] = defaultdict(list)
    units = zip(*(part.flatten().tolist() for part in (sample, advantages, step, valid)), strict=True)
    for position, (owner, advantage, number, usable) in enumerate(units):
        if usable:
            members[owner].append((-abs(advantage), number, position))
    kept = {position for held in members.values() for _, _, position in sorted(held)[:train_steps]}
    return valid.new_tensor([position in kept for position in range(valid.numel())]).reshape(valid.shape)


def pruned_steps(
    iteration: int,
    *,
    start: int,
    last: int,
    size: int = 4,
    every: int = 30,
    direction: Literal["later", "earlier"] = "later",
    stop: int | None = None,
) -> range:
    """Steps that `depth_window` leaves out in an iteration.

    Source: BranchGRPO (arXiv 2509.06040), depth pruning: 4 depths from the last split on, one step later every 30
    iterations; its code moves them earlier.

    Args:
        iteration: number of the iteration, from 1.
        start: first step of the first window: the last one at which nodes split.
        last: the last trained step.
        size: number of steps.
        every: iterations between two moves by one step.
        direction: where the window moves.
        stop: step that it does not pass; None is `last`, or step 0 where it moves earlier.

    Returns:
        range: of steps.
    """
    moved = (iteration - 1) // every
    if direction == "later":
        first = start + min(moved, max(0, (last if stop is None else stop) - size + 1 - start))
    else:
        first = start - min(moved, max(0, start - (stop or 0)))
    return range(first, first + size)


def last_split(source: Tensor, step: Tensor) -> int:
    """The last step at which a node has several children; -1 where none has."""
    _, index, counts = source.unique(return_inverse=True, return_counts=True)
    forked = (counts > 1)[index]
    return int(step[forked].max()) if bool(forked.any()) else -1


def _draw(steps: Iterable[int], share: float, key: tuple[int, ...]) -> set[int]:
    ranked = sorted(steps, key=lambda step: hashlib.blake2b(repr((*key, step)).encode(), digest_size=8).digest())
    # A product such as 0.29 * 100 falls just below the integer that it means.
    return set(ranked[: max(1, math.floor(share * len(ranked) + 1e-9))])


def _ends(advantages: Tensor, valid: Tensor, group: Tensor, step: Tensor, count: int) -> Tensor:
    """The `count` highest and as many lowest of each (group, step) among the valid."""
    members: dict[tuple[int, int], list[int]] = defaultdict(list)
    units = zip(group.flatten().tolist(), step.flatten().tolist(), valid.flatten().tolist(), strict=True)
    for position, (owner, number, usable) in enumerate(units):
        if usable:
            members[owner, number].append(position)
    values = advantages.flatten().tolist()
    kept = {p for positions in members.values() for p in _extremes(positions, values, count)}
    return valid.new_tensor([position in kept for position in range(len(values))]).reshape(valid.shape)


def _extremes(positions: list[int], values: list[float], count: int) -> list[int]:
    """Positions (ascending) of the `count` highest and lowest values, the highest first, or all where there are few."""
    if len(positions) <= 2 * count:
        return positions
    best = sorted(positions, key=lambda position: -values[position])[:count]
    rest = sorted(set(positions) - set(best))
    return best + sorted(rest, key=lambda position: values[position])[:count]


SELECTIONS: dict[str, Callable[..., Tensor]] = {
    "all": every,
    "random_steps": random_steps,
    "best_of_n": best_of_n,
    "parent_top1": parent_top1,
    "extreme": extreme,
    "depth_window": depth_window,
    "largest_steps": largest_steps,
}
