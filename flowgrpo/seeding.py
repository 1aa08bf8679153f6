"""Random choices that are pure functions of a key: the same on every rank, in any order, after any restart."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from samplers.noise import keyed_noise

SAMPLING = 2
"""First number of every key here: keeps these draws apart from a run's rollouts of the same seed."""


def prompt_key(seed: int, text: str, image: int) -> tuple[int, ...]:
    """Noise key of the `image`-th sample of a prompt; the same in any file, subset or order of prompts."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return (SAMPLING, seed, int.from_bytes(digest, "little"), image)


def permutation(key: tuple[int, ...], size: int) -> Tensor:
    """A random order of 0 ... size - 1, int64 [size], drawn by `key`."""
    return keyed_noise(key, (size,)).argsort(stable=True) if size else torch.empty(0, dtype=torch.int64)


def dealt(items: Tensor, parts: int, key: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Items [n] in an order drawn by `key`, split into so many parts of nearly equal size."""
    return items[permutation(key, len(items))].tensor_split(parts)
