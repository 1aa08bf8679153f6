"""Keys and values of a canvas that are kept between the steps of a block, so that a step computes some columns alone.

In a block's first step, and whenever something outside of it has changed, a row is computed as a whole. Then only

- ``"dual"``: the columns that were asked for in that step, the block, or
- ``"prefix"``: these and all columns behind them

are computed again; all others keep the keys and values that they had (Fast-dLLM, arXiv 2505.22618). That is exact where
no kept column hears a column of the block: models that attend to earlier columns or earlier blocks only, and any model
of one layer. Models that attend in both directions hear the block in their prompt, so that it is an approximation, of
which ``refresh`` bounds the age.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from samplers.plans import unknown_name

CACHES = ("prefix", "dual")


@dataclass(frozen=True, slots=True)
class CachePart:
    """What one forward computes for r rows of a batch.

    Attributes:
        rows: which rows, int64 [r].
        columns: which columns, int64 [r, m] in order; L fills up rows that need fewer.
        ids: tokens there [r, m].
        heard: columns that may be attended to, bool [r, L + 1]; False at padding and at L.
    """

    rows: Tensor
    columns: Tensor
    ids: Tensor
    heard: Tensor

    def slots(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Where each (row of the part, column) stands among the row's computed columns [k]."""
        places = torch.zeros_like(self.heard, dtype=torch.int64)
        order = torch.arange(self.columns.shape[1], device=columns.device).expand_as(self.columns)
        return places.scatter(1, self.columns, order)[rows, columns]

    def mask(self, window: int | None, causal: bool) -> Tensor:
        """Which keys each computed column attends to, bool [r, 1, m, L + 1]; itself always."""
        keys = torch.arange(self.heard.shape[1], device=self.columns.device)
        queries = self.columns.unsqueeze(2)
        mask = self.heard.unsqueeze(1).expand(-1, queries.shape[1], -1)
        if window is not None:
            mask = mask & ((queries - keys).abs() < window)
        if causal:
            mask = mask & (keys <= queries)
        return (mask | (keys == queries)).unsqueeze(1)


class KeyValueCache:
    """Keys and values by layer, and what they were computed from.

    Args:
        kind: ``"prefix"`` or ``"dual"``.
        refresh: steps after which a row is computed as a whole again, >= 1; None: at the next block. 1 is exact.

    Attributes:
        columns: columns computed so far, of all rows together.

    Raises:
        ValueError: unknown kind, or refresh < 1.
    """

    def __init__(self, kind: str, refresh: int | None = None) -> None:
        if kind not in CACHES:
            raise ValueError(unknown_name("cache", kind, CACHES))
        if refresh is not None and refresh < 1:
            raise ValueError(f"refresh must be at least 1 step, got {refresh}")
        self.columns = 0
        self._kind, self._refresh = kind, refresh
        self._layers: dict[Any, tuple[Tensor, Tensor]] = {}
        self._ids = self._asked = self._age = torch.empty(0)
        self._part: CachePart | None = None

    @property
    def was_used(self) -> bool:
        """Some layer has come here for its attention."""
        return bool(self._layers)

    def parts(self, ids: Tensor, read: Tensor, attention_mask: Tensor, rows: Tensor) -> list[tuple[Tensor, CachePart]]:
        """Split a step into forwards: rows that are computed as a whole, and rows that are not.

        Args:
            ids: canvas [n, L].
            read: columns whose output is wanted, bool [n, L].
            attention_mask: bool [n, L].
            rows: indices of these rows into the batch, the same in every step [n].

        Returns:
            list: (indices into the n rows [r], part) of one or two forwards.
        """
        if not len(self._ids):
            self._begin(ids, int(rows.max()) + 1)
        changed = (ids != self._ids[rows]) & ~self._renewed(rows)
        stale = changed.any(1) | (read & ~self._asked[rows]).any(1)
        if self._refresh is not None:
            stale |= self._age[rows] >= self._refresh
        self._begin_block(ids, read, rows, stale)
        heard = torch.nn.functional.pad(attention_mask, (0, 1), value=False)
        everything = torch.ones_like(read)
        found = []
        for chosen, wanted in ((stale, everything), (~stale, self._renewed(rows))):
            index = chosen.nonzero().squeeze(1)
            if len(index):
                columns, tokens = _packed(wanted[index], ids[index])
                found.append((index, CachePart(rows[index], columns, tokens, heard[index])))
                self.columns += int(wanted[index].sum())
        return found

    def open(self, part: CachePart | None) -> None:
        """The part that the next forward computes."""
        self._part = part

    def attend(
        self,
        layer: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scale: float | None,
        window: int | None,
        causal: bool,
    ) -> Tensor:
        """Attention of the computed columns to all columns; their keys and values replace those that were kept.

        Args:
            layer: whose keys these are; any object that stays the same.
            query: [r, H, m, d].
            key: [r, G, m, d], H a multiple of G.
            value: [r, G, m, d].
            scale: factor of the products; None is 1 / sqrt(d).
            window: columns farther apart than this less one do not attend to each other; None is no limit.
            causal: no column attends to a later one.

        Returns:
            Tensor: [r, H, m, d].
        """
        part = self._part
        if part is None:
            raise ValueError("no part is open: attend belongs to a forward of the cached model")
        kept = self._layers.get(layer)
        if kept is None:
            shape = (len(self._ids), key.shape[1], part.heard.shape[1], key.shape[3])
            kept = self._layers[layer] = key.new_zeros(shape), value.new_zeros(shape)
        index = part.columns[:, None, :, None].expand_as(key)
        keys, values = (old[part.rows].scatter(2, index, new) for old, new in zip(kept, (key, value), strict=True))
        for old, new in zip(kept, (keys, values), strict=True):
            old[part.rows] = new
        mask, shared = part.mask(window, causal), query.shape[1] != key.shape[1]
        return torch.nn.functional.scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, scale=scale, enable_gqa=shared
        )

    def _renewed(self, rows: Tensor) -> Tensor:
        """Columns that every step of the block computes, bool [n, L]."""
        asked = self._asked[rows]
        return asked if self._kind == "dual" else asked.cummax(1).values

    def _begin(self, ids: Tensor, batch: int) -> None:
        shape = (batch, ids.shape[1])
        self._ids = torch.full(shape, -1, dtype=ids.dtype, device=ids.device)
        self._asked = torch.zeros(shape, dtype=torch.bool, device=ids.device)
        self._age = torch.zeros(batch, dtype=torch.int64, device=ids.device)

    def _begin_block(self, ids: Tensor, read: Tensor, rows: Tensor, stale: Tensor) -> None:
        """Remember what stale rows are computed from and asked for now, and age the others."""
        self._asked[rows] = torch.where(stale.unsqueeze(1), read, self._asked[rows])
        self._ids[rows] = torch.where(stale.unsqueeze(1), ids, self._ids[rows])
        self._age[rows] = torch.where(stale, 1, self._age[rows] + 1)


def _packed(wanted: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Wanted columns of each row next to each other, and their tokens [r, m]; the column L fills up."""
    length, most = wanted.shape[1], int(wanted.sum(1).max())
    places = torch.arange(length, device=wanted.device).expand_as(wanted)
    columns = places.masked_fill(~wanted, length).sort(1).values[:, :most]
    return columns, ids.gather(1, columns.clamp(max=length - 1))
