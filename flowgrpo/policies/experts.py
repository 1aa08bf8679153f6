"""Which of a pipeline's networks a step belongs to: one for all, or one above and one below a noise level (Wan 2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

HIGH, LOW = "transformer", "transformer_2"
"""Component names: the only network or the one of high noise, and the one of low noise."""


def networks_of(pipe: Any) -> dict[str, Any]:
    """Component name -> network, in a fixed order."""
    return {name: getattr(pipe, name) for name in (HIGH, LOW) if getattr(pipe, name, None) is not None}


def boundary_of(pipe: Any) -> float | None:
    """The timestep (of 1000) below which the second network works; None where there is one network."""
    ratio = pipe.config.get("boundary_ratio")
    return None if ratio is None or LOW not in networks_of(pipe) else 1000 * ratio


@dataclass(frozen=True, slots=True)
class Share:
    """A network and the rows that are its own; None is all of them. An idle one's answer counts for nothing."""

    network: str
    rows: Tensor | None
    idle: bool = False


def shares(timestep: Tensor, boundary: float | None) -> list[Share]:
    """Who evaluates which rows.

    Args:
        timestep: [n] in 0 ... 1000.
        boundary: see `boundary_of`.
    """
    if boundary is None:
        return [Share(HIGH, None)]
    high = timestep >= boundary
    if high.all():
        return [Share(HIGH, None)]
    if not high.any():
        return [Share(LOW, None)]
    return [Share(HIGH, high.nonzero().flatten()), Share(LOW, (~high).nonzero().flatten())]


def with_idle(own: Sequence[Share], called: Sequence[str], rows: int) -> list[Share]:
    """The shares of `rows` rows, and their first row once more for each network that others alone have rows for."""
    shares_of = {share.network: share for share in own}
    if set(shares_of) == set(called):
        return list(own)
    every = {name: replace(share, rows=_all(share, rows)) for name, share in shares_of.items()}
    return [every.get(name) or Share(name, torch.zeros(1, dtype=torch.int64), idle=True) for name in sorted(called)]


def _all(share: Share, rows: int) -> Tensor:
    return torch.arange(rows) if share.rows is None else share.rows
