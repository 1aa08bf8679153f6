"""The verifier as a scorer; its own accuracy is tested beside it."""

from __future__ import annotations

import numpy as np
import torch

from reward_models import load
from reward_models.shapes import parse, render

CAPTIONS = ("a red circle", "two blue squares", "a green cross above a white triangle")


def images(captions=CAPTIONS) -> torch.Tensor:
    drawn = [render(parse(text), np.random.default_rng(i)) for i, text in enumerate(captions)]
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float() / 255


def test_faithful_pictures_meet_everything() -> None:
    partial, strict = load("gold")(images(), CAPTIONS), load("gold_strict")(images(), CAPTIONS)
    assert partial.scores.tolist() == partial.components["strict"].tolist() == [1.0] * 3
    assert strict.scores.tolist() == strict.components["partial"].tolist() == [1.0] * 3


def test_one_wrong_attribute_costs_its_clause() -> None:
    wrong = ("a blue circle", "three blue squares", "a green cross below a white triangle")
    scores = load("gold")(images(), wrong)
    torch.testing.assert_close(scores.scores, torch.tensor([2 / 3, (2 / 3 + 2 / 3 + 2 / 3) / 3, 3 / 4]).double())
    assert scores.components["strict"].tolist() == [0.0] * 3 == load("gold_strict")(images(), wrong).scores.tolist()


def test_a_caption_outside_the_world_is_invalid_and_says_why() -> None:
    scores = load("gold")(images(), ("a red circle", "a photo of a cat", CAPTIONS[2]))
    assert scores.valid.tolist() == [True, False, True]
    assert scores.scores[1].isnan() and scores.components["strict"][1].isnan()
    assert "'photo'" in scores.errors[1] and "outside the world" in scores.errors[1]


def test_a_picture_of_another_size_is_invalid_and_says_why() -> None:
    scores = load("gold")(torch.rand(2, 3, 32, 32), CAPTIONS[:2])
    assert not scores.valid.any() and "[B, 3, 64, 64]" in scores.errors[0]


def test_both_readings_share_a_version_that_follows_the_source() -> None:
    partial, strict = load("gold"), load("gold_strict")
    assert partial.version == strict.version and len(partial.version) == 12
    assert partial.range == (0.0, 1.0) and partial.thread_safe and partial.deterministic
