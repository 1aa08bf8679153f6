"""Noise that belongs to a key, not to a moment: the same whatever the batch size, order, rank or world size."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def keyed_noise(key: tuple[int, ...], shape: Sequence[int]) -> Tensor:
    """Standard normal noise that is a function of its key alone.

    Args:
        key: integers that name the draw, such as (run seed, iteration, group, member, path ..., step).
        shape: shape of the noise, without a batch axis.

    Returns:
        Tensor: float32 on the CPU, of the given shape; move it to the device afterwards.
    """
    seed, turn = seed_and_turn(key)
    noise = torch.randn(tuple(shape), dtype=torch.float32, generator=torch.Generator().manual_seed(seed))
    # torch's CPU generator uses 32 bits of a seed, so among 100,000 draws two would often be equal. Turning the
    # elements by further bits of the key keeps such a pair uncorrelated.
    return noise.roll(turn % max(noise.numel(), 1))


def seed_and_turn(key: tuple[int, ...]) -> tuple[int, int]:
    """Two independent 64-bit numbers from a hash of the key, stable across processes, platforms and versions."""
    digest = hashlib.blake2b(repr(tuple(int(part) for part in key)).encode(), digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


def split_noise(shared: Tensor, own: Tensor, strength: float) -> Tensor:
    """Noise of one sibling at a split: (shared + s own) / sqrt(1 + s^2).

    Each sibling stays standard normal, so marginals are preserved; two siblings correlate by 1 / (1 + s^2).
    Source: BranchGRPO (arXiv 2509.06040).

    Args:
        shared: standard normal noise of the parent.
        own: standard normal noise of the child.
        strength: s > 0.

    Returns:
        Tensor: standard normal noise of the same shape.
    """
    return (shared + strength * own) / (1 + strength * strength) ** 0.5
