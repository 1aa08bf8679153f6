"""Credit of the diffusion-language-model papers: leave-one-out advantages, and advantages of sampling steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowgrpo.advantages import StdScope, group_advantages, grpo

if TYPE_CHECKING:
    from torch import Tensor


def leave_one_out(rewards: Tensor, valid: Tensor, group: Tensor, **options: Any) -> Tensor:
    """(reward - mean of the others in the group) / (std + eps): G / (G - 1) times `grpo`, G valid members.

    Source: RLOO (arXiv 2402.14740); coupled-GRPO (DiffuCoder, arXiv 2506.20639) with std "none".

    Args:
        rewards: [N] float64, 0 where not valid.
        valid: [N] bool.
        group: [N] integers.
        **options: std, ddof and eps of `grpo`.

    Returns:
        Tensor: [N] float64, 0 for a group of one.
    """
    values = grpo(rewards, valid, group, **options)
    index = group.unique(return_inverse=True)[1]
    size = valid.double().new_zeros(len(group)).index_add(0, index, valid.double())[index]
    return values * size / (size - 1).clamp(min=1)


def step_rewards(rewards: Tensor) -> Tensor:
    """What each sampling step is worth: its gain, and how good the steps after it turned out.

        raw_s = r_s - r_(s-1) + 1 + mean over j > s of r_j

    with r_(-1) = 0, and r_s itself for the mean at the last step. The 1 cancels within a group.

    Source: MDPO (arXiv 2508.13148) as its code runs it.

    Args:
        rewards: of the filled-in prediction after each step, in the order of sampling, [N, T].

    Returns:
        Tensor: [N, T] float64.
    """
    rewards = rewards.double()
    gain = rewards.diff(dim=1, prepend=rewards.new_zeros(len(rewards), 1))
    after = rewards.flip(1).cumsum(1).flip(1) - rewards
    remaining = rewards.new_tensor(range(rewards.shape[1] - 1, -1, -1)).clamp(min=1)
    future = after / remaining
    future[:, -1] = rewards[:, -1]
    return gain + 1 + future


def step_advantages(
    rewards: Tensor,
    valid: Tensor,
    group: Tensor,
    *,
    std: StdScope = "group",
    ddof: int = 1,
    eps: float = 1e-4,
) -> Tensor:
    """Advantages of sampling steps, each step compared with the same step of its group's other members.

    Source: MDPO (arXiv 2508.13148) as its code runs it.

    Args:
        rewards: after each step, [N, T]; ignored where not valid.
        valid: [N] bool, all steps of a sample have a reward.
        group: [N] integers.
        std: what deviations are divided by.
        ddof: delta degrees of freedom.
        eps: added to the standard deviation.

    Returns:
        Tensor: [N, T] float64, 0 where not valid.
    """
    values = step_rewards(rewards)
    for step, column in enumerate(values.unbind(1)):
        values[:, step] = group_advantages(column, valid, group, std=std, ddof=ddof, eps=eps)
    return values


def largest_steps(advantages: Tensor, count: int) -> Tensor:
    """The `count` steps of each sample with the largest |advantage|, in descending order; ties go to the earlier step.

    Source: MDPO (arXiv 2508.13148), selection of train steps.

    Args:
        advantages: [N, T].
        count: in 1 ... T.

    Returns:
        Tensor: int64 [N, count].

    Raises:
        ValueError: count is out of range.
    """
    if not 1 <= count <= advantages.shape[1]:
        raise ValueError(f"count must be in 1 ... {advantages.shape[1]} (the number of steps), got {count}")
    return advantages.abs().argsort(dim=1, descending=True, stable=True)[:, :count]
