"""Where an answer ends, and what stands behind its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Ends:
    """End tokens, which belong to the answer, and padding tokens, which do not."""

    eos_ids: tuple[int, ...]
    pad_ids: tuple[int, ...]

    @property
    def tokens(self) -> tuple[int, ...]:
        """All tokens that end an answer."""
        return (*self.eos_ids, *self.pad_ids)


def has_ended(ends: Ends, ids: Tensor, generated: Tensor, masks: Tensor) -> Tensor:
    """Rows in which some generated token ends the answer and no mask stands before it.

    Args:
        ends: end and padding tokens.
        ids: int64 [n, L].
        generated: where an end counts, bool [n, L]; end tokens of the prompt do not.
        masks: what is still masked, bool [n, L].

    Returns:
        Tensor: bool [n].
    """
    return _first(generated & is_one_of(ids, ends.tokens)) < _first(masks)


def padding(ends: Ends, ids: Tensor, generated: Tensor) -> Tensor:
    """What fills the columns behind each row's end: ``pad_ids`` in a cycle, or the first end token [n, L]."""
    end = _first(generated & is_one_of(ids, ends.tokens))
    fill = torch.tensor(ends.pad_ids or ends.eos_ids[:1], dtype=ids.dtype, device=ids.device)
    return fill[(_columns(ids) - end.unsqueeze(1) - 1) % len(fill)]


def answer_lengths(ends: Ends, ids: Tensor, generated: Tensor) -> Tensor:
    """Generated tokens up to the first end token, which counts, or the first padding token, which does not [n]."""
    end = _first(generated & is_one_of(ids, ends.eos_ids)) + 1
    pad = _first(generated & is_one_of(ids, sorted({*ends.pad_ids} - {*ends.eos_ids})))
    return (generated & (_columns(ids) < torch.minimum(end, pad).unsqueeze(1))).sum(-1)


def is_one_of(ids: Tensor, wanted: Sequence[int]) -> Tensor:
    """Bool of the ids' shape."""
    return torch.isin(ids, torch.tensor(wanted, dtype=ids.dtype, device=ids.device))


def _first(found: Tensor) -> Tensor:
    """Column of the first True of each row, L where there is none [n]."""
    return torch.where(found, _columns(found), found.shape[1]).amin(-1)


def _columns(canvas: Tensor) -> Tensor:
    return torch.arange(canvas.shape[1], device=canvas.device)
