"""Random choices that are pure functions of a key: the same on every rank, in any order, after any restart."""

from __future__ import annotations

import torch
from torch import Tensor

from samplers.noise import keyed_noise


def permutation(key: tuple[int, ...], size: int) -> Tensor:
    """A random order of 0 ... size - 1, int64 [size], drawn by `key`."""
    return keyed_noise(key, (size,)).argsort(stable=True) if size else torch.empty(0, dtype=torch.int64)
