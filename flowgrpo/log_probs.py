"""Log-probabilities of tokens over a large vocabulary, a few rows of logits at a time, forward and backward.

Naively the logits of M tokens are held three times in float32: as they are, normalised, and as a gradient. Here a chunk
of rows is made, read and dropped in one buffer:

    forward    l = h W' + b;  log p(y) = l[y] - lse,  lse = logsumexp(l)
    backward   r = exp(l - lse) - onehot(y);  dh = -g r W,  dW = sum of -(g r)' h,  db = sum of -g r

The logits are computed again in the backward pass, since they are not kept. Where the head is frozen (adapters), r W is
taken in the forward pass instead, [M, D], and nothing is computed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import Linear
from torch.utils.checkpoint import checkpoint

CHUNK_BYTES = 1 << 24
"""A chunk of logits in float32 has about this size ..."""
LEAST_ROWS = {"cpu": 128}
"""... but at least so many rows (`MANY_ROWS` on other devices): a product with fewer waits for the head's weights."""
MANY_ROWS = 256


@dataclass(frozen=True, slots=True)
class Projected:
    """Logits that are not computed yet: head(hidden) / temperature.

    Attributes:
        hidden: [M, D].
        head: [m, D] -> logits [m, V], row by row. A plain `torch.nn.Linear` is the fast case; anything else is called
            twice per row where gradients are wanted.
        forbidden: ids without probability, int64 [f]; None where there are none.
        temperature: > 0.
    """

    hidden: Tensor
    head: Callable[[Tensor], Tensor]
    forbidden: Tensor | None = None
    temperature: float = 1.0

    def logits(self) -> Tensor:
        """All of them [M, V], in the head's dtype: what is drawn from."""
        logits = self.head(self.hidden)
        logits = logits if self.temperature == 1 else logits / self.temperature
        return logits if self.forbidden is None else logits.index_fill(-1, self.forbidden, -torch.inf)


def target_log_probs(logits: Tensor | Projected, targets: Tensor, *, chunk: int | None = None) -> Tensor:
    """Log-probabilities of tokens, with a few rows of logits in float32 at a time; gradients once, not twice.

    Args:
        logits: [M, V], any floating type, or the hidden states that they come from.
        targets: token ids, int64 [M].
        chunk: rows at a time, >= 1; None chooses by the size of the vocabulary, see `rows_at_once`.

    Returns:
        Tensor: [M], at least float32.

    Raises:
        ValueError: the number of rows is not M, or chunk is not positive.
    """
    asked = logits if isinstance(logits, Projected) else Projected(logits, given)
    if len(asked.hidden) != len(targets):
        raise ValueError(f"got logits of {len(asked.hidden)} positions for {len(targets)} scored tokens")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1 position, got {chunk}")
    reading = _Reading(targets, asked.forbidden, asked.temperature, chunk)
    if asked.head is given:
        return _apply(_OfLogits, asked.hidden, reading)
    if isinstance(asked.head, Linear) and _is_plain(asked.head):
        head, grad = asked.head, torch.is_grad_enabled()
        return _apply(_OfLinear, asked.hidden, head.weight, head.bias, reading, grad)
    return _of_any_head(asked, reading)


def rows_at_once(vocabulary: int, device: torch.device) -> int:
    """Rows of a chunk where the caller names none: `CHUNK_BYTES` of float32 logits, or the device's least rows."""
    return max(LEAST_ROWS.get(device.type, MANY_ROWS), CHUNK_BYTES // (4 * vocabulary))


@dataclass(frozen=True, slots=True)
class _Reading:
    """What is read off logits [M, V], besides `Projected`."""

    targets: Tensor
    forbidden: Tensor | None
    temperature: float
    chunk: int | None

    def size(self, vocabulary: int) -> int:
        return self.chunk or rows_at_once(vocabulary, self.targets.device)

    def parts(self, vocabulary: int) -> Iterator[slice]:
        size = self.size(vocabulary)
        return (slice(start, start + size) for start in range(0, max(len(self.targets), 1), size))

    def of(self, part: slice) -> _Reading:
        return _Reading(self.targets[part], self.forbidden, self.temperature, self.chunk)

    def final_(self, logits: Tensor) -> Tensor:
        """Temperature and forbidden ids, in place."""
        if self.temperature != 1:
            logits.div_(self.temperature)
        return logits if self.forbidden is None else logits.index_fill_(1, self.forbidden, -torch.inf)

    def normalise_(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of each target and logsumexp [m]; the logits become probabilities, but for a factor."""
        own = logits.gather(1, self.targets.unsqueeze(1)).squeeze(1)
        most = logits.amax(1, keepdim=True)
        lse = logits.sub_(most).exp_().sum(1).log_().add_(most.squeeze(1))
        return own - lse, lse

    def residual_(self, p: Tensor) -> Tensor:
        """p - onehot(target), which is -T times d log p(target) / d head's output, in place. Subtracted before any
        rounding to half precision, where p close to 1 would be 1."""
        p[torch.arange(len(p), device=p.device), self.targets] -= 1
        return p


class _OfLinear(torch.autograd.Function):
    """(hidden [M, D], weight [V, D], bias [V] or None) -> log-probabilities [M]."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, reading: _Reading, grad: bool) -> Tensor:
        values = hidden.new_empty(len(hidden), dtype=_working(torch.promote_types(hidden.dtype, weight.dtype)))
        lses, early = torch.empty_like(values), grad and ctx.needs_input_grad[:3] == (True, False, False)
        pulls = torch.empty_like(hidden) if early else None
        logits_of = _linear(hidden, weight, bias, reading)
        for part in reading.parts(len(weight)):
            own, p = reading.of(part), logits_of(part)
            values[part], lses[part] = own.normalise_(own.final_(p))
            if pulls is not None:
                r = own.residual_(p.div_(p.sum(1, keepdim=True)))
                pulls[part] = r.to(weight.dtype) @ weight
        ctx.save_for_backward(*((pulls,) if early else (hidden, weight, bias, lses)))
        ctx.reading, ctx.early = reading, early
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, share: Tensor) -> tuple[Tensor | None, ...]:
        scale = share.div(-ctx.reading.temperature).unsqueeze(1)
        if ctx.early:
            (pulls,) = ctx.saved_tensors
            return (pulls * scale).to(pulls.dtype), None, None, None, None
        hidden, weight, bias, lses = ctx.saved_tensors
        grads = [
            torch.zeros_like(tensor) if wanted else None
            for tensor, wanted in zip((hidden, weight, bias), ctx.needs_input_grad, strict=False)
        ]
        logits_of = _linear(hidden, weight, bias, ctx.reading)
        for part in ctx.reading.parts(len(weight)):
            own = ctx.reading.of(part)
            p = own.final_(logits_of(part)).sub_(lses[part].unsqueeze(1)).exp_()
            _collect(grads, part, own.residual_(p), scale[part], hidden[part], weight)
        return (*grads, None, None)


def _collect(grads: list[Tensor | None], part: slice, r: Tensor, scale: Tensor, hidden: Tensor, weight: Tensor) -> None:
    """Add one chunk's share to the gradients of hidden, weight and bias."""
    of_hidden, of_weight, of_bias = grads
    rounded = r.to(weight.dtype)
    if of_hidden is not None:
        of_hidden[part] = (rounded @ weight) * scale
    if of_weight is not None:
        of_weight.addmm_(rounded.t(), (hidden * scale).to(weight.dtype))
    if of_bias is not None:
        of_bias.add_((r.t() @ scale).squeeze(1))


class _OfLogits(torch.autograd.Function):
    """Logits [M, V] -> log-probabilities [M]."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, reading: _Reading) -> Tensor:
        values = logits.new_empty(len(logits), dtype=_working(logits.dtype))
        lses = torch.empty_like(values)
        for part in reading.parts(logits.shape[1]):
            own, copy = reading.of(part), logits[part].to(values.dtype, copy=True)
            values[part], lses[part] = own.normalise_(own.final_(copy))
        ctx.save_for_backward(logits, lses)
        ctx.reading = reading
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, share: Tensor) -> tuple[Tensor, None]:
        logits, lses = ctx.saved_tensors
        grad = torch.empty_like(logits)
        scale = share.div(-ctx.reading.temperature).unsqueeze(1)
        for part in ctx.reading.parts(logits.shape[1]):
            own = ctx.reading.of(part)
            room = grad[part] if grad.dtype == lses.dtype else logits.new_empty(grad[part].shape, dtype=lses.dtype)
            p = own.final_(room.copy_(logits[part])).sub_(lses[part].unsqueeze(1)).exp_()
            grad[part] = own.residual_(p).mul_(scale[part])
        return grad, None


def _of_any_head(asked: Projected, reading: _Reading) -> Tensor:
    """A head of which nothing is known: called by chunk, and again in the backward pass."""

    def score(rows: Tensor, own: _Reading) -> Tensor:
        return _apply(_OfLogits, asked.head(rows), own)

    def piece(part: slice) -> Tensor:
        if not torch.is_grad_enabled():
            return score(asked.hidden[part], reading.of(part))
        own = asked.hidden[part], reading.of(part)
        return checkpoint(score, *own, use_reentrant=False, preserve_rng_state=False)  # type: ignore[no-any-return]

    vocabulary = 0 if reading.chunk else asked.head(asked.hidden[:1].detach()).shape[-1]
    return torch.cat([piece(part) for part in reading.parts(vocabulary)])


def _apply(function: type[torch.autograd.Function], *inputs: Any) -> Tensor:
    return function.apply(*inputs)  # type: ignore[no-any-return]


def _linear(hidden: Tensor, weight: Tensor, bias: Tensor | None, reading: _Reading) -> Callable[[slice], Tensor]:
    """part -> logits of at least float32, in one room for all parts: new memory costs as much as a pass over it."""
    room = weight.new_empty(min(reading.size(len(weight)), len(hidden)), len(weight))

    def logits(part: slice) -> Tensor:
        rows = hidden[part]
        out = room[: len(rows)]
        if bias is None:
            torch.mm(rows, weight.t(), out=out)
        else:
            torch.addmm(bias, rows, weight.t(), out=out)
        return out.to(_working(out.dtype))

    return logits


def _is_plain(head: Linear) -> bool:
    """Calling it does what `Linear` does and no more; weights may be parametrised."""
    return type(head).forward is Linear.forward and not head._forward_hooks and not head._forward_pre_hooks


def _working(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def given(rows: Tensor) -> Tensor:
    """The head of logits that are there already."""
    return rows
