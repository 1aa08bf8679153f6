"""Which of a pipeline's networks a step belongs to: one for all, or one above and one below a noise level (Wan 2.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
    """A network and the rows that are its own; None is all of them."""

    network: str
    rows: Tensor | None


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
