"""Advantages: hand-worked numbers, invariances, invalid samples, several rewards, fusion onto edges."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from flowgrpo.advantages import ADVANTAGES, combined_advantages, group_advantages, group_statistics, to_edges
from flowgrpo.errors import RecipeError

GROUP = torch.tensor([7, 3, 7, 3, 7, 3])
REWARDS = torch.tensor([1.0, 10.0, 2.0, 30.0, 6.0, 20.0])
"""Group 7: 1, 2, 6 (mean 3, squared deviations 4 + 1 + 9 = 14). Group 3: 10, 30, 20 (mean 20, 200)."""
ALL = torch.ones(6, dtype=torch.bool)


def check(got: Tensor, want: list[float]) -> None:
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_group_std_by_hand() -> None:
    s7, s3 = math.sqrt(14 / 3) + 0.5, math.sqrt(200 / 3) + 0.5
    got = group_advantages(REWARDS, ALL, GROUP, eps=0.5)
    check(got, [-2 / s7, -10 / s3, -1 / s7, 10 / s3, 3 / s7, 0])


def test_sample_std_by_hand() -> None:
    s7, s3 = math.sqrt(14 / 2) + 1e-8, math.sqrt(200 / 2) + 1e-8
    got = group_advantages(REWARDS, ALL, GROUP, ddof=1, eps=1e-8)
    check(got, [-2 / s7, -10 / s3, -1 / s7, 10 / s3, 3 / s7, 0])


@pytest.mark.parametrize("ddof", [0, 1])
def test_global_std_is_of_raw_rewards_over_all_samples(ddof: int) -> None:
    """Mean 11.5; squares 1 + 100 + 4 + 900 + 36 + 400 = 1441; variance sum 1441 - 6 * 132.25 = 647.5."""
    s = math.sqrt(647.5 / (6 - ddof)) + 1e-4
    got = group_advantages(REWARDS, ALL, GROUP, std="global", ddof=ddof)
    check(got, [-2 / s, -10 / s, -1 / s, 10 / s, 3 / s, 0])


def test_no_std_leaves_deviations_and_clamp_bounds_them() -> None:
    check(group_advantages(REWARDS, ALL, GROUP, std="none"), [-2, -10, -1, 10, 3, 0])
    check(group_advantages(REWARDS, ALL, GROUP, std="none", clamp=2.5), [-2, -2.5, -1, 2.5, 2.5, 0])


def test_rwr_sft_and_dpo() -> None:
    rewards = torch.tensor([1.0, 5.0, 6.0, 5.0, 6.0, 5.0])
    check(group_advantages(rewards, ALL, GROUP, kind="rwr"), rewards.tolist())
    check(group_advantages(rewards, ALL, GROUP, kind="sft"), [0, 1, 1, 1, 1, 1])
    check(group_advantages(rewards, ALL, GROUP, kind="dpo"), [-1, -1, 1, 1, 0, 0])


def test_dpo_without_a_pair_and_with_equal_valid_members_behind_an_invalid_one() -> None:
    valid = torch.tensor([False, True, True, False, False, False])
    check(group_advantages(REWARDS, valid, GROUP, kind="dpo"), [0.0] * 6)
    valid = torch.tensor([False, True, True, True, True, True])
    rewards = torch.tensor([9.0, 1.0, 4.0, 2.0, 4.0, 3.0])
    check(group_advantages(rewards, valid, GROUP, kind="dpo"), [0, -1, -1, 0, 1, 1])


@pytest.mark.parametrize("kind", ADVANTAGES)
@pytest.mark.parametrize("std", ["group", "global", "none"])
@pytest.mark.parametrize("ddof", [0, 1])
def test_an_invalid_sample_changes_nothing_but_its_own_advantage(kind: str, std: str, ddof: int) -> None:
    valid = torch.tensor([True, True, False, True, True, False])
    rewards = REWARDS.masked_fill(~valid, float("nan"))
    got = group_advantages(rewards, valid, GROUP, kind=kind, std=std, ddof=ddof)
    kept = group_advantages(REWARDS[valid], ALL[valid], GROUP[valid], kind=kind, std=std, ddof=ddof)
    assert torch.equal(got[valid], kept) and torch.equal(got[~valid], torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("eps", [0.0, 1e-8])
@pytest.mark.parametrize("ddof", [0, 1])
def test_equal_rewards_and_lonely_samples_get_exactly_zero(eps: float, ddof: int) -> None:
    # in float64 the mean of three 0.1 is not 0.1
    rewards, group = torch.tensor([0.1, 0.1, 0.1, 0.7], dtype=torch.float64), torch.tensor([0, 0, 0, 1])
    got = group_advantages(rewards, torch.ones(4, dtype=torch.bool), group, eps=eps, ddof=ddof)
    assert torch.equal(got, torch.zeros(4, dtype=torch.float64))


samples = st.lists(st.tuples(st.integers(-50, 50), st.integers(0, 2), st.booleans()), min_size=2, max_size=14)


@given(samples, st.randoms(use_true_random=False), st.sampled_from(["group", "global", "none"]))
def test_order_does_not_matter_shifts_vanish_and_scales_cancel(rows, random, std: str) -> None:
    rewards, group, valid = (torch.tensor(column) for column in zip(*rows, strict=True))
    rewards = rewards.double() / 8
    got = group_advantages(rewards, valid, group, std=std, eps=0.0)
    order = torch.tensor(random.sample(range(len(rows)), len(rows)))
    permuted = group_advantages(rewards[order], valid[order], group[order], std=std, eps=0.0)
    torch.testing.assert_close(permuted, got[order], rtol=1e-9, atol=1e-12)
    changed = group_advantages(4 * rewards + 3, valid, group * 5 - 9, std=std, eps=0.0)
    torch.testing.assert_close(changed, got * (4 if std == "none" else 1), rtol=1e-9, atol=1e-12)
    for owner in group.unique():
        assert abs(got[group == owner].sum().item()) < 1e-9


def test_a_users_own_function() -> None:
    def signs(rewards: Tensor, valid: Tensor, group: Tensor, **_) -> Tensor:
        return (rewards - 5).sign()

    check(group_advantages(REWARDS, ALL, GROUP, kind=signs), [-1, 1, -1, 1, 1, 1])


def test_normalise_then_weigh_ignores_scales_and_weigh_then_normalise_does_not() -> None:
    rewards = {"a": REWARDS, "b": REWARDS.flip(0)}
    weights = {"a": 0.7, "b": -0.2}

    def advantages(scale: float, combine: str) -> Tensor:
        scaled = {**rewards, "b": scale * rewards["b"]}
        return combined_advantages(scaled, ALL, GROUP, weights=weights, combine=combine, eps=0.0)

    each = [group_advantages(values, ALL, GROUP, eps=0.0) for values in rewards.values()]
    torch.testing.assert_close(advantages(1, "normalise_then_weigh"), 0.7 * each[0] - 0.2 * each[1])
    torch.testing.assert_close(advantages(100, "normalise_then_weigh"), advantages(1, "normalise_then_weigh"))
    total = group_advantages(0.7 * REWARDS - 20 * REWARDS.flip(0), ALL, GROUP, eps=0.0)
    torch.testing.assert_close(advantages(100, "weigh_then_normalise"), total, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(advantages(100, "weigh_then_normalise"), advantages(1, "weigh_then_normalise"))


def test_weight_zero_only_monitors_and_the_clamp_is_of_the_sum() -> None:
    rewards = {"a": REWARDS, "seen": torch.full((6,), float("nan"))}
    got = combined_advantages(rewards, ALL, GROUP, weights={"a": 3.0, "seen": 0.0}, std="none", clamp=9.0)
    check(got, [-6, -9, -3, 9, 9, 0])
    with pytest.raises(ValueError, match="no reward has a weight other than 0 among seen"):
        combined_advantages(rewards, ALL, GROUP, weights={"seen": 0.0})


def test_statistics() -> None:
    valid = torch.tensor([True, True, True, True, True, False])
    rewards = torch.tensor([1.0, 5.0, 3.0, 5.0, 2.0, float("nan")])
    got = group_statistics(rewards, valid, GROUP)
    assert got == pytest.approx(
        {"group_std": math.sqrt(2 / 3) / 2, "zero_std_groups": 0.5, "groups": 2, "group_size": 2.5}, rel=1e-12
    )
    unheard = group_statistics(rewards, valid & (GROUP == 7), GROUP)
    assert unheard == pytest.approx(
        {"group_std": math.sqrt(2 / 3), "zero_std_groups": 0, "groups": 1, "group_size": 3}, rel=1e-12
    )
    nothing = group_statistics(rewards, ~ALL, GROUP)
    assert nothing["zero_std_groups"] == 1 and nothing["groups"] == 0


def test_an_edge_gets_the_mean_of_the_valid_leaves_below_it() -> None:
    """A tree: edge 0 above leaves 0, 1, 2; edge 1 above leaf 2 alone; edge 2 above leaf 1, which is invalid."""
    leaf_of, edge_of = torch.tensor([2, 0, 1, 2, 1]), torch.tensor([0, 0, 0, 1, 2])
    values, valid = torch.tensor([1.0, 0.0, 4.0]), torch.tensor([True, False, True])
    advantages, heard = to_edges(values, valid, leaf_of, edge_of, edges=4)
    assert advantages.tolist() == [2.5, 4.0, 0.0, 0.0] and heard.tolist() == [True, True, False, False]


def test_on_chains_fusion_copies_bit_for_bit() -> None:
    values = torch.randn(5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    leaf_of = torch.arange(5).repeat_interleave(3)
    advantages, heard = to_edges(values, torch.ones(5, dtype=torch.bool), leaf_of, torch.arange(15), edges=15)
    assert torch.equal(advantages.reshape(5, 3), values[:, None].expand(5, 3)) and heard.all()


def test_errors_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"rewards, valid and group must be \[N\] of one length, got \(6,\), \(5,\)"):
        group_advantages(REWARDS, ALL[:5], GROUP)
    with pytest.raises(ValueError, match=r"must be finite; \[1\] are not"):
        group_advantages(REWARDS.masked_fill(REWARDS == 10, float("nan")), ALL, GROUP)
    with pytest.raises(RecipeError, match=r"objective.advantage: unknown name 'grop', .*did you mean 'grpo'"):
        group_advantages(REWARDS, ALL, GROUP, kind="grop")
