"""Views: one forward pass of a masked-diffusion model each, and plans made of them.

A *view* is a canvas with masked positions, the tokens that belong there, which of them are scored and the weight of
each. Masks are drawn once, by keys, and stored with the rollout: old, new and reference policy answer the same
questions, so that the noise of the masks cancels in their difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from torch import Tensor

from samplers.noise import keyed_noise

Draw = Callable[[int, Tensor], Tensor]
"""(turn, where bool [B, n]) -> uniform float64 [B, n] in (0, 1) where `where`, 1 elsewhere; a turn is drawn once."""


@dataclass(frozen=True, slots=True)
class Completions:
    """Prompts with what a model wrote after them; all fields are [B, T].

    Attributes:
        ids: token ids, int64; no mask token where scored.
        completion: positions that the model filled, bool.
        scored: those of them whose likelihood counts, bool, at least one per row; usually up to the first end token.
        prompt: prompt tokens that prompt masking may hide, bool; without padding.
        hidden: positions that every view masks and none scores, bool.
    """

    ids: Tensor
    completion: Tensor
    scored: Tensor
    prompt: Tensor
    hidden: Tensor

    def __post_init__(self) -> None:
        shapes = {tuple(getattr(self, field.name).shape) for field in fields(self)}
        if len(shapes) != 1 or self.ids.ndim != 2:
            raise ValueError(f"all fields of Completions must have one shape [B, T], got {sorted(shapes)}")
        if bool((self.scored & ~self.completion).any()):
            raise ValueError("a scored position must belong to the completion")
        if bool((self.completion & self.prompt).any()):
            raise ValueError("a position cannot belong to both prompt and completion")
        if bool((self.hidden & (self.scored | ~self.completion)).any()):
            raise ValueError("a position that is always hidden must belong to the completion and not be scored")
        empty = (~self.scored.any(1)).nonzero().flatten().tolist()
        if empty:
            raise ValueError(f"row {empty[0]} has no scored position: each completion needs at least one token")

    @property
    def length(self) -> Tensor:
        """|y|, the number of scored tokens, int64 [B]."""
        return self.scored.sum(1)


def completions(
    ids: Tensor,
    *,
    prompt_columns: int,
    eos_ids: Sequence[int],
    attention_mask: Tensor | None = None,
    tail: Literal["clean", "masked"] = "clean",
) -> Completions:
    """Rows whose prompts are padded on the left, so that all completions begin in one column.

    Args:
        ids: prompt and completion, int64 [B, T].
        prompt_columns: columns before the completion, P < T.
        eos_ids: token ids that end an answer; tokens are scored up to and including the first. Empty: all are scored.
        attention_mask: [B, P] or [B, T], zero where the prompt is padding; such positions are never masked.
        tail: what views show after the first end token: the tokens ("clean") or masks ("masked"). Choose once: the
            two are different likelihoods.

    Returns:
        Completions: with |y| up to and including the first end token.

    Raises:
        ValueError: prompt_columns leaves no completion, or tail is unknown.
    """
    if not 0 <= prompt_columns < ids.shape[1]:
        raise ValueError(
            f"prompt_columns must be in [0, {ids.shape[1]}) for {ids.shape[1]} columns, got {prompt_columns}"
        )
    if tail not in ("clean", "masked"):
        raise ValueError(f"tail must be 'clean' or 'masked', got {tail!r}")
    completion = (torch.arange(ids.shape[1], device=ids.device) >= prompt_columns).expand_as(ids)
    scored = until_end(ids, completion, eos_ids)
    prompt = ~completion
    if attention_mask is not None:
        real = torch.nn.functional.pad(attention_mask[:, :prompt_columns].bool(), (0, ids.shape[1] - prompt_columns))
        prompt = prompt & real
    hidden = completion & ~scored if tail == "masked" else torch.zeros_like(completion)
    return Completions(ids, completion, scored, prompt, hidden)


def until_end(ids: Tensor, completion: Tensor, eos_ids: Sequence[int]) -> Tensor:
    """Positions of the completion up to and including the first of `eos_ids`, bool [B, T]."""
    ends = completion & torch.isin(ids, torch.tensor(list(eos_ids), dtype=ids.dtype, device=ids.device))
    return completion & (ends.cumsum(1) - ends.long() == 0)


@dataclass(frozen=True, slots=True)
class View:
    """One forward pass of B rows; all fields are [B, T].

    Attributes:
        inputs: what the model sees, int64.
        targets: the tokens whose log-probability is read, int64.
        scored: where it is read, bool.
        weights: factor of each log-probability, float64, 0 where not scored.
    """

    inputs: Tensor
    targets: Tensor
    scored: Tensor
    weights: Tensor


@dataclass(frozen=True, slots=True)
class MaskPlan:
    """Views of the same B rows; the estimate of a token is the sum of its weighted log-probabilities over the views.

    Attributes:
        views: in the order of their forward passes.
        length: |y| of each row, int64 [B].
        start: first column that holds a completion: token units are the columns from here.
    """

    views: tuple[View, ...]
    length: Tensor
    start: int

    def __post_init__(self) -> None:
        if not self.views:
            raise ValueError("a mask plan needs at least one view")

    def rows(self, index: Tensor | slice) -> MaskPlan:
        """The plan of some of its rows, such as a micro-batch: the same masks."""
        views = tuple(_each(view, lambda part: part[index]) for view in self.views)
        return replace(self, views=views, length=self.length[index])

    def to(self, device: torch.device | str) -> MaskPlan:
        """The same plan on another device."""
        views = tuple(_each(view, lambda part: part.to(device)) for view in self.views)
        return replace(self, views=views, length=self.length.to(device))


def _each(view: View, function: Callable[[Tensor], Tensor]) -> View:
    return View(*(function(getattr(view, field.name)) for field in fields(view)))


def keyed_draw(keys: Sequence[tuple[int, ...]]) -> Draw:
    """Noise that belongs to keys such as (run seed, iteration, sample), one per row.

    A row's masks depend neither on the other rows of its batch nor on how far its prompt is padded.
    """

    def draw(turn: int, where: Tensor) -> Tensor:
        if len(keys) != len(where):
            raise ValueError(f"got {len(keys)} keys for {len(where)} rows; each row needs its own")
        places = where.cpu()
        uniform = torch.ones(where.shape, dtype=torch.float64)
        for row, key in enumerate(keys):
            normal = keyed_noise((*key, turn), (int(places[row].sum()),))
            uniform[row, places[row]] = torch.special.ndtr(normal.double())
        return uniform.to(where.device)

    return draw


def lowest(noise: Tensor, count: Tensor, where: Tensor) -> Tensor:
    """The `count` [B] positions of least noise among `where`, bool [B, T]; ties go to the lowest position."""
    rank = noise.masked_fill(~where, torch.inf).argsort(dim=1, stable=True).argsort(dim=1)
    return where & (rank < count.unsqueeze(1))
