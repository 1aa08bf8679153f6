"""Encoded prompts as they wait in memory: once each, without the zeros behind a short text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Packed:
    """A tensor without its last positions, which are all zero.

    Attributes:
        kept: [1, l, ...], l <= length.
        length: positions of the whole.
    """

    kept: Tensor
    length: int

    def to(self, device: torch.device | str) -> Tensor:
        """What was packed, to the bit, on a device."""
        kept, missing = self.kept.to(device), self.length - self.kept.shape[1]
        if not missing:
            return kept
        return torch.cat([kept, kept.new_zeros(1, missing, *kept.shape[2:])], dim=1)


def pack(row: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Packed]:
    """One prompt's tensors [1, ...] on the CPU: numbers in `dtype`, masks as they are, zeros at their ends left out."""
    return {name: _packed(_stored(tensor, dtype)) for name, tensor in row.items()}


def unpack(row: Mapping[str, Packed]) -> dict[str, Tensor]:
    """What `pack` was given, in the dtype that it stored."""
    return {name: packed.to("cpu") for name, packed in row.items()}


def _packed(tensor: Tensor) -> Packed:
    """Of [1, L, ...]; a negative zero is no zero here, so that nothing changes."""
    values = tensor[0].reshape(tensor.shape[1], -1)
    used = ((values != 0) | values.signbit()).any(1).nonzero()
    last = int(used.max()) + 1 if len(used) else 0
    return Packed(tensor[:, :last].clone(), tensor.shape[1])


def _stored(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to("cpu", dtype if tensor.is_floating_point() else tensor.dtype)
