"""Scorers of whole groups: every group is judged by itself, and diversity is what its name says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from reward_models import ScorerError, check_name, load
from reward_models.groupwise import groupwise_scorer, mean_cosines
from reward_models.scores import Scores, as_scores

OWN = """\
from reward_models import groupwise_reward

@groupwise_reward
def novelty(images, prompts, metadata, *, power=1):
    if prompts[0] == "broken":
        raise RuntimeError("no")
    return ((images - images.mean(0)).abs().mean((1, 2, 3)) ** power).tolist()
"""


def pictures(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def test_mean_cosines_by_hand() -> None:
    found = mean_cosines(torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]]))
    half = 0.5**0.5
    assert found.tolist() == pytest.approx([half / 2, half / 2, half])
    assert mean_cosines(torch.ones(1, 4)).isnan().all()


def test_equal_pictures_have_no_diversity_and_different_ones_have() -> None:
    scorer = load("clip_diversity")
    assert scorer.kind == "groupwise" and scorer.range == (0.0, 2.0)
    different = pictures(3)
    images = torch.cat([different[:1].expand(3, -1, -1, -1), different])
    prompts, group = ["a"] * 3 + ["b"] * 3, [0, 0, 0, 1, 1, 1]
    scores = scorer(images, prompts, group=group).scores
    assert scores[:3].abs().max() < 1e-6 and scores[3:].min() > 1e-4
    mixed = [3, 0, 4, 1, 5, 2]
    again = scorer(images[mixed], [prompts[i] for i in mixed], group=[group[i] for i in mixed]).scores
    torch.testing.assert_close(again, scores[mixed], atol=1e-6, rtol=0)
    alone = scorer(images[:1], ["a"], group=[7])
    assert not alone.valid.any() and "no other picture" in alone.errors[0]


def test_a_failing_group_leaves_the_others(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    scorer = load(f"{tmp_path}/own.py:novelty", power=2)
    images = pictures(5)
    scores = scorer(images, ["a", "broken", "a", "broken", "c"], group=[0, 1, 0, 1, 2])
    assert scores.valid.tolist() == [True, False, True, False, True] and "RuntimeError: no" in scores.errors[1]
    gap = (images[0] - images[2]).abs().mean() / 2
    assert scores.scores[[0, 2]].tolist() == pytest.approx([gap.item() ** 2] * 2) and scores.scores[4] == 0


def test_misuse() -> None:
    def count(images: Tensor, prompts: list[str], metadata: object) -> Scores:
        return as_scores(torch.full((len(images),), float(len(images))))

    scorer = groupwise_scorer(count, name="count", version="1")
    assert scorer(pictures(3), ["a", "b", "a"], group=[0, 1, 0]).scores.tolist() == [2, 1, 2]
    with pytest.raises(ScorerError, match="has no score for single ones"):
        scorer(pictures(2), ["a", "a"])
    with pytest.raises(ScorerError, match="one group with 'a' and 'b'; right would be one prompt per group"):
        scorer(pictures(2), ["a", "b"], group=[0, 0])
    with pytest.raises(ValueError, match="'clip_diversity' compares pictures of one prompt"):
        check_name("clip_diversity", single=True)
