"""Keyed noise: a function of the key, standard normal, independent between keys."""

from __future__ import annotations

import torch

from samplers import keyed_noise
from samplers.noise import seed_and_turn, split_noise


def test_noise_is_a_function_of_the_key_and_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    first, again = keyed_noise((1, 2, 3), (2, 5)), keyed_noise((1, 2, 3), (2, 5))
    assert first.dtype == torch.float32 and torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), state)


def test_noise_is_pinned() -> None:
    """A change here changes every seeded result of the project: say so in the CHANGELOG."""
    want = torch.tensor(PINNED)
    torch.testing.assert_close(keyed_noise((0, 1, 2), (4,)), want, rtol=0, atol=1e-6)


PINNED = [0.272591, 0.434996, -0.575531, -1.014158]


def test_keys_differ_by_value_order_and_length() -> None:
    keys = [(1, 2), (2, 1), (12,), (1, 2, 0), (1,), (-1, 2), (1, -2), ()]
    draws = [keyed_noise(key, (8,)) for key in keys]
    assert all(not torch.equal(a, b) for i, a in enumerate(draws) for b in draws[:i])


def test_noise_is_standard_normal_and_uncorrelated_between_neighbouring_keys() -> None:
    draws = torch.stack([keyed_noise((5, i), (50_000,)) for i in range(4)]).double()
    # standard errors: mean 1/sqrt(n) = 0.0045, variance sqrt(2/n) = 0.0063, correlation 0.0045; 4 of them
    assert draws.mean(1).abs().max() < 0.018
    assert (draws.var(1) - 1).abs().max() < 0.026
    correlation = torch.corrcoef(draws) - torch.eye(4)
    assert correlation.abs().max() < 0.018


def test_keys_that_torch_would_seed_alike_get_different_noise() -> None:
    """torch's CPU generator drops the upper half of a 64-bit seed; find two such keys by the birthday paradox."""
    seen: dict[int, int] = {}
    pair = None
    for i in range(400_000):
        low = seed_and_turn((9, i))[0] & 0xFFFFFFFF
        if low in seen:
            pair = (seen[low], i)
            break
        seen[low] = i
    assert pair is not None
    a, b = (keyed_noise((9, i), (1000,)) for i in pair)
    assert sorted(a.tolist()) == sorted(b.tolist())  # the same stream ...
    assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 0.13  # ... turned: 4 standard errors of 0.032


def test_split_noise_keeps_the_marginal_and_correlates_siblings() -> None:
    """s = 1 and 2: correlation 1 / (1 + s^2) = 0.5 and 0.2."""
    shared, a, b = (keyed_noise((6, i), (200_000,)) for i in range(3))
    for strength, want in ((1.0, 0.5), (2.0, 0.2)):
        left, right = split_noise(shared, a, strength), split_noise(shared, b, strength)
        assert abs(left.var() - 1) < 0.015
        assert abs(torch.corrcoef(torch.stack([left, right]))[0, 1] - want) < 0.01
