"""Credit: rewards of samples -> advantages of samples, and of the tree edges that lead to them.

Groups are integer arrays [N] of any values in any order. Everything is computed in float64. Invalid samples leave all
statistics and get advantage 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from flowgrpo.importing import resolve
from flowgrpo.segments import deviations, extremum, first_of, is_flat, numbered, stds, sums

if TYPE_CHECKING:
    from torch import Tensor

StdScope = Literal["group", "global", "none"]


def group_advantages(
    rewards: Tensor,
    valid: Tensor,
    group: Tensor,
    *,
    kind: str | Callable[..., Tensor] = "grpo",
    std: StdScope = "group",
    ddof: int = 0,
    eps: float = 1e-4,
    min_std: float = 0.0,
    clamp: float | None = None,
) -> Tensor:
    """Advantages of N samples within their groups.

    Args:
        rewards: [N]; ignored (NaN included) where not valid.
        valid: [N] bool, False for samples that could not be scored.
        group: [N] integers, equal for samples that are compared with each other.
        kind: key of `ADVANTAGES`, or a function (rewards, valid, group, *, std, ddof, eps) -> [N].
        std: "group", "global" (over all valid samples) or "none" (deviations are not divided).
        ddof: 0 for the population, 1 for the sample standard deviation.
        eps: added to the standard deviation.
        min_std: a group whose standard deviation (of `ddof`) is below this gets 0.
        clamp: bound of the absolute advantage.

    Returns:
        Tensor: [N] float64, 0 where not valid.

    Raises:
        ValueError: lengths differ, or a valid reward is not finite.
        RecipeError: unknown kind.
    """
    _check(rewards, valid, group)
    function = kind if callable(kind) else resolve(kind, ADVANTAGES, "objective.advantage")
    rewards = rewards.double().masked_fill(~valid, 0.0)
    values = function(rewards, valid, group, std=std, ddof=ddof, eps=eps)
    flat = ~valid | is_flat(rewards, valid, group, ddof, min_std)
    return clamped(values.double().masked_fill(flat, 0.0), clamp)


def clamped(advantages: Tensor, bound: float | None) -> Tensor:
    """Advantages within [-bound, bound]; None leaves them as they are."""
    return advantages if bound is None else advantages.clamp(-bound, bound)


def grpo(
    rewards: Tensor, valid: Tensor, group: Tensor, *, std: StdScope = "group", ddof: int = 0, eps: float = 1e-4
) -> Tensor:
    """(reward - group mean) / (std + eps).

    Source: GRPO (arXiv 2402.03300); Flow-GRPO uses the global or group population std + 1e-4, DanceGRPO the group's
    sample std + 1e-8. A group of equal rewards gets exactly 0, whatever eps.

    Args:
        rewards: [N] float64, 0 where not valid.
        valid: [N] bool.
        group: [N] integers.
        std: what deviations are divided by.
        ddof: delta degrees of freedom.
        eps: added to the standard deviation.

    Returns:
        Tensor: [N] float64.
    """
    index, _ = numbered(group)
    deviation = deviations(rewards, valid, index)
    if std == "none":
        return deviation
    if std == "group":
        spread = stds(deviation, valid, index, ddof)[index]
    else:
        everyone = index * 0
        spread = stds(deviations(rewards, valid, everyone), valid, everyone, ddof)[everyone]
    return (deviation / (spread + eps)).masked_fill(deviation == 0, 0.0)


def rwr(rewards: Tensor, valid: Tensor, group: Tensor, **_: Any) -> Tensor:
    """Reward-weighted regression: the rewards themselves.

    Args:
        rewards: [N].
        valid: [N] bool.
        group: [N] integers.
        **_: ignored.

    Returns:
        Tensor: [N].
    """
    return rewards


def sft(rewards: Tensor, valid: Tensor, group: Tensor, **_: Any) -> Tensor:
    """Supervised fine-tuning on the best: 1 for every sample that reaches its group's maximum, else 0.

    Args:
        rewards: [N] float64.
        valid: [N] bool.
        group: [N] integers.
        **_: ignored.

    Returns:
        Tensor: [N] float64.
    """
    index, groups = numbered(group)
    return (valid & (rewards == extremum(rewards, valid, index, groups, "amax")[index])).double()


def dpo(rewards: Tensor, valid: Tensor, group: Tensor, **_: Any) -> Tensor:
    """One pair per group: +1 for its first maximum, -1 for its first minimum, else 0.

    In a group of equal rewards the second valid member gets +1 and the first -1, as the Flow-GRPO code does; a group of
    one valid member has no pair.

    Args:
        rewards: [N] float64.
        valid: [N] bool.
        group: [N] integers.
        **_: ignored.

    Returns:
        Tensor: [N] float64.
    """
    index, groups = numbered(group)
    high = extremum(rewards, valid, index, groups, "amax")
    low = extremum(rewards, valid, index, groups, "amin")
    worst = first_of(valid & (rewards == low[index]), index, groups)
    after_worst = valid & (rewards == high[index]) & ~worst
    best = first_of(after_worst, index, groups)
    paired = sums(best.double(), index, groups)[index]
    return best.double() - worst.double() * paired


ADVANTAGES: dict[str, Callable[..., Tensor]] = {"grpo": grpo, "rwr": rwr, "sft": sft, "dpo": dpo}


def normalise_then_weigh(
    rewards: Mapping[str, Tensor], weights: Mapping[str, float], advantage: Callable[[Tensor], Tensor], **_: Any
) -> Tensor:
    """Sum of weight * advantage of each reward: a reward's scale does not matter (DanceGRPO, arXiv 2505.07818).

    Args:
        rewards: scorer -> [N], those of non-zero weight.
        weights: scorer -> weight.
        advantage: rewards [N] -> advantages [N].
        **_: ignored.

    Returns:
        Tensor: [N].
    """
    return sum(weights[name] * advantage(values) for name, values in rewards.items())  # type: ignore[return-value]


def weigh_then_normalise(
    rewards: Mapping[str, Tensor], weights: Mapping[str, float], advantage: Callable[[Tensor], Tensor], **_: Any
) -> Tensor:
    """Advantage of the weighted sum of raw rewards: the reward of the largest scale leads (Flow-GRPO's code).

    Args:
        rewards: scorer -> [N], those of non-zero weight.
        weights: scorer -> weight.
        advantage: rewards [N] -> advantages [N].
        **_: ignored.

    Returns:
        Tensor: [N].
    """
    return advantage(sum(weights[name] * values.double() for name, values in rewards.items()))  # type: ignore[arg-type]


def decoupled(
    rewards: Mapping[str, Tensor],
    weights: Mapping[str, float],
    advantage: Callable[[Tensor], Tensor],
    *,
    valid: Tensor,
) -> Tensor:
    """`normalise_then_weigh`, then a z-score over all valid samples (sample std + 1e-8).

    However many rewards there are, the sum has the scale of one. Source: multi-reward decoupled normalisation (arXiv
    2601.05242), as Pref-GRPO's shared recipe has it.

    Args:
        rewards: scorer -> [N], those of non-zero weight.
        weights: scorer -> weight.
        advantage: rewards [N] -> advantages [N].
        valid: [N] bool.

    Returns:
        Tensor: [N] float64, 0 where not valid.
    """
    total = normalise_then_weigh(rewards, weights, advantage)
    return group_advantages(total, valid, valid.long() * 0, ddof=1, eps=1e-8)


COMBINATIONS: dict[str, Callable[..., Tensor]] = {
    "normalise_then_weigh": normalise_then_weigh,
    "weigh_then_normalise": weigh_then_normalise,
    "decoupled": decoupled,
}


def combined_advantages(
    rewards: Mapping[str, Tensor],
    valid: Tensor,
    group: Tensor,
    *,
    weights: Mapping[str, float],
    combine: str = "normalise_then_weigh",
    clamp: float | None = None,
    **options: Any,
) -> Tensor:
    """Advantages of N samples that several scorers have judged.

    Args:
        rewards: scorer -> [N].
        valid: [N] bool, True where every scorer of non-zero weight gave a number.
        group: [N] integers.
        weights: scorer -> weight; 0 only monitors.
        combine: key of `COMBINATIONS`.
        clamp: bound of the absolute value of the combined advantage.
        **options: kind, std, ddof and eps of `group_advantages`.

    Returns:
        Tensor: [N] float64, 0 where not valid.

    Raises:
        ValueError: no scorer has a weight other than 0.
    """
    trained = {name: rewards[name] for name, weight in weights.items() if weight != 0}
    if not trained:
        raise ValueError(f"no reward has a weight other than 0 among {', '.join(weights) or 'none'}: nothing to train")
    function = resolve(combine, COMBINATIONS, "reward.combine")

    def advantage(values: Tensor) -> Tensor:
        return group_advantages(values, valid, group, **options)

    return clamped(function(trained, weights, advantage, valid=valid), clamp)


def group_statistics(rewards: Tensor, valid: Tensor, group: Tensor) -> dict[str, float]:
    """How much the groups can teach.

    Args:
        rewards: [N].
        valid: [N] bool.
        group: [N] integers.

    Returns:
        dict[str, float]: over the groups that have a valid sample: `group_std` (mean of their population stds),
            `zero_std_groups` (share of them whose rewards are all equal), `groups`, `group_size` (mean).
    """
    _check(rewards, valid, group)
    index, groups = numbered(group)
    spread = stds(deviations(rewards.double().masked_fill(~valid, 0.0), valid, index), valid, index, ddof=0)
    sizes = sums(valid.double(), index, groups)
    spread, sizes = spread[sizes > 0], sizes[sizes > 0]
    if not len(sizes):
        return {"group_std": 0.0, "zero_std_groups": 1.0, "groups": 0.0, "group_size": 0.0}
    return {
        "group_std": spread.mean().item(),
        "zero_std_groups": (spread == 0).double().mean().item(),
        "groups": float(len(sizes)),
        "group_size": sizes.mean().item(),
    }


def to_edges(
    values: Tensor,
    valid: Tensor,
    leaf_of: Tensor,
    edge_of: Tensor,
    *,
    edges: int,
    logits: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Fuse values upwards: an edge gets the mean over the valid samples that descend from it.

    For chains, where one sample descends from each edge, this copies. Source: BranchGRPO (arXiv 2509.06040), eq. 3:
    uniform fusion, or with logits beta S of the paths its path softmax.

    Args:
        values: rewards or advantages of samples, [N].
        valid: [N] bool.
        leaf_of: sample of each (sample, edge) pair, int64 [P], in any order.
        edge_of: edge of each pair, int64 [P].
        edges: number of edges E.
        logits: of each pair, [P]; samples below an edge are weighed by their softmax.

    Returns:
        tuple[Tensor, Tensor]: fused values [E], 0 where no valid sample descends; and where one does, [E] bool.
    """
    heard = valid[leaf_of]
    logits = values.new_zeros(len(leaf_of)) if logits is None else logits.to(values.dtype)
    highest = extremum(logits, heard, edge_of, edges, "amax")
    weights = (logits - highest[edge_of]).exp().masked_fill(~heard, 0.0)
    totals = sums(weights, edge_of, edges)
    fused = sums(values.masked_fill(~valid, 0.0)[leaf_of] * weights, edge_of, edges)
    return fused / totals.masked_fill(totals == 0, 1.0), totals > 0


def path_sums(log_probs: Tensor, leaf_of: Tensor, edge_of: Tensor, step: Tensor) -> Tensor:
    """Log-probability of the way from the end of each pair's edge down to its sample.

    Args:
        log_probs: of each edge [E].
        leaf_of: sample of each (sample, edge) pair, int64 [P].
        edge_of: edge of each pair, int64 [P].
        step: sampling step of each edge, int64 [E].

    Returns:
        Tensor: [P], 0 for the last edge of a sample.
    """
    later_first = (leaf_of * (int(step.max()) + 1) - step[edge_of]).argsort()
    values, leaves = log_probs[edge_of][later_first], leaf_of[later_first]
    running = values.cumsum(0) - values
    starts = leaves.diff(prepend=leaves[:1] - 1) != 0
    below = running - running[starts][starts.cumsum(0) - 1]
    return below.new_zeros(len(below)).index_copy(0, later_first, below)


def tree_advantages(
    rewards: Tensor,
    valid: Tensor,
    leaf_of: Tensor,
    edge_of: Tensor,
    *,
    step: Tensor,
    peers: Tensor,
    logits: Tensor | None = None,
    ddof: int = 1,
    eps: float = 1e-8,
    min_std: float = 1e-6,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """Advantages of tree edges: rewards of leaves are fused upwards and compared among the edges of one step.

    Source: BranchGRPO (arXiv 2509.06040), depth-wise normalisation (the defaults are its code's). With `peers` = the
    sample's initial noise and one leaf per edge it is TempFlow-GRPO's seed group per step.

    Args:
        rewards: of samples [N].
        valid: [N] bool.
        leaf_of: sample of each (sample, edge) pair, int64 [P].
        edge_of: edge of each pair, int64 [P].
        step: sampling step of each edge, int64 [E].
        peers: [N] integers, equal for samples that are compared: their prompt, their tree or their initial noise.
        logits: of each pair [P]; None fuses uniformly.
        ddof: delta degrees of freedom of the standard deviation.
        eps: added to it.
        min_std: edges whose standard deviation is below get 0.
        **options: kind, std and clamp of `group_advantages`.

    Returns:
        tuple[Tensor, Tensor]: advantages [E] float64, and where a valid sample descends, [E] bool.
    """
    fused, heard = to_edges(rewards.double(), valid, leaf_of, edge_of, edges=len(step), logits=logits)
    group = step_peers(peers, leaf_of, edge_of, step)
    return group_advantages(fused, heard, group, ddof=ddof, eps=eps, min_std=min_std, **options), heard


def step_peers(peers: Tensor, leaf_of: Tensor, edge_of: Tensor, step: Tensor) -> Tensor:
    """Group of each edge [E]: equal for edges of one step whose samples are peers."""
    owner = step.new_zeros(len(step)).index_copy(0, edge_of, peers[leaf_of])
    return owner * (int(step.max()) + 1) + step


def _check(rewards: Tensor, valid: Tensor, group: Tensor) -> None:
    if not rewards.shape == valid.shape == group.shape or rewards.ndim != 1:
        shapes = ", ".join(str(tuple(part.shape)) for part in (rewards, valid, group))
        raise ValueError(f"rewards, valid and group must be [N] of one length, got {shapes}")
    bad = (valid & ~rewards.isfinite()).nonzero().flatten().tolist()
    if bad:
        raise ValueError(f"rewards of valid samples must be finite; {bad[:5]} are not: mark them invalid")
