"""Which noise levels a model is sampled at, from its scheduler's config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flowgrpo.errors import RecipeError, did_you_mean
from flowgrpo.policies.family import Family
from samplers.sigmas import dance_sigmas, flow_match_sigmas, linear_sigmas

UNSUPPORTED = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "invert_sigmas")
TRAINED_LEVELS = 1000
"""Noise levels of every public model's training, the lowest of them 1/1000."""


@dataclass(frozen=True, slots=True)
class _Shift:
    """The model's time shift: static, or dynamic where `mu` is given."""

    static: float
    mu: float | None
    shift_type: str
    terminal: float | None


def _implicit(steps: int, shift: _Shift) -> tuple[float, ...]:
    return flow_match_sigmas(
        steps, shift=shift.static, mu=shift.mu, shift_type=shift.shift_type, terminal=shift.terminal
    )


def _explicit(steps: int, shift: _Shift) -> tuple[float, ...]:
    return flow_match_sigmas(
        sigmas=linear_sigmas(steps),
        shift=shift.static,
        mu=shift.mu,
        shift_type=shift.shift_type,
        terminal=shift.terminal,
    )


def _unipc(steps: int, shift: _Shift) -> tuple[float, ...]:
    """The flow levels of the UniPC scheduler: T + 1 equal spaces from 1 to 1/1000, the last one replaced by 0."""
    return _multistep(1.0, steps, shift)


def _dpm_solver(steps: int, shift: _Shift) -> tuple[float, ...]:
    """The flow levels of the DPM-Solver scheduler: the same spaces from 1 - 1/1000 on."""
    return _multistep(1 - 1 / TRAINED_LEVELS, steps, shift)


def _multistep(top: float, steps: int, shift: _Shift) -> tuple[float, ...]:
    """Equal spaces of (1 - 1/1000) / T below `top`, shifted once. Both schedulers start just below 1, where stochastic
    steps are singular; latents that are pure noise are at 1, so that is where ours start."""
    below = tuple(top - i * (1 - 1 / TRAINED_LEVELS) / steps for i in range(1, steps))
    return flow_match_sigmas(sigmas=(1.0, *below), shift=shift.static)


def _dance(steps: int, shift: _Shift) -> tuple[float, ...]:
    if shift.mu is not None:
        raise RecipeError("sampler.shift: the grid 'dance' needs a static shift, and this model has none of its own")
    return dance_sigmas(steps, shift.static)


GRIDS: dict[str, Callable[[int, _Shift], tuple[float, ...]]] = {
    "diffusers": _implicit,
    "explicit": _explicit,
    "dance": _dance,
}
"""Name in a recipe -> grid; what "diffusers" means depends on the pipeline and its scheduler (`_stock`)."""


def _stock(config: Mapping[str, Any], family: Family) -> Callable[[int, _Shift], tuple[float, ...]]:
    """The grid that the stock pipeline makes with a scheduler of this config."""
    if "flow_shift" in config:
        return _dpm_solver if "algorithm_type" in config else _unipc
    return _explicit if family.explicit_sigmas else _implicit


def grid_sigmas(
    steps: int, grid: str, shift: float | None, *, config: Mapping[str, Any], family: Family, tokens: int
) -> tuple[float, ...]:
    """Noise levels, decreasing, the last one 0.

    Args:
        steps: T, at least 1.
        grid: "diffusers" (to the bit the stock pipeline's), "explicit" (1 ... 1/T shifted once) or "dance".
        shift: A static shift in place of the model's own, dynamic or not.
        config: The scheduler's config.
        family: The pipeline's family.
        tokens: Image tokens, for a dynamic shift.

    Returns:
        tuple: T + 1 levels, each a float32 value.

    Raises:
        RecipeError: unknown grid, or a scheduler whose config asks for something else than flow matching with shifts.
    """
    if grid not in GRIDS:
        raise RecipeError(f"sampler.grid: {grid!r} is not one of {', '.join(GRIDS)}{did_you_mean(grid, GRIDS)}")
    strange = [name for name in UNSUPPORTED if config.get(name)]
    if _static_shift(config) is None or strange:
        what = strange[0] if strange else "no flow-matching shift"
        raise RecipeError(f"model.path: its scheduler {config.get('_class_name')} has {what}, which is not supported")
    make = _stock(config, family) if grid == "diffusers" else GRIDS[grid]
    return make(steps, _shift(shift, config, family, tokens, steps))


def _static_shift(config: Mapping[str, Any]) -> float | None:
    """The shift of a flow-matching scheduler; None where the config is another one's."""
    return config.get("flow_shift") if config.get("use_flow_sigmas") else config.get("shift")


def _shift(override: float | None, config: Mapping[str, Any], family: Family, tokens: int, steps: int) -> _Shift:
    dynamic = override is None and config.get("use_dynamic_shifting")
    return _Shift(
        static=config.get("flow_shift", config.get("shift")) if override is None else override,
        mu=family.shift(config, tokens, steps) if dynamic else None,
        shift_type=config.get("time_shift_type", "exponential"),
        terminal=config.get("shift_terminal"),
    )
