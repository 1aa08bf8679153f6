"""Credit of the diffusion-language-model papers: leave-one-out advantages, and what sampling steps are worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowgrpo.advantages import grpo

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
