"""From credited units to new weights: old policy, the loss of micro-batches, and the optimizer step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from flowgrpo import ema
from flowgrpo.clock import Clock
from flowgrpo.errors import RunError
from flowgrpo.media import LossOf, Update, Work
from flowgrpo.objective import Objective, unit_losses
from flowgrpo.parity import ratio_problem
from flowgrpo.policy import Trainable
from flowgrpo.processes import ALONE, Processes
from flowgrpo.recipe import Recipe, Train
from flowgrpo.records import Record
from flowgrpo.sharding import whole
from flowgrpo.unit_metrics import UnitMetrics
from flowgrpo.zero import Zero


@dataclass(slots=True)
class Learner:
    """The optimizer and what it moves."""

    policy: Trainable
    recipe: Recipe
    objective: Objective
    optimizer: torch.optim.Optimizer
    average: ema.Average | None = None
    updates: int = 0
    """Optimizer steps so far."""
    processes: Processes = ALONE
    """Whose gradients are summed."""

    def learn(self, work: Work, *, iteration: int, clock: Clock) -> dict[str, object]:
        """Train one iteration's units.

        Returns:
            Metrics of the iteration: loss, kl, clip shares, gradient norm, per-step statistics, forward counts.

        Raises:
            RunError: a loss or a gradient is not finite; names step and sample, or the parameter.
        """
        layout = work.layout(self.recipe.train, iteration)
        metrics = UnitMetrics(work.step, work.window)
        order = [(epoch, index) for epoch in range(self.recipe.train.inner_epochs) for index in range(len(layout))]
        with clock.stage("old"):
            for epoch, index in order[1:]:
                for batch in layout[index].batches:
                    work.remember(batch, epoch)
        with clock.stage("update"):
            norms = [
                self._update(work, layout[index], metrics, epoch=epoch, on_policy=epoch == index == 0)
                for epoch, index in order
            ]
        steps = {"updates": len(norms), "on_policy": len(norms) == 1, "grad_norm": sum(norms) / max(1, len(norms))}
        spent = self.processes.exchange(work.forwards)
        counts = {f"forwards/{name}": sum(there[name] for there in spent) for name in work.forwards}
        summary = metrics.of_all(self.processes).summary()
        return {**steps, "lr": self.optimizer.param_groups[0]["lr"], **summary, **counts}

    def parity_problem(self, work: Work, iteration: int) -> str | None:
        """Whether a forward with a graph repeats one without, on the first micro-batch; no weight changes."""
        batches = [batch for update in work.layout(self.recipe.train, iteration) for batch in update.batches]
        if not batches:
            return None
        with torch.no_grad():
            without_graph = work.answers(batches[0])
        return ratio_problem(without_graph, work.answers(batches[0]))

    def _update(self, work: Work, update: Update, metrics: UnitMetrics, *, epoch: int, on_policy: bool) -> float:
        """One optimizer step; the loss of each micro-batch is its share of the whole step's."""
        self._set_learning_rate()
        self.optimizer.zero_grad(set_to_none=True)
        kept = update.kept
        unit_weight = self.objective.reduction(kept, work.leaf_of, work.edge_of)
        for batch in update.batches:
            parts: dict[str, Tensor] = {}
            loss_of = partial(self._loss, work, unit_weight, parts)
            units, more = work.backward(batch, kept, loss_of, epoch=epoch, on_policy=on_policy)
            metrics.add(units, {**parts, **more}, unit_weight, kept)
        norm = self._sum_and_clip()
        if not norm < float("inf"):
            raise RunError(self._non_finite(work, update, partial(self._loss, work, unit_weight, {}), epoch, on_policy))
        self.optimizer.step()
        self.updates += 1
        self._move_average()
        return norm

    def _loss(self, work: Work, unit_weight: Tensor, parts: dict[str, Tensor], record: Record, units: Tensor) -> Tensor:
        """Loss of a record whose units have these numbers; fills in `parts` with what `unit_losses` reports."""
        like = record.log_prob
        advantages, weights = (held.flatten()[units].to(like) for held in (work.advantages, unit_weight))
        loss, found = unit_losses(self.objective, record, advantages, weights, trained_std=work.trained_std)
        bad = (~torch.isfinite(found["loss"])).to(units.device) & (unit_weight.flatten()[units] > 0)
        if bool(bad.any()):
            place = work.place(int(units[bad][0]))
            raise RunError(f"the loss is not finite at {place}; update {self.updates + 1} was not made")
        parts.update(found)
        return loss

    def _set_learning_rate(self) -> None:
        rate = learning_rate(self.recipe.train, self.updates)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _move_average(self) -> None:
        train = self.recipe.train
        if self.average is not None and train.ema_decay is not None and self.updates % train.ema_every == 0:
            ema.update(self.average, self.policy.trainable(), ema.warmed(train.ema_decay, self.updates))

    def _sum_and_clip(self) -> float:
        """Make gradients those of all processes; their norm before it is clipped."""
        if isinstance(self.optimizer, Zero):
            return self.optimizer.sum_and_norm()
        held = list(self.policy.trainable().values())
        self.processes.sum_gradients(held)
        return whole(torch.nn.utils.clip_grad_norm_(held, self.recipe.train.max_grad_norm)).item()

    def _non_finite(self, work: Work, update: Update, loss_of: LossOf, epoch: int, on_policy: bool) -> str:
        """Which parameter and, by going through this process's micro-batches again, which samples did it."""
        named = self.policy.trainable()
        bad = self.optimizer.first_non_finite() if isinstance(self.optimizer, Zero) else _first_non_finite(named)
        of = bad or "the parameters together"
        said, first = f"the gradient of {of} is not finite in update {self.updates + 1}", ""
        # Gradients of sharded networks are of all processes' micro-batches, and tell nothing about one.
        for batch in update.batches if self.processes.networks is None else ():
            self.optimizer.zero_grad(set_to_none=True)
            units, _ = work.backward(batch, update.kept, loss_of, epoch=epoch, on_policy=on_policy)
            if not first and any(p.grad is not None and not torch.isfinite(p.grad).all() for p in named.values()):
                places = list(dict.fromkeys(work.place(int(unit)) for unit in units.flatten()))
                among = f" among {len(places)} of one micro-batch" if len(places) > 1 else ""
                first = f", first at {places[0]}{among}"
        return f"{said}{first}; no weight was changed"


def learning_rate(train: Train, updates: int) -> float:
    """Of the update that follows `updates` others: a linear rise, then, if asked for, an inverse square root."""
    warm = min(1.0, (updates + 1) / train.warmup_updates) if train.warmup_updates else 1.0
    cooled = (1 + updates / train.lr_decay_updates) ** 0.5 if train.lr_decay_updates else 1.0
    return train.lr * warm / cooled


def _first_non_finite(named: dict[str, torch.nn.Parameter]) -> str | None:
    bad = (name for name, p in named.items() if p.grad is not None and not torch.isfinite(whole(p.grad)).all())
    return next(bad, None)
