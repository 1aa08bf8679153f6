"""How to decode: the choices of an unmasking loop as one value."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from samplers.masked_remasking import Remasking, none, resolve_remasking
from samplers.masked_schedules import Schedule, bernoulli, resolve_schedule
from samplers.masked_tokens import DRAWS, Order, entropy, random, resolve_order
from samplers.plans import unknown_name


@dataclass(frozen=True, slots=True)
class Decoding:
    """Choices of `samplers.masked.sample_masked`.

    Attributes:
        steps: steps of a row in all, dealt to its blocks evenly; None reveals one mask per step.
        order: which masks are revealed first: ``"low_confidence"`` (LLaDA), ``"random"``, ``"maskgit_plus"``,
            ``"topk_margin"``, ``"entropy"`` (Dream), or a function as in `masked_tokens`.
        remasking: ``"none"``; ``"rcr"`` (running confidence, MDPO) with its variants ``"rcr_max"``, ``"rcr_block"``
            and ``"rcr_block_max"``; or a function as in `masked_remasking`.
        schedule: how a block's masks spread over its steps: ``"even"`` (LLaDA), ``"dream"``, ``"bernoulli"`` (Dream's
            origin), ``"maskgit_*"`` (MDPO), ``"alpha_*"``, or a function as in `masked_schedules`.
        block_length: columns per block, decoded left to right, counted from the row's first mask; None is one block,
            1 is strictly left to right.
        temperature: >= 0; 0 takes the most probable token.
        top_p: keeps the smallest set of tokens with at least this probability, in (0, 1]; 1 keeps all.
        top_k: tokens to keep, >= 1; None keeps all.
        draw: ``"gumbel"``, or ``"inverse"`` with one random number per position instead of one per token.
        guidance: unsupervised guidance w >= 0; every step above 0 costs two forwards.
        threshold: also reveal every mask of at least this confidence, as the order has it. Without ``steps`` that is
            Fast-dLLM's rule, with steps LLaDA2's.
        entropy_bound: also reveal what an entropy bound >= 0 in nats allows (EB-Sampler).
        eos_ids: end tokens. Once one is decided and nothing before it is masked, the row stops and its remaining masks
            become padding. Without remasking the text up to the end token is the same as without stopping; with
            remasking rows stop only at the end of a block, and earlier blocks are revised no more.
        pad_ids: what fills the masks behind the end, in a cycle (Rainbow Padding has several); a generated one ends
            the answer too, without being part of it. Empty: the first of ``eos_ids``.
        late_ids: guesses of these ids are revealed after all others, as against end tokens that come too early.
        forbidden_ids: never drawn and without probability, such as ids beyond the tokenizer; the mask always is.
        skip_idle: leave out steps that reveal nothing; the result does not change. Never with remasking.
    """

    steps: int | None = None
    order: str | Order = "low_confidence"
    remasking: str | Remasking = "none"
    schedule: str | Schedule = "even"
    block_length: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    draw: str = "gumbel"
    guidance: float = 0.0
    threshold: float | None = None
    entropy_bound: float | None = None
    eos_ids: tuple[int, ...] = ()
    pad_ids: tuple[int, ...] = ()
    late_ids: tuple[int, ...] = ()
    forbidden_ids: tuple[int, ...] = ()
    skip_idle: bool = True

    @classmethod
    def of(cls, decoding: Decoding | None, **options: Any) -> Decoding:
        """A decoding with some fields replaced; ValueError with the nearest match for an unknown field."""
        known = [field.name for field in fields(cls)]
        for name in options:
            if name not in known:
                raise ValueError(unknown_name("option of sample_masked", name, known))
        return replace(decoding or cls(), **options)

    def __post_init__(self) -> None:
        """Raises ValueError, with everything that is wrong."""
        for name in ("eos_ids", "pad_ids", "late_ids", "forbidden_ids"):
            object.__setattr__(self, name, tuple(int(i) for i in getattr(self, name)))
        resolve_order(self.order)
        resolve_remasking(self.remasking)
        resolve_schedule(self.schedule)
        if self.draw not in DRAWS:
            raise ValueError(unknown_name("draw", self.draw, DRAWS))
        wrong = [message for bad, message in self._faults() if bad]
        if wrong:
            raise ValueError("; ".join(wrong))

    @property
    def revises(self) -> bool:
        """Decided tokens may become masks again."""
        return resolve_remasking(self.remasking) is not none

    @property
    def is_random(self) -> bool:
        """Some choice needs noise."""
        random_order = resolve_order(self.order) is random
        return self.temperature > 0 or random_order or resolve_schedule(self.schedule) is bernoulli

    def _faults(self) -> list[tuple[bool, str]]:
        adaptive = self.threshold is not None or self.entropy_bound is not None
        return [
            (self.steps is not None and self.steps < 1, f"steps must be at least 1, got {self.steps}"),
            (
                self.block_length is not None and self.block_length < 1,
                f"block_length must be at least 1, got {self.block_length}",
            ),
            (not self.temperature >= 0, f"temperature must be at least 0, got {self.temperature}"),
            (not 0 < self.top_p <= 1, f"top_p must lie in (0, 1], got {self.top_p}"),
            (self.top_k is not None and self.top_k < 1, f"top_k must be at least 1, got {self.top_k}"),
            (not self.guidance >= 0, f"guidance must be at least 0, got {self.guidance}"),
            (
                self.entropy_bound is not None and not self.entropy_bound >= 0,
                f"entropy_bound must be at least 0, got {self.entropy_bound}",
            ),
            (
                self.threshold is not None and resolve_order(self.order) is random,
                "threshold needs an order with a confidence, 'random' has none",
            ),
            (
                self.threshold is not None and self.threshold > 0 and resolve_order(self.order) is entropy,
                f"the confidence of order 'entropy' is minus an entropy: threshold {self.threshold} is never reached, "
                "a negative one in nats may be",
            ),
            (
                adaptive and self.revises,
                "threshold and entropy_bound keep no schedule, which remasking needs: choose one of them",
            ),
        ]
