"""Training on answers of masked language models: mask plans of every inner epoch, and the record of tokens,
sequences or recorded steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from flowgrpo.likelihood_masked import LogitsFn, likelihood, masked_record, two_pass_backward
from flowgrpo.likelihoods import Unit
from flowgrpo.log_probs import Projected
from flowgrpo.media import LossOf, MicroBatch, Update, own_batches
from flowgrpo.objective import Objective
from flowgrpo.policy import TextPolicy
from flowgrpo.recipe import Train
from flowgrpo.seeding import dealt
from flowgrpo.views import MaskPlan


@dataclass(slots=True)
class MaskedWork:
    """See `flowgrpo.media.Work`. Units are [N, S]; a micro-batch holds samples."""

    policy: TextPolicy
    objective: Objective
    attention: Tensor
    """Of the canvases, bool [N, T]."""
    plans: tuple[MaskPlan, ...]
    """One per inner epoch, or one for all; old, reference and new policy answer the same views."""
    per: Unit
    temperature: float
    """Logits are divided by it."""
    advantages: Tensor
    keep: Tensor
    step: Tensor
    steps: int
    """Sampling steps of the longest rollout."""
    own: range
    """Samples that this process trains."""
    then: Tensor | None = None
    """Log-density of the rollout's own draws [N, S], where the likelihood is of such draws."""
    trained_std: Tensor | None = None
    old: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    """Old policy's likelihood by (plan, first sample of a micro-batch)."""
    forwards: dict[str, int] = field(default_factory=lambda: {"trained": 0, "old": 0, "reference": 0})

    @property
    def leaf_of(self) -> Tensor:
        rows, units = self.keep.shape
        return torch.arange(rows).repeat_interleave(units)

    @property
    def edge_of(self) -> Tensor:
        return torch.arange(self.keep.numel())

    @property
    def window(self) -> Mapping[str, object]:
        return {"steps": self.steps, "trained_steps": self.step[self.keep.flatten()].unique().tolist()}

    def layout(self, train: Train, iteration: int) -> list[Update]:
        """Samples are dealt to updates in an order drawn by (seed, iteration); those without a kept unit are not."""
        samples = self.keep.any(1).nonzero().squeeze(1)
        parts = dealt(samples, train.updates_per_iteration, (train.seed, iteration))
        return [self._update(part.sort().values, train.most_per_forward) for part in parts if len(part)]

    def remember(self, batch: MicroBatch, epoch: int) -> None:
        """Likelihood on the plan of an epoch; epochs that share a plan share it."""
        key = self._key(batch, epoch)
        if key not in self.old:
            self.old[key] = self._likelihood(batch, epoch, "old")

    def backward(
        self, batch: MicroBatch, kept: Tensor, loss_of: LossOf, *, epoch: int, on_policy: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Plans of several views take two passes, so that one forward's graph is held at a time."""
        plan, logits_fn = self._plan(batch, epoch), self._logits(batch)
        old = None if on_policy else self.old[self._key(batch, epoch)]
        reads = self.objective.reads
        reference = self._reference(batch, epoch) if "ref_log_prob" in reads else None
        length = plan.length if self.per == "sequence" else None
        units = batch.unsqueeze(1) * self.keep.shape[1] + torch.arange(self.keep.shape[1])
        now: list[Tensor] = []

        def loss(values: Tensor) -> Tensor:
            now.append(values.detach())
            return loss_of(masked_record(values, old=old, ref=reference, length=length), units)

        per: Any = self.per
        if len(plan.views) == 1:
            loss(likelihood(logits_fn, plan, per=per)).backward()
            self.forwards["trained"] += len(batch)
        else:
            two_pass_backward(logits_fn, plan, loss, per=per)
            self.forwards["trained"] += 2 * len(batch) * len(plan.views)
        return units, self._gap(batch, now[0] if old is None else old, length)

    def answers(self, batch: MicroBatch) -> Tensor:
        """Likelihood of a micro-batch's samples on the first plan, [b, S]."""
        per: Any = self.per
        return likelihood(self._logits(batch), self._plan(batch, 0), per=per)

    def place(self, unit: int) -> str:
        """Step and sample of a unit."""
        sample, column = divmod(unit, self.keep.shape[1])
        return f"step {int(self.step[unit])}, sample {sample} of the iteration ({self.per} {column})"

    def _update(self, samples: Tensor, micro_batch_size: int) -> Update:
        here = torch.zeros(len(self.keep), 1, dtype=torch.bool)
        here[samples] = True
        return Update(self.keep & here, own_batches(samples, self.own, micro_batch_size))

    def _key(self, batch: MicroBatch, epoch: int) -> tuple[int, int]:
        return min(epoch, len(self.plans) - 1), int(batch[0])

    def _plan(self, batch: MicroBatch, epoch: int) -> MaskPlan:
        return self.plans[min(epoch, len(self.plans) - 1)].rows(batch).to(self.policy.device)

    def _logits(self, batch: MicroBatch) -> LogitsFn:
        attention = self.attention[batch].to(self.policy.device)

        def logits_fn(ids: Tensor, scored: Tensor) -> Projected:
            return replace(self.policy.logits(ids, scored, attention), temperature=self.temperature)

        return logits_fn

    def _likelihood(self, batch: MicroBatch, epoch: int, use: str) -> Tensor:
        plan = self._plan(batch, epoch)
        self.forwards[use] += len(batch) * len(plan.views)
        per: Any = self.per
        with torch.no_grad():
            return likelihood(self._logits(batch), plan, per=per)

    def _reference(self, batch: MicroBatch, epoch: int) -> Tensor:
        with self.policy.reference():
            return self._likelihood(batch, epoch, "reference")

    def _gap(self, batch: MicroBatch, old: Tensor, length: Tensor | None) -> dict[str, Tensor]:
        """|log ratio| between the recomputed old policy and what the rollout drew from, where that is known."""
        if self.then is None:
            return {}
        then = self.then[batch].to(old)
        return {"rollout_gap": self.objective.ratio(masked_record(old, old=then, ref=then, length=length)).abs()}
