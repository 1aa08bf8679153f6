"""An exponential moving average of trained parameters, as plain dictionaries of tensors.

An average owns its memory: on a CPU `tensor.detach().cpu()` is the live weight itself, and an average that aliases it
would restore nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

Average = dict[str, Tensor]


def start(parameters: Mapping[str, Tensor]) -> Average:
    """A first average: float32 copies of the parameters, on their devices."""
    return {name: tensor.detach().to(torch.float32, copy=True) for name, tensor in parameters.items()}


def warmed(decay: float, updates: int) -> float:
    """Decay that lets a young average move: min(decay, (1 + k) / (10 + k)) after k updates.

    Source: the published code of Flow-GRPO (arXiv 2505.05470), with decay 0.9.
    """
    return min(decay, (1 + updates) / (10 + updates))


@torch.no_grad()
def update(average: Average, parameters: Mapping[str, Tensor], decay: float) -> None:
    """average <- decay * average + (1 - decay) * parameters, in place.

    Args:
        average: From `start`.
        parameters: Live weights of the same names.
        decay: In [0, 1]; 0 copies the live weights.
    """
    for name, tensor in average.items():
        tensor.lerp_(parameters[name].to(tensor), 1 - decay)


@contextmanager
def swapped_in(parameters: Mapping[str, Tensor], average: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, the parameters hold the average; afterwards their own values again, to the bit, also after an error."""
    live = start(parameters)
    _copy(parameters, average)
    try:
        yield
    finally:
        _copy(parameters, live)


@torch.no_grad()
def _copy(target: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])
