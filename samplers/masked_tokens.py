"""What an unmasking step reads off the logits of masked positions: a token for each, and how good it looks.

An order is ``order(reading) -> confidence [k]``: higher is revealed earlier. It is given what the model says and what
tokens were drawn from, and uses what it needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from samplers.kernels import working_dtype
from samplers.noise import seed_and_turn
from samplers.plans import unknown_name

UniformNoise = Callable[[tuple[int, ...], Sequence[int]], Tensor]
"""noise(key, shape) -> uniform in [0, 1), float64, a function of the key; a longer first axis only adds to its end."""

GROUP_ELEMENTS = 1 << 24
"""Most logits that are upcast at once (64 MiB in float32), unless one row alone has more."""


def keyed_uniform(key: tuple[int, ...], shape: Sequence[int]) -> Tensor:
    """Uniform noise that is a function of its key alone, whatever the batch size, order, rank or world size.

    Args:
        key: integers that name the draw.
        shape: shape of the noise. More rows along the first axis leave the first rows as they were.

    Returns:
        Tensor: float64 in [0, 1) on the CPU.
    """
    seed, turn = seed_and_turn(key)
    uniform = torch.rand(tuple(shape), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    # The generator uses 32 bits of its seed; a rotation by 64 others keeps draws with equal seeds apart.
    return (uniform + turn / 2**64) % 1.0


@dataclass(frozen=True, slots=True)
class Reading:
    """What an order may look at, for k masked positions.

    Attributes:
        log_probs: the model's, at temperature 1 and without filters [k, V].
        drawn_from: after temperature, top-k and top-p [k, V]; -inf where filtered. The same as ``log_probs`` where
            there is nothing to change.
        tokens: drawn tokens [k].
        uniforms: () -> uniform noise [k], keyed by row and step.
    """

    log_probs: Tensor
    drawn_from: Tensor
    tokens: Tensor
    uniforms: Callable[[], Tensor]


Order = Callable[[Reading], Tensor]


def random(reading: Reading) -> Tensor:
    """Any order, uniformly."""
    return reading.uniforms()


def low_confidence(reading: Reading) -> Tensor:
    """Probability of the token at temperature 1, before filters: temperature changes tokens, hardly their order.

    Source: LLaDA (arXiv 2502.09992), low-confidence remasking.
    """
    return _at(reading.log_probs, reading.tokens).exp()


def maskgit_plus(reading: Reading) -> Tensor:
    """Probability of the token under the distribution that it was drawn from. Source: Dream (arXiv 2508.15487)."""
    return _at(reading.drawn_from, reading.tokens).exp()


def topk_margin(reading: Reading) -> Tensor:
    """Gap between the two greatest probabilities. Source: Dream's code; the distribution is that drawn from."""
    if reading.drawn_from.shape[-1] < 2:
        raise ValueError("order 'topk_margin' needs a vocabulary of at least 2")
    best, second = reading.drawn_from.exp().topk(2, dim=-1).values.unbind(-1)
    return best - second


def entropy(reading: Reading) -> Tensor:
    """Negative entropy, sum p ln(p + 1e-10), of the distribution drawn from. Source: Dream's code."""
    p = reading.drawn_from.exp()
    return (p * (p + 1e-10).log()).sum(-1)


ORDERS: dict[str, Order] = {
    "random": random,
    "low_confidence": low_confidence,
    "maskgit_plus": maskgit_plus,
    "topk_margin": topk_margin,
    "entropy": entropy,
}


Draw = Callable[[Tensor, Callable[[int], Tensor]], Tensor]


def gumbel(log_probs: Tensor, uniforms: Callable[[int], Tensor]) -> Tensor:
    """argmax(log p - ln(-ln u)) with one u per token, in float64.

    In low precision u has few bits, large Gumbel values are cut off or tie, and the effective temperature sinks
    (arXiv 2409.02908): bfloat16 has 8 bits, float32 24 and hence no value above 17. The price is V numbers per
    position, drawn on the CPU; `inverse` needs one.

    Args:
        log_probs: [k, V].
        uniforms: width -> uniform noise [k, width].

    Returns:
        Tensor: tokens [k]; ties go to the lowest id.
    """
    u = uniforms(log_probs.shape[-1]).clamp(min=torch.finfo(torch.float64).tiny)
    return (log_probs.double() - (-u.log()).log()).argmax(-1)


def inverse(log_probs: Tensor, uniforms: Callable[[int], Tensor]) -> Tensor:
    """The first token whose cumulative probability exceeds u, in float64: the same distribution from one number.

    Args:
        log_probs: [k, V].
        uniforms: width -> uniform noise [k, width].

    Returns:
        Tensor: tokens [k].
    """
    cumulative = log_probs.double().exp().cumsum(-1)
    total = cumulative[:, -1:]
    below = torch.nextafter(total, torch.zeros_like(total))
    return (cumulative <= torch.minimum(uniforms(1) * total, below)).sum(-1)


DRAWS: dict[str, Draw] = {"gumbel": gumbel, "inverse": inverse}


def resolve_order(order: str | Order) -> Order:
    """An order by name, or itself; ValueError with the nearest match for an unknown name."""
    if callable(order):
        return order
    if order not in ORDERS:
        raise ValueError(unknown_name("order", order, ORDERS))
    return ORDERS[order]


def filtered(log_probs: Tensor, top_k: int | None, top_p: float) -> Tensor:
    """Keep the most probable tokens; -inf elsewhere. Ties at the edge keep the lowest ids.

    Args:
        log_probs: [k, V], normalised.
        top_k: tokens to keep; None keeps all.
        top_p: keeps the smallest set with at least this probability. Both count on the distribution given.

    Returns:
        Tensor: normalised log-probabilities [k, V].
    """
    if top_k is None and top_p >= 1:
        return log_probs
    ranked, order = log_probs.sort(dim=-1, descending=True, stable=True)
    p = ranked.exp()
    keep = p.cumsum(-1) - p < top_p if top_p < 1 else torch.ones_like(p, dtype=torch.bool)
    keep[:, 0] = True
    if top_k is not None:
        keep[:, top_k:] = False
    return log_probs.masked_fill(~torch.zeros_like(keep).scatter(-1, order, keep), -math.inf).log_softmax(-1)


@dataclass(frozen=True, slots=True)
class Reader:
    """How logits become tokens.

    Attributes:
        order: confidence of a guess.
        draw: how tokens are drawn where ``temperature`` > 0.
        temperature: >= 0; 0 takes the most probable token.
        top_k: see `filtered`.
        top_p: see `filtered`.
        forbidden: ids that are never drawn and have no probability, int64 [f]; those without a logit do not matter.
        entropies: compute entropies too.
    """

    order: Order
    draw: Draw
    temperature: float
    top_k: int | None
    top_p: float
    forbidden: Tensor
    entropies: bool


@dataclass(frozen=True, slots=True)
class Guesses:
    """Tokens int64 [k], confidences [k], and entropies in nats [k] at temperature 1 (zeros where not asked for)."""

    tokens: Tensor
    confidence: Tensor
    entropy: Tensor


def read(
    reader: Reader,
    logits: Tensor,
    counts: Sequence[int],
    token_noise: Callable[[int, Sequence[int]], Tensor],
    order_noise: Callable[[int, Sequence[int]], Tensor],
) -> Guesses:
    """Read tokens and confidences off logits, a few rows at a time.

    Args:
        reader: how.
        logits: [k, V], positions of a row next to each other.
        counts: positions of each row [n], adding up to k.
        token_noise: (row, shape) -> uniform noise; called once per row with shape [count, V] or [count, 1].
        order_noise: the same, with shape [count].

    Returns:
        Guesses: of all k positions.
    """
    parts: list[Guesses] = []
    first = 0
    for rows in _groups(counts, logits.shape[-1]):
        last = first + sum(counts[row] for row in rows)
        parts.append(_read_rows(reader, logits[first:last], rows, counts, token_noise, order_noise))
        first = last
    if len(parts) == 1:
        return parts[0]
    return Guesses(*(torch.cat([getattr(part, name) for part in parts]) for name in Guesses.__slots__))


def _groups(counts: Sequence[int], width: int) -> Iterator[list[int]]:
    """Consecutive rows with at most GROUP_ELEMENTS logits in all, or one row."""
    group: list[int] = []
    size = 0
    for row, count in enumerate(counts):
        if group and (size + count) * width > GROUP_ELEMENTS:
            yield group
            group, size = [], 0
        group.append(row)
        size += count
    yield group


def _read_rows(
    reader: Reader,
    logits: Tensor,
    rows: Sequence[int],
    counts: Sequence[int],
    token_noise: Callable[[int, Sequence[int]], Tensor],
    order_noise: Callable[[int, Sequence[int]], Tensor],
) -> Guesses:
    def uniforms(width: int) -> Tensor:
        return torch.cat([token_noise(row, (counts[row], width)) for row in rows]).to(logits.device)

    def order_uniforms() -> Tensor:
        return torch.cat([order_noise(row, (counts[row],)) for row in rows]).to(logits.device)

    known = reader.forbidden[reader.forbidden < logits.shape[-1]]  # a head may have no logit for the mask
    scores = logits.to(working_dtype(logits.dtype)).index_fill(-1, known, -math.inf)
    log_probs = scores.log_softmax(-1)
    tempered = log_probs if reader.temperature in (0, 1) else (scores / reader.temperature).log_softmax(-1)
    drawn_from = filtered(tempered, reader.top_k, reader.top_p)
    tokens = reader.draw(drawn_from, uniforms) if reader.temperature > 0 else drawn_from.argmax(-1)
    confidence = reader.order(Reading(log_probs, drawn_from, tokens, order_uniforms)).to(log_probs.dtype)
    nats = torch.special.entr(log_probs.exp()).sum(-1) if reader.entropies else torch.zeros_like(confidence)
    return Guesses(tokens, confidence, nats)


def _at(log_probs: Tensor, tokens: Tensor) -> Tensor:
    return log_probs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
