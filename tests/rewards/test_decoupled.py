"""The combination `decoupled` of several rewards: one more z-score, over all valid samples."""

from __future__ import annotations

import pytest
import torch

from flowgrpo.advantages import combined_advantages

GROUP = torch.tensor([0, 0, 0, 1, 1, 1])
REWARDS = {
    "a": torch.tensor([0.1, 0.5, 0.9, 0.2, 0.2, 0.8], dtype=torch.float64),
    "b": torch.tensor([3.0, 1.0, 2.0, 9.0, 5.0, 7.0], dtype=torch.float64),
}
WEIGHTS = {"a": 0.4, "b": 0.6}
OPTIONS = {"ddof": 1, "eps": 1e-8}


@pytest.mark.parametrize("valid", [[True] * 6, [True, True, False, True, True, True]])
def test_it_is_the_z_score_of_the_weighed_sum(valid: list[bool]) -> None:
    mask = torch.tensor(valid)
    plain = combined_advantages(REWARDS, mask, GROUP, weights=WEIGHTS, **OPTIONS)
    got = combined_advantages(REWARDS, mask, GROUP, weights=WEIGHTS, combine="decoupled", **OPTIONS)
    seen = plain[mask]
    torch.testing.assert_close(got[mask], (seen - seen.mean()) / (seen.std() + 1e-8), rtol=1e-12, atol=1e-12)
    assert got[mask].std().item() == pytest.approx(1, rel=1e-6) and (got[~mask] == 0).all()


def test_the_clamp_comes_last_and_equal_rewards_teach_nothing() -> None:
    everyone = torch.ones(6, dtype=torch.bool)
    got = combined_advantages(REWARDS, everyone, GROUP, weights=WEIGHTS, combine="decoupled", clamp=0.5, **OPTIONS)
    assert got.abs().max() == 0.5
    flat = {"a": torch.full((6,), 0.3)}
    assert (combined_advantages(flat, everyone, GROUP, weights={"a": 1.0}, combine="decoupled") == 0).all()
