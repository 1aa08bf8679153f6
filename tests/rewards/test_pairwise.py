"""Tournaments as scorers: verdicts in, scores out; failures; a user's own judge; the pool that feeds them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from flowgrpo.advantages import combined_advantages
from flowgrpo.errors import RunError
from flowgrpo.recipe import Reward
from flowgrpo.rewarding import RewardPool
from reward_models import Scorer, ScorerError, check_name, load, win_matrix
from reward_models.pairwise import Tournament, by_pairs, pairwise_scorer
from reward_models.scores import as_scores, concatenate, take

JUDGES = """\
from reward_models import pairwise_judge

@pairwise_judge
def brighter(prompts, images_a, images_b, *, margin=0.0):
    gaps = (images_a - images_b).mean(dim=(1, 2, 3))
    return [0.5 if abs(gap) <= margin else float(gap > 0) for gap in gaps.tolist()]

@pairwise_judge
def silent(prompts, images_a, images_b):
    return [None] * len(prompts)

@pairwise_judge
def short(prompts, images_a, images_b):
    return [1.0]

def brightness(images, prompts, metadata):
    return images.mean(dim=(1, 2, 3))
"""


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "judges.py").write_text(JUDGES)
    return str(tmp_path / "judges.py")


def grey(*levels: float) -> Tensor:
    return torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, 3, 2, 2).clone()


def level(images: Tensor) -> Tensor:
    return images.mean(dim=(1, 2, 3))


def brighter(prompts: list[str], a: Tensor, b: Tensor) -> Tensor:
    return (level(a) - level(b)).sign() / 2 + 0.5


def scorer(judge=brighter, *, max_batch: int | None = None, **options) -> Scorer:
    tournament = Tournament(**options)
    return pairwise_scorer(by_pairs(judge), name="test", tournament=tournament, max_batch=max_batch, version="1")


def test_win_rates_of_two_groups_by_hand() -> None:
    """Group 4: 0.1 < 0.3 < 0.6; group 1: 0.5 = 0.5 > 0.2."""
    images, group = grey(0.3, 0.5, 0.1, 0.2, 0.6, 0.5), [4, 1, 4, 1, 4, 1]
    scores = scorer()(images, ["p" if g == 4 else "q" for g in group], group=group)
    assert scores.scores.tolist() == [0.5, 0.75, 0.0, 0.0, 1.0, 0.75]
    assert scores.components["comparisons"].tolist() == [2.0] * 6 and scores.valid.all() and not scores.errors
    assert len(scores.comparisons) == 6 and all(group[a] == group[b] for a, b, _ in scores.comparisons)
    assert win_matrix(scores.comparisons, [2, 0, 4]) == [[None, 0.0, 0.0], [1.0, None, 0.0], [1.0, 1.0, None]]


def test_the_judge_sees_the_pictures_of_its_pair_and_their_prompt() -> None:
    seen = []

    def judge(prompts: list[str], a: Tensor, b: Tensor) -> Tensor:
        seen.extend(zip(prompts, level(a).tolist(), level(b).tolist(), strict=True))
        return brighter(prompts, a, b)

    found = scorer(judge, max_batch=2)(grey(0.25, 0.5, 0.75, 1.0), ["x", "y", "x", "y"], group=[0, 1, 0, 1])
    assert {(text, *sorted(pair)) for text, *pair in seen} == {("x", 0.25, 0.75), ("y", 0.5, 1.0)}
    shown = {(first, second) for _, first, second in seen}
    assert shown == {(0.25 * (1 + a), 0.25 * (1 + b)) for a, b, _ in found.comparisons}


@pytest.mark.parametrize("limit", [1, 4, None])
def test_slices_of_comparisons_do_not_change_the_scores(limit: int | None) -> None:
    sizes: list[int] = []

    def watched(prompts: list[str], a: Tensor, b: Tensor) -> Tensor:
        sizes.append(len(prompts))
        return brighter(prompts, a, b)

    images = torch.rand(6, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    scores = scorer(watched, max_batch=limit)(images, [""] * 6, group=[0] * 6).scores
    assert torch.equal(scores.argsort(), level(images).argsort())
    assert sum(sizes) == 15 and max(sizes) == (limit or 15)


def test_the_options_reach_the_tournament() -> None:
    images, group = torch.rand(8, 3, 2, 2, generator=torch.Generator().manual_seed(1)), [0] * 8
    asked = {
        name: scorer(**options)(images, [""] * 8, group=group)
        for name, options in {
            "all": {},
            "both": {"both_orders": True},
            "some": {"rounds": 3},
            "strengths": {"rating": "bradley_terry"},
        }.items()
    }
    assert [len(s.comparisons) for s in asked.values()] == [28, 56, 12, 28]
    assert torch.equal(asked["all"].scores, asked["both"].scores)
    assert torch.equal(asked["all"].scores.argsort(), asked["strengths"].scores.argsort())
    assert asked["strengths"].scores.min() < 0 and scorer(rating="bradley_terry").range == (-math.inf, math.inf)


def test_the_seed_draws_the_order_and_first_wins_shows_a_liking_for_it() -> None:
    """28 fair coins: the order differs between seeds; a judge that looks at no picture wins for the first place."""

    def first(prompts: list[str], a: Tensor, b: Tensor) -> Tensor:
        return torch.ones(len(prompts))

    images, group = grey(*[0.5] * 8), [0] * 8
    one, two = (scorer(first)(images, [""] * 8, group=group, seed=(3, i)) for i in (1, 2))
    assert one.comparisons != two.comparisons and not torch.equal(one.scores, two.scores)
    assert one.components["first_wins"].tolist() == [1.0] * 8
    assert scorer()(images, [""] * 8, group=group).components["first_wins"].tolist() == [0.5] * 8


def test_invalid_verdicts_leave_and_a_sample_without_any_is_invalid() -> None:
    """Against 0.9 there is no verdict: that picture is invalid, the other two meet each other only."""

    def judge(prompts: list[str], a: Tensor, b: Tensor) -> Tensor:
        unclear = (level(a) > 0.8) | (level(b) > 0.8)
        return brighter(prompts, a, b).masked_fill(unclear, torch.nan)

    scores = scorer(judge)(grey(0.1, 0.9, 0.2), [""] * 3, group=[0] * 3)
    assert scores.scores.nan_to_num(-1).tolist() == [0.0, -1.0, 1.0] and scores.valid.tolist() == [True, False, True]
    assert scores.errors == {1: "none of its comparisons has a verdict; the first: the judge gave no verdict"}
    assert scores.components["comparisons"][[0, 2]].tolist() == [1.0, 1.0]
    assert sum(math.isnan(verdict) for *_, verdict in scores.comparisons) == 2


def test_an_exception_makes_its_comparisons_invalid() -> None:
    def judge(prompts: list[str], a: Tensor, b: Tensor) -> Tensor:
        if "bad" in prompts:
            raise OSError("asleep")
        return brighter(prompts, a, b)

    prompts = ["good", "good", "bad", "bad"]
    scores = scorer(judge, max_batch=1)(grey(0.1, 0.2, 0.3, 0.4), prompts, group=[0, 0, 1, 1])
    assert scores.scores[:2].tolist() == [0.0, 1.0] and scores.valid.tolist() == [True, True, False, False]
    assert scores.errors[3].endswith("the first: scorer 'test' raised OSError: asleep")


def test_groups_of_one_and_pictures_that_are_not_finite_have_no_score() -> None:
    images = grey(0.1, 0.2, 0.3, 0.4)
    images[1, 0, 0, 0] = torch.nan
    scores = scorer()(images, [""] * 4, group=[0, 1, 1, 0])
    assert scores.valid.tolist() == [True, False, False, True] and scores.scores[[0, 3]].tolist() == [0.0, 1.0]
    assert scores.errors[1] == "the picture holds values that are not finite"
    assert scores.errors[2] == "there is no other picture of its group to compare it with"
    assert [sorted(c[:2]) for c in scores.comparisons] == [[0, 3]], "positions are those of the whole batch"
    alone = scorer()(grey(0.1), [""], group=[0])
    assert not alone.valid.any() and alone.components["comparisons"].isnan().all() and alone.comparisons == ()
    assert len(scorer()(grey(), [], group=[])) == 0


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (torch.tensor([1.0, 1.0]), r"verdicts \[2\] for 1 comparisons; right would be one each"),
        (torch.tensor([1.5]), "the verdict 1.5; right would be 1 where the first picture wins"),
        (torch.tensor([-1.0]), "the verdict -1; right"),
    ],
)
def test_a_judge_that_answers_in_the_wrong_form_stops_the_run(answer: Tensor, words: str) -> None:
    with pytest.raises(ScorerError, match=words):
        scorer(lambda *_: answer)(grey(0.1, 0.2), ["", ""], group=[0, 0])


def test_single_pictures_mixed_prompts_and_wrong_groups_are_refused() -> None:
    with pytest.raises(ScorerError, match="'test' compares pictures of one prompt with each other"):
        scorer()(grey(0.1, 0.2), ["", ""])
    with pytest.raises(ScorerError, match="got group 3 with 'a' and 'b'; right would be one prompt per group"):
        scorer()(grey(0.1, 0.2), ["a", "b"], group=[3, 3])
    with pytest.raises(ScorerError, match="2 images and 1 groups"):
        scorer()(grey(0.1, 0.2), ["", ""], group=[0])


def test_names_of_pairwise_scorers_are_refused_where_pictures_are_single() -> None:
    check_name("preference")
    with pytest.raises(ValueError, match=r"'preference' compares pictures .* one of gold, gold_strict, clip"):
        check_name("preference", single=True)
    check_name("gold", single=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"rounds": 1}, "rounds is 1"), ({"rating": "win_rat"}, r"unknown rating 'win_rat' \(did you mean 'win_rate'")],
)
def test_wrong_tournaments_are_refused_at_once(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Tournament(**options)


def test_pointwise_scorers_ignore_groups() -> None:
    plain = Scorer(name="plain", version="1", function=lambda images, *_: as_scores(level(images)))
    images = grey(0.1, 0.4)
    assert torch.equal(plain(images, ["", ""]).scores, plain(images, ["a", "b"], group=[0, 0], seed=3).scores)


def test_scores_keep_their_comparisons_through_concatenate_and_take() -> None:
    part = scorer()(grey(0.1, 0.2, 0.3), [""] * 3, group=[0] * 3)
    whole = concatenate([as_scores(torch.zeros(2)), part])
    assert [(a - 2, b - 2, v) for a, b, v in whole.comparisons] == [tuple(c) for c in part.comparisons]
    kept = take(whole, [4, 0, 2])
    assert [(sorted(c[:2]), c.verdict == (c.first == 0)) for c in kept.comparisons] == [([0, 2], True)]


def test_eight_lines_are_a_judge(own: str) -> None:
    images, group = grey(0.1, 0.2, 0.9), [0] * 3
    judge = load(f"{own}:brighter")
    assert (judge.kind, judge.thread_safe, judge.range) == ("pairwise", False, (0.0, 1.0)) and len(judge.version) == 12
    assert judge(images, [""] * 3, group=group).scores.tolist() == [0.0, 0.5, 1.0]
    tied = load(f"{own}:brighter", margin=0.15, both_orders=True)(images, [""] * 3, group=group)
    assert tied.scores.tolist() == [0.25, 0.25, 1.0] and len(tied.comparisons) == 6
    silent = load(f"{own}:silent")(images, [""] * 3, group=group)
    assert not silent.valid.any() and len(silent.errors) == 3


def test_a_users_judge_is_checked(own: str) -> None:
    with pytest.raises(ScorerError, match=r"\[1\] numbers for 3 pairs; right would be \[3\], one per pair"):
        load(f"{own}:short")(grey(0.1, 0.2, 0.9), [""] * 3, group=[0] * 3)
    with pytest.raises(ScorerError, match=r"f\(prompts, images_a, images_b\) with options marginn"):
        load(f"{own}:brighter", marginn=1)
    with pytest.raises(ValueError, match="rounds is 0"):
        load(f"{own}:brighter", rounds=0)


def pool(own: str, **values) -> RewardPool:
    names = {f"{own}:brighter": 2.0, f"{own}:brightness": 1.0}
    return RewardPool.from_recipe(Reward(**{"names": names, "workers": 2, **values}), device="cpu")


def test_pairwise_and_pointwise_rewards_mix_over_batches(own: str) -> None:
    """Two batches of whole groups: each win rate is of its own group, and comparisons name samples of the iteration."""
    rewards_of, batches = pool(own), [(grey(0.1, 0.3, 0.2), [0, 0, 0]), (grey(0.9, 0.8, 0.4, 0.7), [1, 1, 2, 2])]
    for images, group in batches:
        rewards_of.submit(images, [str(g) for g in group], [{}] * len(group), group=group, seed=(0, 1))
    rewards = rewards_of.collect()
    rewards_of.abandon()
    judge, plain = rewards.scores
    assert rewards.scores[judge].tolist() == [0.0, 1.0, 0.5, 1.0, 0.0, 0.0, 1.0]
    assert list(rewards.comparisons) == [judge] and rewards.valid.all()
    group = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    assert all(group[a] == group[b] for a, b, _ in rewards.comparisons[judge]) and len(rewards.comparisons[judge]) == 5
    assert win_matrix(rewards.comparisons[judge], [5, 6]) == [[None, 0.0], [1.0, None]]
    assert rewards.components[f"{judge}.comparisons"].tolist() == [2.0] * 3 + [1.0] * 4
    mixed = combined_advantages(rewards.scores, rewards.valid, group, weights={judge: 2.0, plain: 1.0}, eps=0.0)
    assert mixed[3:].tolist() == pytest.approx([3.0, -3.0, -3.0, 3.0])


def test_the_same_groups_in_one_batch_or_two_get_the_same_comparisons(own: str) -> None:
    images, group = grey(*[0.1 * i for i in range(10)]), [0] * 5 + [1] * 5

    def compared(*cuts: slice) -> tuple:
        rewards_of = pool(own)
        for cut in cuts:
            count = len(group[cut])
            rewards_of.submit(images[cut], [""] * count, [{}] * count, group=group[cut], seed=(0, 1))
        (found,) = rewards_of.collect().comparisons.values()
        rewards_of.abandon()
        return found

    assert compared(slice(0, 5), slice(5, 10)) == compared(slice(0, 10))


def test_too_many_silent_comparisons_stop_the_run(own: str) -> None:
    rewards_of = pool(own, names={f"{own}:silent": 1.0})
    rewards_of.submit(grey(0.1, 0.2), ["", ""], [{}] * 2, group=[0, 0], seed=(0, 1))
    with pytest.raises(RunError, match=r"100% of the samples could not be scored.*none of its comparisons"):
        rewards_of.collect()
    rewards_of.abandon()
