"""Per-unit numbers of one iteration, gathered over micro-batches and summed up per sampling step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from flowgrpo.processes import Processes


@dataclass(slots=True)
class UnitMetrics:
    """Collects what `unit_losses` reports for every trained unit, over all updates of an iteration.

    step: number of each unit's sampling step [U]; window: facts of the sampling steps, passed on as they are.
    """

    step: Tensor
    window: Mapping[str, object]
    _units: list[Tensor] = field(default_factory=list)
    _shares: list[Tensor] = field(default_factory=list)
    _parts: dict[str, list[Tensor]] = field(default_factory=dict)

    def add(self, units: Tensor, parts: Mapping[str, Tensor], unit_weight: Tensor, kept: Tensor) -> None:
        """Numbers of some units, all of one shape, of which the kept ones count.

        Args:
            units: number of each unit.
            parts: name -> values of these units.
            unit_weight: every unit's share in its update's loss, U elements.
            kept: whether each unit is trained, U elements.
        """
        chosen = kept.flatten()[units]
        numbers = units[chosen]
        self._units.append(numbers)
        self._shares.append(unit_weight.flatten()[numbers])
        for name, values in parts.items():
            self._parts.setdefault(name, []).append(values.detach().to("cpu", torch.float64)[chosen])

    def of_all(self, processes: Processes) -> UnitMetrics:
        """The units of all processes together."""
        held = processes.exchange((self._units, self._shares, self._parts))
        parts: dict[str, list[Tensor]] = {}
        for _, _, there in held:
            for name, values in there.items():
                parts.setdefault(name, []).extend(values)
        units = [tensor for numbers, _, _ in held for tensor in numbers]
        shares = [tensor for _, weights, _ in held for tensor in weights]
        return UnitMetrics(self.step, self.window, units, shares, parts)

    def summary(self) -> dict[str, object]:
        """The iteration's loss, kl and clip shares, its plan's trained steps, and "per_step" lists in their order."""
        if not self._units:
            zeros = {"loss": 0.0, "kl": 0.0, "clip/low": 0.0, "clip/high": 0.0}
            return {**zeros, **self.window, "per_step": {"step": []}}
        values = {name: torch.cat(parts) for name, parts in self._parts.items()}
        step = self.step[torch.cat(self._units)]
        shares = torch.cat(self._shares)
        gap = {"rollout_gap": values["rollout_gap"].mean().item()} if "rollout_gap" in values else {}
        return {
            "loss": ((values["loss"] * shares).sum() / shares.sum()).item(),
            "kl": values["kl"].mean().item(),
            "clip/low": values["clip_low"].mean().item(),
            "clip/high": values["clip_high"].mean().item(),
            **gap,
            "ratio_minus_1/max": values["ratio_minus_1"].abs().max().item(),
            **self.window,
            "per_step": _per_step(values, step),
        }


def _per_step(values: Mapping[str, Tensor], step: Tensor) -> dict[str, list[float]]:
    steps = step.unique()
    rows = [step == number for number in steps]
    ratio = [values["ratio_minus_1"][row] for row in rows]
    others = [name for name in values if name != "ratio_minus_1"]
    return {
        "step": steps.tolist(),
        "ratio_minus_1_mean": [part.mean().item() for part in ratio],
        "ratio_minus_1_std": [part.std(correction=0).item() for part in ratio],
        "ratio_minus_1_max": [part.abs().max().item() for part in ratio],
        **{name: [values[name][row].mean().item() for row in rows] for name in others},
    }
