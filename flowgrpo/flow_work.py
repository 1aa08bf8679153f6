"""Training on tree edges of flow models: velocities of the new, old and reference policy, and the record of edges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from flowgrpo.likelihood_flow import flow_record
from flowgrpo.media import LossOf, MicroBatch, Update, own_batches
from flowgrpo.objective import Objective
from flowgrpo.policy import Conditioning, Policy
from flowgrpo.recipe import Recipe, Train
from flowgrpo.seeding import dealt
from flowgrpo.shared_rollout import SharedRollout
from flowgrpo.units import Units
from samplers.rollout import FlowRollout, Transition, transition


def split_updates(rollout: FlowRollout, keep: Tensor, *, updates: int, seed: int, iteration: int) -> list[Tensor]:
    """Which network inputs each optimizer step trains.

    Roots are dealt to updates in an order drawn by (seed, iteration); everything below a root stays in one update, so
    siblings share their forward. Inputs without a kept edge are left out.

    Returns:
        Increasing inputs of each update; updates that would be empty are left out.
    """
    used = torch.zeros(len(rollout.input_step), dtype=torch.bool)
    used[rollout.edge_input[keep]] = True
    layout = []
    for part in dealt(rollout.input_root[used].unique(), updates, (seed, iteration)):
        inputs = (used & torch.isin(rollout.input_root, part)).nonzero().squeeze(1)
        if len(inputs):
            layout.append(inputs)
    return layout


@dataclass(slots=True)
class FlowWork:
    """See `flowgrpo.media.Work`. Units are tree edges [E]; a micro-batch holds network inputs."""

    policy: Policy
    recipe: Recipe
    objective: Objective
    shared: SharedRollout
    conditioning: Conditioning
    """One row per distinct prompt."""
    row_of_root: Tensor
    """Row of the conditioning of each root."""
    units: Units
    trained_std: Tensor | None
    """Transition std of each trained step of the plan."""
    old: dict[int, Tensor] = field(default_factory=dict)
    """Old policy's velocities by the first input of a micro-batch; none while the policy still is the old one."""
    forwards: dict[str, int] = field(default_factory=lambda: {"trained": 0, "old": 0, "reference": 0})

    @property
    def rollout(self) -> FlowRollout:
        """Index of all processes' edges."""
        return self.shared.whole

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

    def layout(self, train: Train, iteration: int) -> list[Update]:
        """All edges of a network input are trained together; see `split_updates`."""
        updates = split_updates(
            self.rollout, self.keep, updates=train.updates_per_iteration, seed=train.seed, iteration=iteration
        )
        return [self._update(inputs, train.most_per_forward) for inputs in updates]

    def remember(self, batch: MicroBatch, epoch: int) -> None:
        """Velocities do not depend on the inner epoch: each micro-batch is asked once."""
        if int(batch[0]) in self.old:
            return
        with torch.no_grad():
            self.old[int(batch[0])] = self.answers(batch).to(self.shared.own.velocities.device)
        self.forwards["old"] += len(batch)

    def backward(
        self, batch: MicroBatch, kept: Tensor, loss_of: LossOf, *, epoch: int, on_policy: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One forward and one backward pass; the record is [e, 1] of the kept edges."""
        old = None if on_policy else self.old[int(batch[0])].to(self.policy.device)
        reference = self._reference(batch) if "ref_gap" in self.objective.reads else None
        v = self.answers(batch)
        self.forwards["trained"] += len(batch)
        new = self._moved(v, batch, kept)
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
        inputs = self.shared.own.inputs[self._here(batch)]
        rows = self.row_of_root[rollout.input_root[batch]]
        scale = model.guidance_scale if model.guidance_in_training else 1.0
        return self.policy.velocity(inputs, sigma, self.conditioning.rows(rows), guidance_scale=scale)

    def place(self, unit: int) -> str:
        """Step and first sample of an edge."""
        sample, step = int(self.rollout.edge_leaves[unit, 0]), int(self.rollout.edge_step[unit])
        return f"step {step}, sample {sample} of the iteration"

    def _here(self, batch: MicroBatch) -> Tensor:
        """A micro-batch as this process's own rollout numbers its inputs."""
        return batch - self.shared.first_input

    def _update(self, inputs: Tensor, micro_batch_size: int) -> Update:
        here = torch.zeros(len(self.rollout.input_step), dtype=torch.bool)
        here[inputs] = True
        kept = self.keep & here[self.rollout.edge_input]
        return Update(kept, own_batches(inputs, self.shared.own_inputs, micro_batch_size))

    def _moved(self, v: Tensor, batch: MicroBatch, kept: Tensor) -> Transition:
        """The trained edges of a micro-batch under velocities; edges are numbered as in the whole rollout."""
        moved = transition(self.shared.own, v, self._here(batch))
        return _kept(replace(moved, edges=moved.edges + self.shared.first_edge), kept)

    def _reference(self, batch: MicroBatch) -> Tensor:
        self.forwards["reference"] += len(batch)
        with torch.no_grad(), self.policy.reference():
            return self.answers(batch)

    def _mean(self, v: Tensor | None, batch: MicroBatch, kept: Tensor) -> Tensor | None:
        return None if v is None else self._moved(v, batch, kept).gaussian.mean

    def _rollout_gap(self, old: Tensor, batch: MicroBatch, kept: Tensor) -> Tensor:
        """|log ratio| between the recomputed old policy and what the rollout drew from, [e, 1]."""
        with torch.no_grad():
            now = self._moved(old, batch, kept)
            drawn = self.shared.own.velocities[self._here(batch)].to(old.device)
            then = self._mean(drawn, batch, kept)
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
