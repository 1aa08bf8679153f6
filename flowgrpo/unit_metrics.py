"""Per-unit numbers of one iteration, gathered over micro-batches and summed up per sampling step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from samplers.rollout import FlowRollout

SHOWN = ("ratio_minus_1", "clip_low", "clip_high", "kl", "weight", "loss", "std", "rollout_gap")


@dataclass(slots=True)
class UnitMetrics:
    """Collects what `unit_losses` reports for every trained edge, over all updates of an iteration."""

    rollout: FlowRollout
    _edges: list[Tensor] = field(default_factory=list)
    _shares: list[Tensor] = field(default_factory=list)
    _parts: dict[str, list[Tensor]] = field(default_factory=lambda: {name: [] for name in SHOWN})

    def add(self, edges: Tensor, parts: Mapping[str, Tensor], unit_weight: Tensor) -> None:
        """Numbers [e, 1] of some edges [e]; `unit_weight` [E] is every edge's share in its update's loss."""
        self._edges.append(edges)
        self._shares.append(unit_weight[edges])
        for name in SHOWN:
            self._parts[name].append(parts[name].detach().flatten().to("cpu", torch.float64))

    def summary(self) -> dict[str, object]:
        """The iteration's loss, kl and clip shares, its plan's trained steps, and "per_step" lists in their order."""
        plan = self.rollout.plan
        window = {"steps": len(plan.steps), "trained_steps": list(plan.trained_steps)}
        if not self._edges:
            return {"loss": 0.0, "kl": 0.0, "clip/low": 0.0, "clip/high": 0.0, **window, "per_step": {"step": []}}
        values = {name: torch.cat(parts) for name, parts in self._parts.items()}
        step = self.rollout.edge_step[torch.cat(self._edges)]
        shares = torch.cat(self._shares)
        return {
            "loss": ((values["loss"] * shares).sum() / shares.sum()).item(),
            "kl": values["kl"].mean().item(),
            "clip/low": values["clip_low"].mean().item(),
            "clip/high": values["clip_high"].mean().item(),
            "rollout_gap": values["rollout_gap"].mean().item(),
            "ratio_minus_1/max": values["ratio_minus_1"].abs().max().item(),
            **window,
            "per_step": _per_step(values, step),
        }


def _per_step(values: Mapping[str, Tensor], step: Tensor) -> dict[str, list[float]]:
    steps = step.unique()
    rows = [step == number for number in steps]
    table = {name: [values[name][row].mean().item() for row in rows] for name in SHOWN if name != "ratio_minus_1"}
    ratio = [values["ratio_minus_1"][row] for row in rows]
    return {
        "step": steps.tolist(),
        "ratio_minus_1_mean": [part.mean().item() for part in ratio],
        "ratio_minus_1_std": [part.std(correction=0).item() for part in ratio],
        "ratio_minus_1_max": [part.abs().max().item() for part in ratio],
        **table,
    }
