"""The one way in which the unmasking loop asks a model, whatever the model's function takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LogitsFn = Callable[..., Tensor]
"""logits_fn(ids [n, L]) -> [n, L, V], with further arguments as it names them; see `Asker`."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Calls a logits function with what it takes.

    A second positional argument without default, or a parameter named ``positions`` or ``scored``, is given the wanted
    positions, bool [n, L]; the function then returns their logits alone, [k, V] in row-major order. Parameters named
    ``attention_mask`` (bool [n, L], False at padding) and ``rows`` (int64 [n], indices into the batch: finished rows
    are not asked again) are given by name.

    Attributes:
        function: the caller's function.
        sparse: it takes positions.
        named: which of attention_mask and rows it takes.
    """

    function: LogitsFn
    sparse: bool
    named: frozenset[str]

    def __call__(self, ids: Tensor, positions: Tensor, attention_mask: Tensor, rows: Tensor) -> Tensor:
        """Logits [k, V] of the k wanted positions, row-major.

        Raises:
            ValueError: the function's output does not have the shape it must have.
        """
        given = {"attention_mask": attention_mask, "rows": rows}
        extra = {name: given[name] for name in self.named}
        logits = self.function(ids, positions, **extra) if self.sparse else self.function(ids, **extra)
        want: tuple[int, ...] = (int(positions.sum()),) if self.sparse else tuple(ids.shape)
        if not isinstance(logits, Tensor) or tuple(logits.shape[:-1]) != want or logits.ndim != len(want) + 1:
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            sizes = ", ".join(map(str, want))
            raise ValueError(f"the logits function must return a tensor of shape ({sizes}, V), got {got}")
        return logits if self.sparse else logits[positions]


def asker(function: LogitsFn) -> Asker:
    """Look at a function's parameters once; ValueError where it cannot take ids."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # some builtins have no signature
        parameters = [inspect.Parameter("ids", inspect.Parameter.POSITIONAL_ONLY)]
    named = frozenset({"attention_mask", "rows"} & {parameter.name for parameter in parameters})
    places = [p for p in parameters if p.kind in _POSITIONAL and p.name not in named]
    if not places and not any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters):
        raise ValueError("the logits function takes no ids: it must be callable as logits_fn(ids)")
    return Asker(function, any(_wants_positions(p) for p in places[1:]), named)


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _wants_positions(parameter: inspect.Parameter) -> bool:
    return parameter.default is inspect.Parameter.empty or parameter.name in ("positions", "scored")


def ask(
    asker: Asker,
    ids: Tensor,
    positions: Tensor,
    *,
    given: Tensor,
    mask_id: int,
    guidance: float,
    context: dict[str, Any],
) -> Tensor:
    """Logits of the wanted positions, guided away from what the model says without any given token.

        l = l_u + (guidance + 1) (l - l_u),   l_u: the same with every given token masked

    Source: unsupervised classifier-free guidance (arXiv 2410.18514), as LLaDA's code has it.

    Args:
        asker: the model.
        ids: canvas [n, L].
        positions: wanted, bool [n, L].
        given: tokens that were there from the start, bool [n, L].
        mask_id: id of the mask token.
        guidance: w; 0 asks once, anything else twice.
        context: attention_mask and rows.

    Returns:
        Tensor: [k, V].
    """
    logits = asker(ids, positions, **context)
    if guidance == 0:
        return logits
    free = asker(torch.where(given, mask_id, ids), positions, **context)
    return free + (guidance + 1) * (logits - free)
