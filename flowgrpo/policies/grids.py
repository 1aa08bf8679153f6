"""Which noise levels a model is sampled at, from its scheduler's config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flowgrpo.errors import RecipeError, did_you_mean
from flowgrpo.policies.families import Family
from samplers.sigmas import dance_sigmas, dynamic_mu, flow_match_sigmas, linear_sigmas

UNSUPPORTED = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "invert_sigmas")


@dataclass(frozen=True, slots=True)
class _Shift:
    """The model's time shift: static, or dynamic where `mu` is given."""

    static: float
    mu: float | None
    shift_type: str
    terminal: float | None


def _as_pipeline(steps: int, shift: _Shift, family: Family) -> tuple[float, ...]:
    return (_explicit if family.explicit_sigmas else _implicit)(steps, shift, family)


def _implicit(steps: int, shift: _Shift, family: Family) -> tuple[float, ...]:
    return flow_match_sigmas(
        steps, shift=shift.static, mu=shift.mu, shift_type=shift.shift_type, terminal=shift.terminal
    )


def _explicit(steps: int, shift: _Shift, family: Family) -> tuple[float, ...]:
    return flow_match_sigmas(
        sigmas=linear_sigmas(steps),
        shift=shift.static,
        mu=shift.mu,
        shift_type=shift.shift_type,
        terminal=shift.terminal,
    )


def _dance(steps: int, shift: _Shift, family: Family) -> tuple[float, ...]:
    if shift.mu is not None:
        raise RecipeError("sampler.shift: the grid 'dance' needs a static shift, and this model has none of its own")
    return dance_sigmas(steps, shift.static)


GRIDS: dict[str, Callable[[int, _Shift, Family], tuple[float, ...]]] = {
    "diffusers": _as_pipeline,
    "explicit": _explicit,
    "dance": _dance,
}


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
    if "shift" not in config or strange:
        what = strange[0] if strange else "no flow-matching shift"
        raise RecipeError(f"model.path: its scheduler {config.get('_class_name')} has {what}, which is not supported")
    return GRIDS[grid](steps, _shift(shift, config, tokens), family)


def _shift(override: float | None, config: Mapping[str, Any], tokens: int) -> _Shift:
    dynamic = override is None and config.get("use_dynamic_shifting")
    return _Shift(
        static=config["shift"] if override is None else override,
        mu=_dynamic_shift(config, tokens) if dynamic else None,
        shift_type=config.get("time_shift_type", "exponential"),
        terminal=config.get("shift_terminal"),
    )


def _dynamic_shift(config: Mapping[str, Any], tokens: int) -> float:
    return dynamic_mu(
        tokens,
        base_tokens=config["base_image_seq_len"],
        max_tokens=config["max_image_seq_len"],
        base_shift=config["base_shift"],
        max_shift=config["max_shift"],
    )
