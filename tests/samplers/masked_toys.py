"""A small network with random weights, and what the tests of the masked sampler share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from samplers import MaskedRollout, masked_canvas, sample_masked

VOCABULARY, MASK, PAD = 12, 11, 0
PROMPTS = [[3, 4, 5, 6], [7], [2, 2, 9], [1, 8, 3, 5, 10]]
KEYS = [(5, row) for row in range(len(PROMPTS))]


class Net:
    """Logits of a token from the tokens around it, by distance; padding is not heard. Counts what it is asked."""

    def __init__(self, seed: int = 0, scale: float = 0.5) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.tokens = torch.randn(VOCABULARY, 16, generator=draw)
        self.side = torch.randn(2, 16, 16, generator=draw)
        self.head = scale * torch.randn(16, VOCABULARY, generator=draw)
        self.canvases = 0
        self.positions: list[int] = []

    def dense(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        self.canvases += len(ids)
        place = torch.arange(ids.shape[1], dtype=torch.float32)
        apart = place.unsqueeze(1) - place
        heard = self.tokens[ids] * attention_mask.unsqueeze(-1)
        left = (apart.clamp(min=0).mul(-0.7).exp() * (apart > 0)) @ heard @ self.side[0]
        right = (apart.clamp(max=0).mul(0.7).exp() * (apart < 0)) @ heard @ self.side[1]
        return (left + right + 0.1 * self.tokens[ids]).tanh() @ self.head

    def __call__(self, ids: Tensor, positions: Tensor, attention_mask: Tensor) -> Tensor:
        self.positions.append(int(positions.sum()))
        return self.dense(ids, attention_mask)[positions]


def decode(net: Any = None, length: int = 8, prompts: list[list[int]] = PROMPTS, **options: Any) -> MaskedRollout:
    """Complete prompts of unequal lengths."""
    ids, attention = masked_canvas(prompts, length, mask_id=MASK, pad_id=PAD)
    options = {"keys": KEYS[: len(prompts)]} | options
    return sample_masked(net or Net(), ids, mask_id=MASK, attention_mask=attention, **options)


def answers(rollout: MaskedRollout) -> list[list[int]]:
    """Generated tokens of each row."""
    return [row[where].tolist() for row, where in zip(rollout.ids, rollout.generated, strict=True)]


def revealed(rollout: MaskedRollout) -> list[list[int]]:
    """Tokens that got their final value in each step, per row."""
    return [
        torch.bincount(step[where], minlength=int(taken)).tolist()
        for step, where, taken in zip(rollout.step, rollout.generated, rollout.steps, strict=True)
    ]
