"""Kernels and their Gaussian: hand-worked numbers, limits, precision, errors."""

from __future__ import annotations

import math

import pytest
import torch
from sampler_toys import latents

from samplers import KERNELS, Gaussian, resolve_kernel, sample_flow
from samplers.kernels import cps, dance_sde, euler, flow_sde, wan_sde
from samplers.plans import all_steps

STOCHASTIC = {"flow_sde": 0.7, "dance_sde": 0.3, "cps": 0.8, "wan_sde": 1.0}
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def one(value: float) -> torch.Tensor:
    return torch.tensor([[value]], dtype=torch.float64)


def test_hand_worked_steps() -> None:
    """x = 2, v = 1, sigma 0.5 -> 0.4, so dt = -0.1, x0 = 1.5, x1 = 2.5.

    flow_sde, eta 0.6: g^2 = 0.36 * 0.5 / 0.5 = 0.36;
        mean = 2 (1 - 0.36 * 0.1 / 1) + 1 (1 + 0.36 * 0.5 / 1) (-0.1) = 1.928 - 0.118 = 1.81; std = 0.6 sqrt(0.1)
    dance_sde, eta 0.3: score = -(2 - 0.5 * 1.5) / 0.25 = -5; mean = 2 - 0.1 + 0.5 * 0.09 * (-5) * 0.1 = 1.8775
    wan_sde, eta 1, sigma_max 0.9: g = 0.45; mean = 2 (1 - 0.2025 * 0.1 / 1) - 0.1 (1 + 0.2025 * 0.5 / 1) = 1.849375
    cps, eta 1/3: std = 0.4 sin(30 deg) = 0.2; mean = 0.6 * 1.5 + 0.4 cos(30 deg) 2.5 = 0.9 + sqrt(0.75)
    """
    got = flow_sde(one(2), one(1), 0.5, 0.4, 0.6, 0.9)
    assert (got.mean.item(), got.std.item()) == pytest.approx((1.81, 0.6 * math.sqrt(0.1)), rel=1e-12)
    got = dance_sde(one(2), one(1), 0.5, 0.4, 0.3)
    assert (got.mean.item(), got.std.item()) == pytest.approx((1.8775, 0.3 * math.sqrt(0.1)), rel=1e-12)
    got = wan_sde(one(2), one(1), 0.5, 0.4, 1.0, 0.9)
    assert (got.mean.item(), got.std.item()) == pytest.approx((1.849375, 0.45 * math.sqrt(0.1)), rel=1e-12)
    got = cps(one(2), one(1), 0.5, 0.4, 1 / 3)
    assert (got.mean.item(), got.std.item()) == pytest.approx((0.9 + math.sqrt(0.75), 0.2), rel=1e-12)
    got = euler(one(2), one(1), 0.5, 0.4)
    assert (got.mean.item(), got.std.item()) == pytest.approx((1.9, 0.0), rel=1e-12)


def test_flow_sde_at_sigma_one() -> None:
    """The second grid point stands for sigma in 1 - sigma, so on the first step std = eta and v's factor is 1."""
    got = flow_sde(one(2), one(1), 1.0, 0.8, 0.7, 0.8)
    assert got.std.item() == pytest.approx(0.7, rel=1e-12)
    # g^2 = 0.49 / 0.2; mean = 2 (1 - 2.45 * 0.2 / 2) - 0.2
    assert got.mean.item() == pytest.approx(2 * (1 - 0.245) - 0.2, rel=1e-12)
    with pytest.raises(ValueError, match="needs sigma_max"):
        flow_sde(one(2), one(1), 1.0, 0.8, 0.7)


def test_flow_sde_scales_the_velocity_by_one_constant() -> None:
    """Below sigma 1 the factor of v is (1 + eta^2 / 2) dt at every step."""
    for sigma, sigma_next in [(0.96, 0.9), (0.5, 0.4), (0.03, 0.01)]:
        got = flow_sde(one(0), one(1), sigma, sigma_next, 0.7)
        assert got.mean.item() == pytest.approx((1 + 0.49 / 2) * (sigma_next - sigma), rel=1e-12)


def test_cps_ends_at_x0_and_renews_all_noise_at_eta_one() -> None:
    last = cps(one(2), one(1), 0.5, 0.0, 0.8)
    assert (last.mean.item(), last.std.item()) == (1.5, 0.0)
    renewed = cps(one(2), one(1), 0.5, 0.4, 1.0)
    assert (renewed.mean.item(), renewed.std.item()) == pytest.approx((0.6 * 1.5, 0.4), rel=1e-12)


@pytest.mark.parametrize("name", KERNELS)
def test_eta_zero_is_the_ode_step(name: str) -> None:
    x, v = latents(3).double(), latents(3, seed=1).double()
    got = KERNELS[name](x, v, 0.7, 0.5, eta=0.0, sigma_max=0.9)
    torch.testing.assert_close(got.mean, x - 0.2 * v, rtol=1e-12, atol=1e-12)
    assert not got.std.any()


@pytest.mark.parametrize("name", STOCHASTIC)
def test_rows_at_different_steps_equal_single_calls_bit_for_bit(name: str) -> None:
    x, v = latents(3), latents(3, seed=1)
    sigma, sigma_next = torch.tensor([1.0, 0.75, 0.25]), torch.tensor([0.75, 0.25, 0.0])
    together = KERNELS[name](x, v, sigma, sigma_next, eta=STOCHASTIC[name], sigma_max=0.75)
    assert together.std.shape == (3, 1, 1)
    for row in range(3):
        s, s_next = float(sigma[row]), float(sigma_next[row])
        alone = KERNELS[name](x[row : row + 1], v[row : row + 1], s, s_next, eta=STOCHASTIC[name], sigma_max=0.75)
        assert torch.equal(together.mean[row], alone.mean[0])
        assert torch.equal(together.std[row].flatten(), alone.std.flatten())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", KERNELS)
def test_working_precision(name: str, dtype: torch.dtype) -> None:
    """Half precision is upcast before anything is computed, float64 stays."""
    x, v = latents(2).to(dtype), latents(2, seed=1).to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    got = KERNELS[name](x, v, 0.7, 0.5, eta=0.5, sigma_max=0.9)
    want = KERNELS[name](x.to(wide), v.to(wide), 0.7, 0.5, eta=0.5, sigma_max=0.9)
    assert got.mean.dtype == got.std.dtype == wide
    assert torch.equal(got.mean, want.mean)
    if name != "euler":
        assert got.log_prob(x).dtype == wide


@pytest.mark.parametrize("name", KERNELS)
def test_gradient_of_the_mean_is_a_constant_factor_of_v(name: str) -> None:
    x = latents(2).double()
    v = latents(2, seed=1).double().requires_grad_()
    (gradient,) = torch.autograd.grad(KERNELS[name](x, v, 0.7, 0.5, eta=0.5, sigma_max=0.9).mean.sum(), v)
    wan = 1 + (0.5 * 0.9 * 0.7) ** 2 * 0.3 / (2 * 0.7)
    factor = {"flow_sde": 1 + 0.125, "dance_sde": 1 + 0.25 / 2 * 0.3 / 0.7, "euler": 1.0, "wan_sde": wan}.get(name)
    want = -0.2 * factor if factor else -0.7 * 0.5 + 0.3 * 0.5 * math.cos(math.pi / 4)
    torch.testing.assert_close(gradient, torch.full_like(gradient, want), rtol=1e-12, atol=0)


def test_log_prob_is_the_normal_density() -> None:
    mean, x = latents(3).double(), latents(3, seed=1).double()
    gaussian = Gaussian(mean, torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64).reshape(3, 1, 1))
    normal = torch.distributions.Normal(mean, gaussian.std.expand_as(mean)).log_prob(x)
    torch.testing.assert_close(gaussian.log_prob(x, "sum"), normal.sum((1, 2)), rtol=1e-12, atol=0)
    torch.testing.assert_close(gaussian.log_prob(x), normal.mean((1, 2)), rtol=1e-12, atol=0)
    torch.testing.assert_close(gaussian.log_prob(x, density="unscaled"), -(x - mean).square().mean((1, 2)))


def test_density_integrates_to_one() -> None:
    x = torch.linspace(-9, 9, 4001, dtype=torch.float64).reshape(-1, 1)
    gaussian = flow_sde(torch.full_like(x, 0.3), torch.full_like(x, 1.0), 0.7, 0.5, 0.7)
    assert torch.trapezoid(gaussian.log_prob(x).exp(), x.flatten()).item() == pytest.approx(1, abs=1e-9)


def test_sample_is_mean_plus_std_times_noise() -> None:
    gaussian = Gaussian(latents(2), torch.tensor(0.5))
    noise = latents(2, seed=5)
    assert torch.equal(gaussian.sample(noise), gaussian.mean + 0.5 * noise)
    score = gaussian.log_prob(gaussian.sample(noise))
    torch.testing.assert_close(score, -0.5 * noise.square().mean((1, 2)) - math.log(0.5) - 0.5 * math.log(2 * math.pi))


def test_a_kernel_by_name_by_path_or_itself() -> None:
    assert resolve_kernel("cps") is cps
    assert resolve_kernel("samplers.kernels:dance_sde") is dance_sde
    assert resolve_kernel(euler) is euler


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: resolve_kernel("flow_sed"), "did you mean 'flow_sde'"),
        (lambda: resolve_kernel("no.such:kernel"), "cannot load the kernel 'no.such:kernel'"),
        (lambda: resolve_kernel("samplers.kernels:nope"), "cannot load"),
        (lambda: cps(one(1), one(1), 0.5, 0.4, 1.1), r"eta in \[0, 1\]"),
        (lambda: euler(one(1), one(1), 0.4, 0.5), "below sigma, got sigma=0.4 and sigma_next=0.5"),
        (lambda: euler(latents(2), latents(3), 0.5, 0.4), "one shape"),
        (lambda: euler(latents(2), latents(2), torch.ones(3), 0.4), "one per row: got 3 for x of shape"),
        (lambda: Gaussian(latents(2), one(1)).log_prob(latents(1)), "x_next must have the mean's shape"),
        (lambda: Gaussian(one(1), one(1)).log_prob(one(1), "men"), "did you mean 'mean'"),  # type: ignore[arg-type]
        (lambda: Gaussian(one(1), one(1)).log_prob(one(1), density="cps"), "unknown density"),  # type: ignore[arg-type]
    ],
)
def test_errors_say_what_would_be_right(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_latents_of_one_number_each() -> None:
    """x [B]: kernels, densities and the engine work on scalars too, as toy problems want."""
    x = torch.tensor([0.5, -1.0])
    gaussian = flow_sde(x, -x, torch.tensor([0.8, 0.6]), torch.tensor([0.6, 0.3]), 0.7, 0.9)
    assert gaussian.log_prob(gaussian.mean).shape == gaussian.std.shape == (2,)
    rollout = sample_flow(lambda x, sigma, rows: -x, x, all_steps((1.0, 0.6, 0.3, 0.0)), keys=[(0,), (1,)])
    assert rollout.samples.shape == (2,) and rollout.samples.isfinite().all()
