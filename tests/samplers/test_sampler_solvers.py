"""ODE solvers: limits, the order rule, equality with the stock scheduler."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from sampler_toys import latents, root_keys, smooth

from samplers import SOLVERS, Plan, Step, dpm_solver_pp, flow_match_sigmas, sample_flow
from samplers.plans import SOLVER_COSTS
from samplers.solvers import dpm_order, heun


def test_plans_know_every_solver() -> None:
    assert SOLVERS.keys() == SOLVER_COSTS.keys()


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_constant_velocity_is_integrated_exactly(solver: str) -> None:
    v = latents(2, seed=1).double()
    plan = Plan(flow_match_sigmas(7, shift=3.0), (Step(solver=solver),) * 7)
    got = sample_flow(lambda x, sigma, rows: v, latents(2).double(), plan, keys=root_keys(2)).samples
    torch.testing.assert_close(got, latents(2).double() - v, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_euler_plan_equals_the_stock_scheduler_loop_bit_for_bit(dtype: torch.dtype) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(10)
    x, rows = latents(3), torch.arange(3)
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas.tolist(), strict=False):
        x = scheduler.step(smooth(x, sigma, rows), t, x, return_dict=False)[0]
    plan = Plan(flow_match_sigmas(10, shift=3.0), (Step(),) * 10)
    got = sample_flow(smooth, latents(3).to(dtype), plan, keys=root_keys(3)).samples
    if dtype == torch.float32:
        assert torch.equal(got, x)
    torch.testing.assert_close(got.float(), x, rtol=0, atol=1e-5)


def test_heun_averages_both_ends_and_does_not_ask_at_sigma_zero() -> None:
    """v = x: from x = 1 by dt = -0.5, predictor 0.5, mean slope 0.75."""
    x = torch.ones(1, 1)
    assert heun(x, x, 1.0, 0.5, evaluate=lambda y, sigma: y).item() == 1 - 0.5 * 0.75

    def refuse(y, sigma):
        raise AssertionError("asked at sigma 0")

    assert heun(x, x, 0.5, 0.0, evaluate=refuse).item() == 0.5


def test_dpm_solver_limits() -> None:
    """sigma 1 in the history has lambda = -inf, so its difference vanishes; sigma_next 0 gives x0."""
    x, now, before = latents(1), latents(1, seed=1), latents(1, seed=2)
    first = dpm_solver_pp(x, [(0.8, now)], 0.6)
    for order in (2, 3):
        assert torch.equal(dpm_solver_pp(x, [(0.8, now), (1.0, before)], 0.6, order=order), first)
    third = dpm_solver_pp(x, [(0.6, now), (0.8, before), (1.0, x)], 0.4, order=3)
    assert torch.isfinite(third).all()
    assert torch.equal(dpm_solver_pp(x, [(0.3, now), (0.6, before)], 0.0), now)
    start = dpm_solver_pp(x, [(1.0, now)], 0.6)
    torch.testing.assert_close(start, 0.6 * x + 0.4 * now)


def test_dpm_solver_first_order_is_euler() -> None:
    x, v = latents(2).double(), latents(2, seed=1).double()
    got = dpm_solver_pp(x, [(0.7, x - 0.7 * v)], 0.4, order=1)
    torch.testing.assert_close(got, x - 0.3 * v, rtol=1e-12, atol=1e-12)


def test_dpm_solver_second_order_by_hand() -> None:
    """sigma 0.75 -> 0.5 -> 0.25: lambda = -ln 3, 0, ln 3, so h = h0 = ln 3 and r = 1; A = 1 - 0.25 / 0.5 = 0.5.

    midpoint: x' = 0.5 x + 0.5 m0 + 0.25 (m0 - m1); heun: the last factor is 0.75 - 0.5 / ln 3.
    """
    x, now, before = (torch.tensor([[value]], dtype=torch.float64) for value in (2.0, 1.0, 0.2))
    pairs = [(0.5, now), (0.75, before)]
    assert dpm_solver_pp(x, pairs, 0.25).item() == pytest.approx(1.5 + 0.25 * 0.8, rel=1e-12)
    want = 1.5 + (0.75 - 0.5 / math.log(3)) * 0.8
    assert dpm_solver_pp(x, pairs, 0.25, variant="heun").item() == pytest.approx(want, rel=1e-12)


def test_order_rule() -> None:
    """Low order without history and at the end; below 15 steps the last but one step takes order 2."""
    assert [dpm_order(3, min(i, 2), i, 8) for i in range(8)] == [1, 2, 3, 3, 3, 3, 2, 1]
    assert [dpm_order(3, min(i, 2), i, 15) for i in range(15)] == [1, 2] + [3] * 12 + [1]
    assert [dpm_order(2, min(i, 2), i, 5) for i in range(5)] == [1, 2, 2, 2, 1]
    assert {dpm_order(1, 2, i, 5) for i in range(5)} == {1}


def test_errors() -> None:
    x = latents(1)
    with pytest.raises(ValueError, match="orders 1, 2, 3"):
        dpm_solver_pp(x, [(0.5, x)], 0.4, order=4)
    with pytest.raises(ValueError, match="needs the current"):
        dpm_solver_pp(x, [], 0.4)
    with pytest.raises(ValueError, match="did you mean 'midpoint'"):
        dpm_solver_pp(x, [(0.5, x)], 0.4, variant="midpont")
