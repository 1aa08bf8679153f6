"""Training on tree edges of flow models: velocities of the new, old and reference policy, and the record of edges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from flowgrpo.likelihood_flow import flow_record
from flowgrpo.media import LossOf, MicroBatch
from flowgrpo.objective import Objective
from flowgrpo.policy import Conditioning, Policy
from flowgrpo.recipe import Recipe, Train
from flowgrpo.seeding import dealt
from flowgrpo.units import Units
from samplers.rollout import FlowRollout, Transition, transition


def split_updates(
    rollout: FlowRollout, keep: Tensor, *, updates: int, micro_batch_size: int, seed: int, iteration: int
) -> list[list[MicroBatch]]:
    """Which network inputs each optimizer step trains, in which micro-batches.

    Roots are dealt to updates in an order drawn by (seed, iteration); everything below a root stays in one update, so
    siblings share their forward. Inputs without a kept edge are left out.

    Returns:
        One list of micro-batches per update; updates that would be empty are left out.
    """
    used = torch.zeros(len(rollout.input_step), dtype=torch.bool)
    used[rollout.edge_input[keep]] = True
    layout = []
    for part in dealt(rollout.input_root[used].unique(), updates, (seed, iteration)):
        inputs = (used & torch.isin(rollout.input_root, part)).nonzero().squeeze(1)
        if len(inputs):
            layout.append(list(inputs.split(micro_batch_size)))
    return layout


@dataclass(slots=True)
class FlowWork:
    """See `flowgrpo.media.Work`. Units are tree edges [E]; a micro-batch holds network inputs."""

    policy: Policy
    recipe: Recipe
    objective: Objective
    rollout: FlowRollout
    conditioning: Conditioning
    """One row per group."""
    group_of_root: Tensor
    units: Units
    trained_std: Tensor | None
    """Transition std of each trained step of the plan."""
    old: dict[int, Tensor] = field(default_factory=dict)
    """Old policy's velocities by the first input of a micro-batch; none while the policy still is the old one."""
    forwards: dict[str, int] = field(default_factory=lambda: {"trained": 0, "old": 0, "reference": 0})

    @property
    def advantages(self) -> Tensor:
        return self.units.advantages

    @property
    def keep(self) -> Tensor:
        return self.units.keep

    @property
    def leaf_of(self) -> Tensor:
        return self.units.leaf_of

    @property
    def edge_of(self) -> Tensor:
        return self.units.edge_of

    @property
    def step(self) -> Tensor:
        return self.rollout.edge_step

    @property
    def window(self) -> Mapping[str, object]:
        plan = self.rollout.plan
        return {"steps": len(plan.steps), "trained_steps": list(plan.trained_steps)}

    def layout(self, train: Train, iteration: int) -> list[list[MicroBatch]]:
        """All edges of a network input are trained together; see `split_updates`."""
        return split_updates(
            self.rollout,
            self.keep,
            updates=train.updates_per_iteration,
            micro_batch_size=train.micro_batch_size,
            seed=train.seed,
            iteration=iteration,
        )

    def kept_in(self, batches: Sequence[MicroBatch]) -> Tensor:
        """Kept edges below the inputs of some micro-batches [E]."""
        here = torch.zeros(len(self.rollout.input_step), dtype=torch.bool)
        here[torch.cat(list(batches))] = True
        return self.keep & here[self.rollout.edge_input]

    def remember(self, batch: MicroBatch, epoch: int) -> None:
        """Velocities do not depend on the inner epoch: each micro-batch is asked once."""
        if int(batch[0]) in self.old:
            return
        with torch.no_grad():
            self.old[int(batch[0])] = self.answers(batch)
        self.forwards["old"] += len(batch)

    def backward(
        self, batch: MicroBatch, kept: Tensor, loss_of: LossOf, *, epoch: int, on_policy: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One forward and one backward pass; the record is [e, 1] of the kept edges."""
        old = None if on_policy else self.old[int(batch[0])]
        reference = self._reference(batch) if "ref_gap" in self.objective.reads else None
        v = self.answers(batch)
        self.forwards["trained"] += len(batch)
        new = _kept(transition(self.rollout, v, batch), kept)
        record = flow_record(
            new.gaussian,
            self._mean(old, batch, kept),
            new.x_next,
            dt=new.dt,
            density=self.recipe.sampler.density,
            ref_mean=self._mean(reference, batch, kept),
        )
        units = new.edges.unsqueeze(1)
        loss_of(record, units).backward()
        gap = self._rollout_gap(v.detach() if old is None else old, batch, kept)
        return units, {"std": record.std, "rollout_gap": gap}

    def answers(self, batch: MicroBatch) -> Tensor:
        """Velocities at the inputs of a micro-batch."""
        rollout, model = self.rollout, self.recipe.model
        sigma = torch.tensor(rollout.plan.sigmas, dtype=torch.float32)[rollout.input_step[batch]]
        rows = self.group_of_root[rollout.input_root[batch]]
        scale = model.guidance_scale if model.guidance_in_training else 1.0
        return self.policy.velocity(rollout.inputs[batch], sigma, self.conditioning.rows(rows), guidance_scale=scale)

    def place(self, unit: int) -> str:
        """Step and first sample of an edge."""
        sample, step = int(self.rollout.edge_leaves[unit, 0]), int(self.rollout.edge_step[unit])
        return f"step {step}, sample {sample} of the iteration"

    def _reference(self, batch: MicroBatch) -> Tensor:
        self.forwards["reference"] += len(batch)
        with torch.no_grad(), self.policy.reference():
            return self.answers(batch)

    def _mean(self, v: Tensor | None, batch: MicroBatch, kept: Tensor) -> Tensor | None:
        return None if v is None else _kept(transition(self.rollout, v, batch), kept).gaussian.mean

    def _rollout_gap(self, old: Tensor, batch: MicroBatch, kept: Tensor) -> Tensor:
        """|log ratio| between the recomputed old policy and what the rollout drew from, [e, 1]."""
        with torch.no_grad():
            now = _kept(transition(self.rollout, old, batch), kept)
            then = self._mean(self.rollout.velocities[batch], batch, kept)
            density = self.recipe.sampler.density
            record = flow_record(now.gaussian, then, now.x_next, dt=now.dt, density=density, ref_mean=then)
            return self.objective.ratio(record).abs()


def _kept(moved: Transition, kept: Tensor) -> Transition:
    """The edges of a transition that are trained."""
    chosen = kept[moved.edges]
    if bool(chosen.all()):
        return moved
    on_device = chosen.to(moved.dt.device)
    gaussian = type(moved.gaussian)(moved.gaussian.mean[on_device], moved.gaussian.std[on_device])
    return Transition(moved.edges[chosen], moved.rows[chosen], gaussian, moved.x_next[on_device], moved.dt[on_device])
