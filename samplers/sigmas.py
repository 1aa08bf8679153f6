"""Sigma grids, bit for bit as diffusers' flow-matching Euler scheduler makes them in float32.

A grid is a tuple of T + 1 float32 values, decreasing from at most 1 and ending in 0.

The sigma trap: with a static shift s != 1, diffusers gives two different grids for the same number of steps. Without
explicit sigmas (the SD3 pipelines) it spaces between end points that already carry the shift, and shifts again: the
last level before 0 is tiny (0.0089 for s = 3). With explicit sigmas (FLUX, ours, most RL codes) the shift is applied
once (0.25 for s = 3, T = 10). ``flow_match_sigmas`` follows the same rule, so state which one a recipe uses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from samplers.plans import unknown_name

SHIFT_TYPES = ("exponential", "linear")


def flow_match_sigmas(
    steps: int | None = None,
    *,
    shift: float = 1.0,
    sigmas: Sequence[float] | None = None,
    mu: float | None = None,
    shift_type: str = "exponential",
    terminal: float | None = None,
    train_steps: int = 1000,
) -> tuple[float, ...]:
    """The grid of ``FlowMatchEulerDiscreteScheduler.set_timesteps`` with the same arguments.

    Args:
        steps: number T of steps; may be None where ``sigmas`` is given.
        shift: static shift s: sigma -> s sigma / (1 + (s - 1) sigma). Unused where ``mu`` is given.
        sigmas: explicit unshifted levels [T] (see ``linear_sigmas``). None spaces them as diffusers does: between
            end points that already carry the static shift.
        mu: dynamic shift (``dynamic_mu``); None means the static shift.
        shift_type: meaning of ``mu``: ``"exponential"`` (s = e^mu) or ``"linear"`` (s = mu).
        terminal: stretch the grid so that its last level before 0 is this one.
        train_steps: number of training timesteps, 1000 in every public model.

    Returns:
        tuple: T + 1 levels, each exactly representable in float32, the last one 0.

    Raises:
        ValueError: steps and sigmas disagree or are both missing; unknown shift type.
    """
    if shift_type not in SHIFT_TYPES:
        raise ValueError(unknown_name("shift type", shift_type, SHIFT_TYPES))
    if sigmas is None:
        if steps is None or steps < 1:
            raise ValueError(f"a grid needs steps >= 1 or explicit sigmas, got steps={steps}")
        levels = _default_levels(steps, 1.0 if mu is not None else shift, train_steps)
    else:
        if steps is not None and steps != len(sigmas):
            raise ValueError(f"steps={steps} but {len(sigmas)} explicit sigmas were given")
        levels = torch.tensor(sigmas, dtype=torch.float64).float()
    levels = static_shift(levels, shift) if mu is None else _dynamic_shift(levels, mu, shift_type)
    if terminal:
        levels = _stretched(levels, terminal)
    return (*levels.float().tolist(), 0.0)


def linear_sigmas(steps: int) -> tuple[float, ...]:
    """Explicit unshifted levels 1 ... 1/T, equally spaced: what FLUX-like pipelines pass to the scheduler.

    Args:
        steps: number T of steps, at least 1.

    Returns:
        tuple: T levels, without the final 0.
    """
    return tuple(_linspace(1.0, 1 / steps, steps))


def dance_sigmas(steps: int, shift: float) -> tuple[float, ...]:
    """DanceGRPO's and MixGRPO's grid: T + 1 equal spaces from 1 to 0, shifted once, in float32.

    Args:
        steps: number T of steps, at least 1.
        shift: static shift (3 for FLUX, 5 for HunyuanVideo).

    Returns:
        tuple: T + 1 levels from 1 to 0.
    """
    return tuple(static_shift(torch.linspace(1, 0, steps + 1), shift).tolist())


def dynamic_mu(
    tokens: int,
    *,
    base_tokens: int = 256,
    max_tokens: int = 4096,
    base_shift: float = 0.5,
    max_shift: float = 1.15,
) -> float:
    """Resolution-dependent shift: linear in the number of image tokens (defaults: FLUX.1).

    Args:
        tokens: image tokens of the transformer (1024 for 512 px FLUX).
        base_tokens: tokens at which mu is ``base_shift``.
        max_tokens: tokens at which mu is ``max_shift``.
        base_shift: see above.
        max_shift: see above.

    Returns:
        float: mu.
    """
    slope = (max_shift - base_shift) / (max_tokens - base_tokens)
    return tokens * slope + (base_shift - slope * base_tokens)


def static_shift(levels: Tensor, shift: float) -> Tensor:
    """s sigma / (1 + (s - 1) sigma), in the dtype of ``levels``."""
    return shift * levels / (1 + (shift - 1) * levels)


def _default_levels(steps: int, shift: float, train_steps: int) -> Tensor:
    """Equal spaces, in float64, between the largest and the smallest level that the model was trained at."""
    ends = torch.tensor([train_steps, 1], dtype=torch.float32) / train_steps
    high, low = static_shift(ends, shift).tolist()
    spaced = _linspace(high * train_steps, low * train_steps, steps)
    return torch.tensor(spaced, dtype=torch.float64) / train_steps


def _linspace(start: float, stop: float, count: int) -> list[float]:
    """numpy's float64 linspace to the last bit; torch's rounds differently."""
    if count == 1:
        return [start]
    space = (stop - start) / (count - 1)
    return [i * space + start for i in range(count - 1)] + [stop]


def _dynamic_shift(levels: Tensor, mu: float, shift_type: str) -> Tensor:
    # 0-dim tensors: torch computes "number / tensor" as number * (1 / tensor), which rounds twice.
    ratio = torch.tensor(math.exp(mu) if shift_type == "exponential" else mu, dtype=levels.dtype)
    one = torch.ones((), dtype=levels.dtype)
    return ratio / (ratio + (one / levels - 1))


def _stretched(levels: Tensor, terminal: float) -> Tensor:
    rest = 1 - levels
    return 1 - rest / (rest[-1] / (1 - terminal))
