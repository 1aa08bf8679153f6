"""A tiny masked language model and its answers, for tests of mask plans and likelihoods."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from flowgrpo.mask_plans import ESTIMATORS
from flowgrpo.views import Completions, MaskPlan, completions, keyed_draw

VOCABULARY, MASK, EOS, PROMPT = 7, 6, 0, 3
KEYS = [(5, 1, sample) for sample in range(4)]
REQUIRED: dict[str, dict[str, Any]] = {"one_step": {"prompt_mask": 0.15}}


class Toy(torch.nn.Module):
    """A random bidirectional model with two mixing layers, float64."""

    def __init__(self, columns: int = 12, width: int = 10, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        sizes = {"token": (VOCABULARY, width), "place": (columns, width), "mix": (columns, columns), "head": (width, 7)}
        for name, size in sizes.items():
            value = torch.randn(size, generator=generator, dtype=torch.float64)
            setattr(self, name, torch.nn.Parameter(value * (0.3 if name == "mix" else 1.0)))

    def hidden(self, ids: Tensor) -> Tensor:
        columns = ids.shape[1]
        first = torch.tanh(self.token[ids] + self.place[:columns])
        return torch.tanh(torch.einsum("pq,bqd->bpd", self.mix[:columns, :columns], first) + first)

    def project(self, rows: Tensor) -> Tensor:
        return rows @ self.head

    def forward(self, ids: Tensor) -> Tensor:
        return self.project(self.hidden(ids))


def rows(batch: int = 4, tokens: int = 6, *, eos_ids: tuple[int, ...] = (EOS,), seed: int = 1) -> Completions:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, MASK, (batch, PROMPT + tokens), generator=generator)
    for row in range(1, batch):
        ids[row, PROMPT + tokens - row :] = EOS
    return completions(ids, prompt_columns=PROMPT, eos_ids=eos_ids)


def plan_of(name: str, given: Completions, **options: Any) -> MaskPlan:
    draw = keyed_draw(KEYS[: len(given.ids)])
    return ESTIMATORS[name](given, draw, mask_id=MASK, **REQUIRED.get(name, {}), **options)


estimators = pytest.mark.parametrize("name", ESTIMATORS)


def one_row(tokens: int = 5) -> Completions:
    return rows(1, tokens)
