"""Sigma grids equal diffusers' to the last bit."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from samplers import dance_sigmas, dynamic_mu, flow_match_sigmas, linear_sigmas

STEPS = (2, 3, 4, 6, 10, 16, 25, 28, 40, 50)


def stock(steps: int, *, explicit: bool = False, mu: float | None = None, **config) -> tuple[float, ...]:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=mu is not None, **config)
    scheduler.set_timesteps(None if explicit else steps, sigmas=list(linear_sigmas(steps)) if explicit else None, mu=mu)
    return tuple(scheduler.sigmas.tolist())


@pytest.mark.parametrize(("shift", "explicit"), list(product((1.0, 1.15, 3.0, 5.0, 7.0, 0.5), (False, True))))
def test_static_shift(shift: float, explicit: bool) -> None:
    for steps in STEPS:
        ours = flow_match_sigmas(steps, shift=shift, sigmas=linear_sigmas(steps) if explicit else None)
        assert ours == stock(steps, explicit=explicit, shift=shift)


@pytest.mark.parametrize(
    ("mu", "shift_type", "explicit"),
    list(product((0.5, 0.63, 1.15, 3.0), ("exponential", "linear"), (False, True))),
)
def test_dynamic_shift_and_terminal_stretch(mu: float, shift_type: str, explicit: bool) -> None:
    for steps, terminal in product(STEPS, (None, 0.02, 0.1)):
        explicit_sigmas = linear_sigmas(steps) if explicit else None
        ours = flow_match_sigmas(steps, mu=mu, shift_type=shift_type, terminal=terminal, sigmas=explicit_sigmas)
        theirs = stock(steps, explicit=explicit, mu=mu, time_shift_type=shift_type, shift_terminal=terminal)
        assert ours == theirs


def test_terminal_stretch_of_a_static_shift() -> None:
    for steps in STEPS:
        assert flow_match_sigmas(steps, shift=3.0, terminal=0.02) == stock(steps, shift=3.0, shift_terminal=0.02)


def test_the_sigma_trap() -> None:
    """Shift 3, 10 steps: the last level is 0.0089 without explicit sigmas, 0.25 with them."""
    assert flow_match_sigmas(10, shift=3.0)[-2] == pytest.approx(0.008929, abs=1e-6)
    assert flow_match_sigmas(10, shift=3.0, sigmas=linear_sigmas(10))[-2] == pytest.approx(0.25, abs=1e-7)


def test_published_grids() -> None:
    flux = flow_match_sigmas(mu=dynamic_mu(1024), sigmas=linear_sigmas(6))
    assert dynamic_mu(1024) == pytest.approx(0.63)
    assert flux == pytest.approx((1, 0.903736, 0.789705, 0.652489, 0.484218, 0.273003, 0), abs=1e-6)
    assert dance_sigmas(4, 3.0) == pytest.approx((1, 0.9, 0.75, 0.5, 0))
    assert linear_sigmas(4) == (1.0, 0.75, 0.5, 0.25)


def test_grids_are_float32_values() -> None:
    for grid in (flow_match_sigmas(7, shift=3.0), dance_sigmas(7, 3.0), flow_match_sigmas(7, mu=0.7)):
        assert torch.tensor(grid, dtype=torch.float64).float().double().tolist() == list(grid)


def test_errors() -> None:
    with pytest.raises(ValueError, match="did you mean 'linear'"):
        flow_match_sigmas(4, mu=1.0, shift_type="liner")
    with pytest.raises(ValueError, match="steps=4 but 3 explicit sigmas"):
        flow_match_sigmas(4, sigmas=(1.0, 0.5, 0.2))
    with pytest.raises(ValueError, match="steps >= 1 or explicit sigmas"):
        flow_match_sigmas()
