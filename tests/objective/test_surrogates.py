"""Clipped surrogate: its value, and that the indicators are where the gradient is cut."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from flowgrpo.surrogates import clipped

numbers = st.lists(st.tuples(st.floats(-1, 1), st.floats(-3, 3)), min_size=1, max_size=8)
ranges = st.floats(1e-3, 0.9)


@given(numbers, ranges, ranges)
def test_value_and_gradient_are_those_of_the_pessimistic_bound(pairs, low: float, high: float) -> None:
    log_ratio, advantages = torch.tensor(pairs, dtype=torch.float64).T
    log_ratio.requires_grad_()
    result = clipped(log_ratio, advantages, low=low, high=high)
    ratio = log_ratio.exp()
    bound = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - low, 1 + high))
    torch.testing.assert_close(result.loss, bound, rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(result.loss.sum(), log_ratio)
    cut = result.clip_low | result.clip_high
    torch.testing.assert_close(gradient, torch.where(cut, 0.0, -advantages * ratio), rtol=1e-12, atol=1e-12)


def test_each_sign_of_the_advantage_is_cut_on_its_own_side_and_by_its_own_range() -> None:
    """r - 1 = -0.3, -0.15, 0.15, 0.3 against low 0.2 and high 0.1."""
    log_ratio = torch.tensor([0.7, 0.85, 1.15, 1.3], dtype=torch.float64).log().repeat(3)
    advantages = torch.tensor([1.0, -1.0, 0.0]).double().repeat_interleave(4)
    result = clipped(log_ratio, advantages, low=0.2, high=0.1)
    assert result.clip_high.tolist() == [False, False, True, True] + [False] * 8
    assert result.clip_low.tolist() == [False] * 4 + [True, False, False, False] + [False] * 4
    want = [-0.7, -0.85, -1.1, -1.1, 0.8, 0.85, 1.15, 1.3, 0, 0, 0, 0]
    torch.testing.assert_close(result.loss, torch.tensor(want, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_ranges_far_below_the_resolution_of_float32_next_to_one_are_kept_apart() -> None:
    log_ratio = torch.tensor([1.9e-6, 1.99e-6, 2.01e-6, 2.1e-6])
    result = clipped(log_ratio, torch.ones(4), low=2e-6, high=2e-6)
    assert result.clip_high.tolist() == [False, False, True, True]
    result = clipped(-log_ratio, -torch.ones(4), low=2e-6, high=2e-6)
    assert result.clip_low.tolist() == [False, False, True, True]


def test_a_ratio_that_overflows_is_cut_not_infinite() -> None:
    log_ratio = torch.tensor([200.0], requires_grad=True)
    result = clipped(log_ratio, torch.ones(1), low=0.1, high=0.1)
    result.loss.sum().backward()
    assert result.loss.item() == torch.tensor(-1.1).item()
