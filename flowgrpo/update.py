"""From credited units to new weights: micro-batches, old and reference policies, the loss and the optimizer step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from flowgrpo import ema
from flowgrpo.clock import Clock
from flowgrpo.errors import RunError
from flowgrpo.likelihood_flow import flow_record
from flowgrpo.objective import Objective, unit_losses
from flowgrpo.parity import ratio_problem
from flowgrpo.policy import Conditioning, Policy
from flowgrpo.recipe import Recipe
from flowgrpo.seeding import permutation
from flowgrpo.unit_metrics import UnitMetrics
from flowgrpo.units import Units
from samplers.rollout import FlowRollout, Transition, transition

MicroBatch = Tensor
"""Indices of the network inputs of one forward pass, int64 [m]; all edges of an input are trained together."""


def split_updates(
    rollout: FlowRollout, keep: Tensor, *, updates: int, micro_batch_size: int, seed: int, iteration: int
) -> list[list[MicroBatch]]:
    """Which inputs each optimizer step trains, in which micro-batches.

    Roots are dealt to updates in an order drawn by (seed, iteration); everything below a root stays in one update, so
    siblings share their forward. Inputs without a kept edge are left out.

    Returns:
        One list of micro-batches per update; updates that would be empty are left out.
    """
    used = torch.zeros(len(rollout.input_step), dtype=torch.bool)
    used[rollout.edge_input[keep]] = True
    roots = rollout.input_root[used].unique()
    order = roots[permutation((seed, iteration), len(roots))]
    layout = []
    for part in order.tensor_split(updates):
        inputs = (used & torch.isin(rollout.input_root, part)).nonzero().squeeze(1)
        if len(inputs):
            layout.append(list(inputs.split(micro_batch_size)))
    return layout


@dataclass(slots=True)
class Work:
    """One iteration's training data and what was computed about it so far."""

    rollout: FlowRollout
    conditioning: Conditioning
    """One row per group."""
    group_of_root: Tensor
    units: Units
    trained_std: Tensor
    """Transition std of each trained step of the plan."""
    old: dict[int, Tensor] = field(default_factory=dict)
    """Old policy's velocities by the first input of a micro-batch; none while the policy still is the old one."""
    forwards: dict[str, int] = field(default_factory=lambda: {"trained": 0, "old": 0, "reference": 0})


@dataclass(slots=True)
class Learner:
    """The optimizer and what it moves."""

    policy: Policy
    recipe: Recipe
    objective: Objective
    optimizer: torch.optim.Optimizer
    average: ema.Average | None = None
    updates: int = 0
    """Optimizer steps so far."""

    def learn(self, work: Work, *, iteration: int, clock: Clock) -> dict[str, object]:
        """Train one iteration's units.

        Returns:
            Metrics of the iteration: loss, kl, clip shares, gradient norm, per-step statistics, forward counts.

        Raises:
            RunError: a loss or a gradient is not finite; names step and sample, or the parameter.
        """
        train = self.recipe.train
        layout = split_updates(
            work.rollout,
            work.units.keep,
            updates=train.updates_per_iteration,
            micro_batch_size=train.micro_batch_size,
            seed=train.seed,
            iteration=iteration,
        )
        metrics = UnitMetrics(work.rollout)
        with clock.stage("old"):
            self._remember_old(work, layout, again=train.inner_epochs > 1)
        norms = []
        with clock.stage("update"):
            for epoch in range(train.inner_epochs):
                for index, micro_batches in enumerate(layout):
                    norms.append(self._update(work, micro_batches, metrics, on_policy=epoch == index == 0))
        steps = {"updates": len(norms), "on_policy": len(norms) == 1, "grad_norm": sum(norms) / max(1, len(norms))}
        counts = {f"forwards/{name}": count for name, count in work.forwards.items()}
        return {**steps, "lr": self.optimizer.param_groups[0]["lr"], **metrics.summary(), **counts}

    def parity_problem(self, work: Work) -> str | None:
        """Whether a forward with a graph repeats one without, on the first micro-batch; no weight changes."""
        size = self.recipe.train.micro_batch_size
        inputs = work.rollout.edge_input[work.units.keep].unique()[:size]
        if not len(inputs):
            return None
        with torch.no_grad():
            without_graph = self._velocity(work, inputs)
        return ratio_problem(without_graph, self._velocity(work, inputs))

    def _remember_old(self, work: Work, layout: Sequence[Sequence[MicroBatch]], *, again: bool) -> None:
        """Velocities of the policy as it is now, for every micro-batch that is trained after the first update."""
        later = layout if again else layout[1:]
        for inputs in (inputs for micro_batches in later for inputs in micro_batches):
            with torch.no_grad():
                work.old[int(inputs[0])] = self._velocity(work, inputs)
            work.forwards["old"] += len(inputs)

    def _update(
        self, work: Work, micro_batches: Sequence[MicroBatch], metrics: UnitMetrics, *, on_policy: bool
    ) -> float:
        """One optimizer step; the loss of each micro-batch is its share of the whole step's."""
        self._set_learning_rate()
        self.optimizer.zero_grad(set_to_none=True)
        kept = self._kept_in(work, micro_batches)
        unit_weight = self.objective.reduction(kept, work.units.leaf_of, work.units.edge_of)
        for inputs in micro_batches:
            old = None if on_policy else work.old[int(inputs[0])]
            self._backward(work, inputs, kept, unit_weight, old, metrics)
        norm = self._clip_gradients()
        self.optimizer.step()
        self.updates += 1
        self._move_average()
        return norm

    def _backward(
        self,
        work: Work,
        inputs: MicroBatch,
        kept: Tensor,
        unit_weight: Tensor,
        old: Tensor | None,
        metrics: UnitMetrics,
    ) -> None:
        reference = self._reference_velocity(work, inputs) if "ref_gap" in self.objective.reads else None
        v = self._velocity(work, inputs)
        work.forwards["trained"] += len(inputs)
        new = _kept(transition(work.rollout, v, inputs), kept)
        record = flow_record(
            new.gaussian,
            self._mean(work, old, inputs, kept),
            new.x_next,
            dt=new.dt,
            density=self.recipe.sampler.density,
            ref_mean=self._mean(work, reference, inputs, kept),
        )
        advantages = work.units.advantages[new.edges].unsqueeze(1).to(v)
        weights = unit_weight[new.edges].unsqueeze(1).to(v)
        loss, parts = unit_losses(self.objective, record, advantages, weights, trained_std=work.trained_std)
        _refuse_non_finite(parts["loss"], work, new.edges)
        loss.backward()
        gap = self._rollout_gap(work, v.detach() if old is None else old, inputs, kept)
        metrics.add(new.edges, {**parts, "std": record.std, "rollout_gap": gap}, unit_weight)

    def _velocity(self, work: Work, inputs: MicroBatch) -> Tensor:
        rollout, model = work.rollout, self.recipe.model
        sigma = torch.tensor(rollout.plan.sigmas, dtype=torch.float32)[rollout.input_step[inputs]]
        rows = work.group_of_root[rollout.input_root[inputs]]
        scale = model.guidance_scale if model.guidance_in_training else 1.0
        return self.policy.velocity(rollout.inputs[inputs], sigma, work.conditioning.rows(rows), guidance_scale=scale)

    def _reference_velocity(self, work: Work, inputs: MicroBatch) -> Tensor:
        work.forwards["reference"] += len(inputs)
        with torch.no_grad(), self.policy.reference():
            return self._velocity(work, inputs)

    @staticmethod
    def _mean(work: Work, v: Tensor | None, inputs: MicroBatch, kept: Tensor) -> Tensor | None:
        return None if v is None else _kept(transition(work.rollout, v, inputs), kept).gaussian.mean

    def _rollout_gap(self, work: Work, old: Tensor, inputs: MicroBatch, kept: Tensor) -> Tensor:
        """|log ratio| between the recomputed old policy and what the rollout drew from, [e, 1]."""
        with torch.no_grad():
            now = _kept(transition(work.rollout, old, inputs), kept)
            then = self._mean(work, work.rollout.velocities[inputs], inputs, kept)
            density = self.recipe.sampler.density
            record = flow_record(now.gaussian, then, now.x_next, dt=now.dt, density=density, ref_mean=then)
            return self.objective.ratio(record).abs()

    def _kept_in(self, work: Work, micro_batches: Sequence[MicroBatch]) -> Tensor:
        """Kept edges of one update [E]."""
        here = torch.zeros(len(work.rollout.input_step), dtype=torch.bool)
        here[torch.cat(list(micro_batches))] = True
        return work.units.keep & here[work.rollout.edge_input]

    def _set_learning_rate(self) -> None:
        train = self.recipe.train
        warm = min(1.0, (self.updates + 1) / train.warmup_updates) if train.warmup_updates else 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = train.lr * warm

    def _move_average(self) -> None:
        train = self.recipe.train
        if self.average is not None and train.ema_decay is not None and self.updates % train.ema_every == 0:
            ema.update(self.average, self.policy.trainable(), ema.warmed(train.ema_decay, self.updates))

    def _clip_gradients(self) -> float:
        named = self.policy.trainable()
        norm = torch.nn.utils.clip_grad_norm_(named.values(), self.recipe.train.max_grad_norm).item()
        if not norm < float("inf"):
            raise RunError(f"the gradient of {_first_non_finite(named)} is not finite in update {self.updates + 1}")
        return norm


def _kept(moved: Transition, kept: Tensor) -> Transition:
    """The edges of a transition that are trained."""
    chosen = kept[moved.edges]
    if bool(chosen.all()):
        return moved
    on_device = chosen.to(moved.dt.device)
    gaussian = type(moved.gaussian)(moved.gaussian.mean[on_device], moved.gaussian.std[on_device])
    return Transition(moved.edges[chosen], moved.rows[chosen], gaussian, moved.x_next[on_device], moved.dt[on_device])


def _first_non_finite(named: dict[str, torch.nn.Parameter]) -> str:
    bad = (name for name, p in named.items() if p.grad is not None and not torch.isfinite(p.grad).all())
    return next(bad, "the parameters together")


def _refuse_non_finite(losses: Tensor, work: Work, edges: Tensor) -> None:
    bad = (~torch.isfinite(losses)).flatten().nonzero()
    if len(bad):
        edge = int(edges[int(bad[0])])
        sample, step = int(work.rollout.edge_leaves[edge, 0]), int(work.rollout.edge_step[edge])
        raise RunError(
            f"the loss is not finite at step {step}, sample {sample} of the iteration; no weight was changed"
        )
