"""Calls, slices, failures: what holds for every reward model."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from reward_models import Scorer, ScorerError, Scores
from reward_models.registry import SCORERS
from reward_models.scores import as_scores, concatenate, failed, take


def pictures(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def brightness(images: Tensor, prompts: list[str], metadata: list) -> Scores:
    return as_scores(images.mean(dim=(1, 2, 3)), components={"red": images[:, 0].mean(dim=(1, 2))})


def scorer(function=brightness, **card) -> Scorer:
    return Scorer(name="test", version="1", function=function, **card)


def test_scores_are_float64_and_in_order() -> None:
    images = pictures(5)
    scores = scorer()(images, [""] * 5)
    assert scores.scores.dtype == torch.float64 and scores.valid.all() and not scores.errors
    assert torch.equal(scores.scores, images.mean(dim=(1, 2, 3)).double())


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 100])
def test_slices_have_the_limit_and_do_not_change_the_scores(limit: int) -> None:
    seen: list[int] = []

    def watched(images: Tensor, prompts: list[str], metadata: list) -> Scores:
        assert [int(p) for p in prompts] == [row["i"] for row in metadata]
        seen.append(len(images))
        return brightness(images, prompts, metadata)

    images, names, rows = pictures(5), [str(i) for i in range(5)], [{"i": i} for i in range(5)]
    scores = scorer(watched, max_batch=limit)(images, names, rows)
    assert torch.equal(scores.scores, images.mean(dim=(1, 2, 3)).double())
    assert max(seen) <= limit and sum(seen) == 5 and len(seen) == math.ceil(5 / limit)


@pytest.mark.parametrize(
    "error", [torch.cuda.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("not enough memory: x")]
)
def test_out_of_memory_halves_the_slice_and_keeps_it(error: Exception) -> None:
    seen: list[int] = []

    def hungry(images: Tensor, prompts: list[str], metadata: list) -> Scores:
        seen.append(len(images))
        if len(images) > 2:
            raise error
        return brightness(images, prompts, metadata)

    scores = scorer(hungry, max_batch=8)(pictures(7), [""] * 7)
    assert scores.valid.all() and seen == [7, 3, *[1] * 7]
    assert torch.equal(scores.scores, brightness(pictures(7), [], []).scores)


def test_out_of_memory_at_one_picture_is_that_pictures_failure() -> None:
    def greedy(images: Tensor, prompts: list[str], metadata: list) -> Scores:
        if len(images) > 1 or prompts == ["big"]:
            raise MemoryError("no room")
        return brightness(images, prompts, metadata)

    scores = scorer(greedy)(pictures(3), ["", "big", ""])
    assert scores.valid.tolist() == [True, False, True]
    assert scores.errors == {1: "scorer 'test' raised MemoryError: no room"}


def test_an_exception_makes_its_slice_invalid_and_never_zero() -> None:
    def picky(images: Tensor, prompts: list[str], metadata: list) -> Scores:
        if "bad" in prompts:
            raise RuntimeError("cannot\nread this")
        return brightness(images, prompts, metadata)

    scores = scorer(picky, max_batch=2, components=("red",))(pictures(5), ["", "", "bad", "", ""])
    assert scores.valid.tolist() == [True, True, False, False, True]
    assert scores.scores[2:4].isnan().all() and scores.components["red"][2:4].isnan().all()
    assert scores.errors[3] == "scorer 'test' raised RuntimeError: cannot read this"


def test_declared_components_are_there_when_everything_failed() -> None:
    def broken(images: Tensor, prompts: list[str], metadata: list) -> Scores:
        raise ValueError("no")

    scores = scorer(broken, components=("red",))(pictures(2), ["", ""])
    assert scores.components["red"].isnan().all() and not scores.valid.any() and set(scores.errors) == {0, 1}


def test_pictures_that_are_not_finite_are_not_shown_to_the_model() -> None:
    shown: list[str] = []

    def watched(images: Tensor, prompts: list[str], metadata: list) -> Scores:
        shown.extend(prompts)
        return brightness(images, prompts, metadata)

    images = pictures(4)
    images[1, 0, 0, 0] = torch.nan
    images[2, 2, 7, 7] = torch.inf
    scores = scorer(watched)(images, ["a", "b", "c", "d"])
    assert shown == ["a", "d"] and scores.valid.tolist() == [True, False, False, True]
    assert torch.equal(scores.scores[[0, 3]], images[[0, 3]].mean(dim=(1, 2, 3)).double())
    assert scores.errors[1] == scores.errors[2] == "the picture holds values that are not finite"


def test_values_outside_the_range_are_clamped_and_the_input_stays() -> None:
    images = pictures(1) * 4 - 2
    before = images.clone()
    assert scorer()(images, [""]).scores.item() == pytest.approx(images.clamp(0, 1).mean().item())
    assert torch.equal(images, before)


def test_no_gradient_is_recorded() -> None:
    images = pictures(1).requires_grad_()

    def watched(images: Tensor, prompts: list[str], metadata: list) -> Scores:
        assert not torch.is_grad_enabled()
        return brightness(images, prompts, metadata)

    assert scorer(watched)(images, [""]).valid.all()


@pytest.mark.parametrize(
    ("images", "prompts", "metadata", "words"),
    [
        (torch.rand(2, 3, 8, 8), ["a"], None, "2 images, 1 prompts and 1 metadata"),
        (torch.rand(2, 3, 8, 8), ["a", "b"], [{}], "2 images, 2 prompts and 1 metadata"),
        (torch.rand(2, 8, 8, 3), ["a", "b"], None, r"\(2, 8, 8, 3\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), ["a"], None, "uint8"),
    ],
)
def test_wrong_calls_say_what_was_given(images: Tensor, prompts: list[str], metadata: list, words: str) -> None:
    with pytest.raises(ScorerError, match=words):
        scorer()(images, prompts, metadata)


def test_an_empty_batch_is_empty() -> None:
    scores = scorer(components=("red",))(pictures(0), [])
    assert len(scores) == 0 and scores.components["red"].shape == (0,)


def test_a_model_that_answers_in_the_wrong_form_stops_the_run() -> None:
    with pytest.raises(ScorerError, match="2 scores for 3 samples"):
        scorer(lambda images, prompts, metadata: failed(2, "x"))(pictures(3), [""] * 3)
    with pytest.raises(ScorerError, match="returned list"):
        scorer(lambda images, prompts, metadata: [1.0])(pictures(1), [""])


def test_scores_refuse_a_valid_nan_and_an_invalid_number() -> None:
    with pytest.raises(ScorerError, match="finite"):
        Scores(torch.tensor([math.nan]), torch.tensor([True]))
    with pytest.raises(ScorerError, match="finite"):
        Scores(torch.tensor([0.0]), torch.tensor([False]))
    with pytest.raises(ScorerError, match="one number per sample"):
        Scores(torch.tensor([0.0]), torch.tensor([True, True]))


def test_concatenate_shifts_errors_and_take_follows_rows() -> None:
    whole = concatenate([as_scores(torch.tensor([1.0, math.inf])), failed(1, "late"), as_scores(torch.tensor([4.0]))])
    assert whole.errors == {1: "the score is inf, not a finite number", 2: "late"}
    part = take(whole, [3, 2, 0])
    assert part.scores.nan_to_num(-1).tolist() == [4.0, -1.0, 1.0] and part.errors == {1: "late"}


def test_the_documentation_tells_direction_cost_and_licence_of_every_scorer() -> None:
    page = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text(encoding="utf-8")
    table = page.partition("## Direction, cost and licence")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`([^`]+)`", row[0])]
    assert sorted(named) == sorted(SCORERS) and all(len(row) == 4 and all(map(str.strip, row)) for row in rows)
