"""GRPO-Guard's two claims: log ratios centred at every step, and gradients of one scale at every step."""

from __future__ import annotations

import pytest
import torch

from flowgrpo.likelihood_flow import flow_record
from flowgrpo.ratios import guard, plain
from flowgrpo.weights import inverse_dt
from samplers import Gaussian
from samplers.kernels import KERNELS
from samplers.sigmas import dance_sigmas

ETA = {"flow_sde": 0.7, "dance_sde": 0.3, "cps": 0.8, "wan_sde": 1.0}
SIGMAS = dance_sigmas(10, shift=3.0)
KERNEL_NAMES = pytest.mark.parametrize("name", ETA)


def step(name: str, x: torch.Tensor, v: torch.Tensor, i: int) -> Gaussian:
    return KERNELS[name](x, v, SIGMAS[i], SIGMAS[i + 1], eta=ETA[name], sigma_max=SIGMAS[1])


@KERNEL_NAMES
def test_log_ratio_is_centred_at_every_step_and_the_plain_one_is_not(name: str) -> None:
    """Over 4,000 draws of the rollout's noise, to five standard errors; the plain mean is -gap / (2 std^2)."""
    draw = torch.Generator().manual_seed(0)
    x, v, change = (torch.randn(1, 64, generator=draw).double() for _ in range(3))
    for i in range(9):
        old, new = step(name, x, v, i), step(name, x, v + 3 * change, i)
        eps = torch.randn(4000, 64, generator=draw).double()
        many = Gaussian(new.mean.expand(4000, 64), new.std.expand(4000, 1))
        old_mean = old.mean.expand(4000, 64)
        record = flow_record(many, old_mean, old_mean + old.std * eps, dt=SIGMAS[i + 1] - SIGMAS[i])
        centred, shifted = guard(record), plain(record)
        assert centred.mean().abs() < 5 * centred.std() / 4000**0.5
        bias = (old.mean - new.mean).square().mean() / (2 * old.std.square())
        assert (shifted.mean() + bias).abs() < 5 * shifted.std() / 4000**0.5
        assert bias > 5 * shifted.std() / 4000**0.5


def gradient_scale(name: str, i: int) -> float:
    """|d log ratio / d v| of the weighted guard ratio, per unit of noise: the same for every element."""
    x = torch.full((1, 8), 0.3).double()
    v = torch.full((1, 8), -0.2).double().requires_grad_()
    old = step(name, x, v.detach(), i)
    record = flow_record(step(name, x, v, i), old.mean, old.mean + old.std, dt=SIGMAS[i + 1] - SIGMAS[i])
    (inverse_dt(record) * guard(record)).sum().backward()
    return 8 * v.grad.abs().mean().item()


def test_flow_sde_has_one_scale_after_the_first_step() -> None:
    scales = [gradient_scale("flow_sde", i) for i in range(9)]
    assert scales[1:] == pytest.approx([1 + 0.7**2 / 2] * 8, rel=1e-9)
    # At sigma 1 the noise strength takes the next level for 1 - sigma, and the score has no velocity in it.
    assert scales[0] == pytest.approx(1.0, rel=1e-9)


def test_dance_and_cps_scales_are_those_of_the_docs() -> None:
    """docs/numerics.md tabulates them: Dance is almost flat, CPS is an arch."""
    dance = [1 + 0.3**2 / 2 * (1 - s) / s for s in SIGMAS[:9]]
    assert [gradient_scale("dance_sde", i) for i in range(9)] == pytest.approx(dance, rel=1e-9)
    cps = [gradient_scale("cps", i) for i in range(9)]
    assert [round(scale, 2) for scale in cps] == CPS_TABLE


CPS_TABLE = [1.0, 1.55, 1.97, 2.24, 2.38, 2.38, 2.24, 1.97, 1.55]
