"""Likelihood record of flow steps: identities with the density, gradients, and precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from flowgrpo.kl import mean_gap, mean_gap_no_dt
from flowgrpo.likelihood_flow import FIELDS, flow_record
from flowgrpo.ratios import guard, plain, unscaled
from flowgrpo.records import Record
from samplers import Gaussian
from samplers.kernels import cps, dance_sde, flow_sde

KERNELS = {"flow_sde": flow_sde, "dance_sde": dance_sde, "cps": cps}
SIGMA, SIGMA_NEXT, ETA = 0.8, 0.65, 0.6
kernels = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def step(kernel, v: Tensor, x: Tensor | None = None) -> Gaussian:
    x = draw(*v.shape, seed=1, dtype=v.dtype) if x is None else x
    return kernel(x, v, SIGMA, SIGMA_NEXT, eta=ETA, sigma_max=0.96)


def velocities(rows: int = 3, gap: float = 0.05, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    old = draw(rows, 2, 3, 3, seed=2)
    return (old + gap * draw(rows, 2, 3, 3, seed=3)).to(dtype), old.to(dtype)


@kernels
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_ratios_are_differences_of_the_density_that_they_belong_to(kernel, reduction: str) -> None:
    v_new, v_old = velocities()
    new, old = step(kernel, v_new), step(kernel, v_old)
    x_next = old.sample(draw(*v_new.shape, seed=4))
    record = flow_record(new, old, x_next, dt=SIGMA_NEXT - SIGMA, reduction=reduction)
    assert torch.equal(record.log_prob.flatten(), new.log_prob(x_next, reduction))
    for ratio, density in ((plain, "gaussian"), (unscaled, "unscaled")):
        difference = new.log_prob(x_next, reduction, density) - old.log_prob(x_next, reduction, density)
        torch.testing.assert_close(ratio(record).flatten(), difference, rtol=1e-10, atol=1e-12)
        assert difference.abs().min() > 1e-6


@kernels
def test_unscaled_is_two_variances_times_plain(kernel) -> None:
    v_new, v_old = velocities()
    old = step(kernel, v_old)
    record = flow_record(step(kernel, v_new), old, old.sample(draw(*v_new.shape, seed=4)), dt=-0.15)
    torch.testing.assert_close(unscaled(record), 2 * record.std**2 * plain(record), rtol=1e-12, atol=0)


@kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_first_ratio_is_exactly_one_and_has_the_gradient_of_the_density(kernel, dtype: torch.dtype) -> None:
    v = velocities(dtype=torch.float32)[0].requires_grad_()
    x_next = step(kernel, v.detach()).sample(draw(*v.shape, seed=4, dtype=torch.float32)).to(dtype)
    for ratio, density in ((plain, "gaussian"), (unscaled, "unscaled")):
        record = flow_record(step(kernel, v), None, x_next, dt=-0.15, density=density)
        assert torch.equal(ratio(record), torch.zeros(3, 1))
        (ours,) = torch.autograd.grad(ratio(record).sum(), v, retain_graph=True)
        (true,) = torch.autograd.grad(record.log_prob.sum(), v)
        torch.testing.assert_close(ours, true, rtol=1e-4, atol=1e-7)
        assert true.abs().max() > 1e-3


@kernels
def test_naming_the_new_policy_as_the_old_is_the_same_as_naming_none(kernel) -> None:
    v = velocities()[0].requires_grad_()
    new = step(kernel, v)
    x_next = new.sample(draw(*v.shape, seed=4)).detach()
    grads = [
        torch.autograd.grad(plain(flow_record(new, old, x_next, dt=-0.15)).sum(), v, retain_graph=True)[0]
        for old in (None, new, new.mean, new.mean.detach())
    ]
    assert all(torch.equal(grad, grads[0]) for grad in grads)


def test_log_ratio_keeps_digits_that_the_difference_of_log_probs_loses() -> None:
    v_old = draw(4, 16, 32, 32, seed=2)
    v_new, noise = v_old + 1e-4 * draw(*v_old.shape, seed=3), draw(*v_old.shape, seed=4)
    exact = flow_record(step(flow_sde, v_new), step(flow_sde, v_old), step(flow_sde, v_old).sample(noise), dt=-0.15)
    new, old = (step(flow_sde, v.float()) for v in (v_new, v_old))
    x_next = old.sample(noise.float())
    ours = plain(flow_record(new, old, x_next, dt=-0.15)) - plain(exact)
    naive = new.log_prob(x_next) - old.log_prob(x_next) - plain(exact).flatten()
    assert ours.abs().mean() < 0.2 * naive.abs().mean()
    assert ours.abs().max() < 1e-8 < naive.abs().max()


@kernels
def test_guard_has_mean_zero_over_the_noise_and_does_not_depend_on_the_other_rows(kernel) -> None:
    v_new, v_old = velocities()
    new, old, noise = step(kernel, v_new), step(kernel, v_old), draw(*v_new.shape, seed=4)
    plus, minus = (flow_record(new, old, old.sample(sign * noise), dt=-0.15) for sign in (1, -1))
    torch.testing.assert_close(guard(plus) + guard(minus), torch.zeros(3, 1).double(), rtol=0, atol=1e-15)
    # plain is biased by exactly the correction that guard leaves out
    torch.testing.assert_close(plain(plus) + plain(minus), -plus.old_gap / plus.std**2, rtol=1e-9, atol=1e-14)
    alone = flow_record(Gaussian(new.mean[:1], new.std), old.mean[:1], old.sample(noise)[:1], dt=-0.15)
    torch.testing.assert_close(guard(alone), guard(plus)[:1], rtol=1e-12, atol=0)
    assert guard(plus).abs().min() > 1e-4


@kernels
@pytest.mark.parametrize("read", [plain, unscaled, guard, mean_gap, mean_gap_no_dt])
def test_gradients_of_every_term_match_finite_differences(kernel, read) -> None:
    v_new, v_old = velocities(rows=2)
    old, ref = step(kernel, v_old), step(kernel, 0.9 * v_old)
    x_next = old.sample(draw(*v_new.shape, seed=4))

    def value(v: Tensor) -> Tensor:
        return read(flow_record(step(kernel, v), old, x_next, dt=SIGMA_NEXT - SIGMA, ref_mean=ref.mean))

    v = v_new.clone().requires_grad_()
    assert torch.autograd.gradcheck(value, (v,), eps=1e-6, atol=1e-9, rtol=1e-6)
    assert torch.autograd.grad(value(v).sum(), v)[0].abs().max() > 1e-4


def test_kl_in_closed_form() -> None:
    """Flow SDE: mean - mean_ref = c dt (v - v_ref), c = 1 + g^2 (1 - sigma) / (2 sigma) = 1 + eta^2 / 2."""
    v, v_ref = velocities()
    record = flow_record(step(flow_sde, v), None, v, dt=SIGMA_NEXT - SIGMA, ref_mean=step(flow_sde, v_ref).mean)
    gap = (v - v_ref).square().flatten(1).mean(1, keepdim=True)
    d, g2 = SIGMA - SIGMA_NEXT, ETA**2 * SIGMA / (1 - SIGMA)
    moved = ((1 + ETA**2 / 2) * d) ** 2 * gap
    torch.testing.assert_close(mean_gap_no_dt(record), moved / (2 * g2), rtol=1e-12, atol=0)
    torch.testing.assert_close(mean_gap(record), moved / (2 * g2 * d), rtol=1e-12, atol=0)
    gaussians = (torch.distributions.Normal(step(flow_sde, u).mean, (g2 * d) ** 0.5) for u in (v, v_ref))
    exact = torch.distributions.kl_divergence(*gaussians).flatten(1).mean(1, keepdim=True)
    torch.testing.assert_close(mean_gap(record), exact, rtol=1e-10, atol=0)


def test_rows_at_different_steps_keep_their_own_std_and_dt() -> None:
    v, _ = velocities(rows=2)
    x, x_next = draw(*v.shape, seed=1), draw(*v.shape, seed=5)
    sigma, sigma_next = torch.tensor([0.9, 0.4]).double(), torch.tensor([0.8, 0.1]).double()
    both = flow_record(
        flow_sde(x, v, sigma, sigma_next, eta=ETA), 0.9 * v, x_next, dt=sigma_next - sigma, ref_mean=1.1 * v
    )
    for row in range(2):
        part = slice(row, row + 1)
        one = flow_sde(x[part], v[part], sigma[row].item(), sigma_next[row].item(), eta=ETA)
        dt = (sigma_next - sigma)[row].item()
        alone = flow_record(one, 0.9 * v[part], x_next[part], dt=dt, ref_mean=1.1 * v[part])
        for name in FIELDS:
            torch.testing.assert_close(getattr(both, name)[part], getattr(alone, name), rtol=1e-9, atol=1e-12)


def test_fields_have_one_shape_and_the_stated_ones_carry_gradient() -> None:
    v = velocities(dtype=torch.bfloat16)[0].requires_grad_()
    record = flow_record(step(flow_sde, v), 0.9 * v, v, dt=-0.15, ref_mean=1.1 * v)
    assert {name for name in Record.__dataclass_fields__ if getattr(record, name) is not None} == FIELDS
    for name in FIELDS:
        field = getattr(record, name)
        assert field.shape == (3, 1) and field.dtype == torch.float32
        assert field.requires_grad == (name not in ("std", "dt"))


def test_no_reference_no_ref_gap() -> None:
    v, _ = velocities()
    assert flow_record(step(flow_sde, v), None, v, dt=-0.15).ref_gap is None


def test_a_deterministic_step_and_a_wrong_shape_are_refused() -> None:
    v, _ = velocities()
    with pytest.raises(ValueError, match="std 0 has no likelihood"):
        flow_record(cps(v, v, 0.1, 0.0, eta=ETA), None, v, dt=-0.1)
    with pytest.raises(ValueError, match=r"old has shape \(1, 2, 3, 3\), the new mean \(3, 2, 3, 3\)"):
        flow_record(step(flow_sde, v), v[:1], v, dt=-0.15)
    with pytest.raises(ValueError, match="dt must be one number or one per row"):
        flow_record(step(flow_sde, v), None, v, dt=torch.tensor([-0.1, -0.2]))
