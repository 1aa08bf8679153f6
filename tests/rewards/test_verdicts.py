"""Judges' replies as verdicts."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reward_models.comparisons import Pair
from reward_models.verdicts import FlexReply, category_mean, category_rates, edit, flex, flex_mix, think

NONE = math.nan


def same(got: float, want: float) -> bool:
    return got == want or (math.isnan(got) and math.isnan(want))


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("<think>Image 1 is better</think>\n<answer>\nImage 2 is better </answer>", 0.0),
        ("<answer>Image 1 is better</answer>", 1.0),
        ("<answer>Image 2 is better</answer><answer>Image 1 is better</answer>", 0.0),
        ("<answer>Image 2 is worse, so Image 1 is better; Image 2 is better only in color</answer>", 1.0),
        ("<answer>Both images are equally good</answer>", 0.5),
        ("<answer>It is a tie.</answer>", 0.5),
        ("<answer>neither image is better</answer>", 0.5),
        ("<answer>The two are not equally good</answer>", NONE),
        ("<answer>image 2 is better</answer>", NONE),
        ("<ANSWER>Image 1 is better</ANSWER>", NONE),
        ("Image 1 is better", NONE),
        ("both are equally good", NONE),
        ("<answer></answer>", NONE),
        ("<answer>Image 1 is better", NONE),
        ("", NONE),
    ],
)
def test_think(text: str, want: float) -> None:
    assert same(think(text), want)


def test_think_of_videos() -> None:
    labels = {"first": "Video 1 is better", "second": "Video 2 is better"}
    assert think("<answer>Video 2 is better</answer>", **labels) == 0.0
    assert math.isnan(think("<answer>Image 1 is better</answer>", **labels))


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("Edited Image 1 is better.", 1.0),
        ("<ANSWER>edited image 2 is better</ANSWER>", 0.0),
        ("After reflection, EDITED IMAGE 2 IS BETTER", 0.0),
        ("<answer>unsure</answer> but Edited image 1 is better", 1.0),
        ("Edited image 1 is better in colour. <answer>They are equally good</answer>", 0.5),
        ("The light is equal in both.\nI cannot tell.", NONE),
        ("Long thoughts.\nIt is a draw", 0.5),
        ("no idea", NONE),
        ("", NONE),
    ],
)
def test_edit(text: str, want: float) -> None:
    assert same(edit(text), want)


def reply(winner: str, *categories: tuple[str, str]) -> str:
    listed = [{"name": name, "cat_winner": won} for name, won in categories]
    return json.dumps({"categories": listed, "winner": winner})


@pytest.mark.parametrize(
    ("winner", "want"),
    [
        ("Image 1", 1.0),
        ("VIDEO 2 wins", 0.0),
        ("Image 1 and Image 2", 0.5),
        ("tie", 0.5),
        ("Image 12", NONE),
        ("the left one", NONE),
        ("", NONE),
    ],
)
def test_flex_winners(winner: str, want: float) -> None:
    found = flex(reply(winner, ("A", winner)))
    assert same(found.overall, want) and same(found.categories[0][1], want)


def test_flex_between_other_words_with_unnamed_and_surplus_categories() -> None:
    text = reply("Image 2", ("A", "Image 1"), ("", "Image 2"), ("C", "tie"), ("D", "Image 1"))
    assert flex(f"```json\n{text}\n``` done") == FlexReply(0.0, (("A", 1.0), ("category", 0.0), ("C", 0.5)))


@pytest.mark.parametrize(
    "text", ["", "not json", "[1]", "{", "{}", '{"winner": 3}', '{"winner": null, "categories": "A"}', "}{", "[" * 9999]
)
def test_flex_that_cannot_be_read_has_no_verdict(text: str) -> None:
    found = flex(text)
    assert math.isnan(found.overall) and found.categories == ()


@given(st.text(max_size=60), st.sampled_from(["{}", "<answer>{}</answer>", '{{"winner": "{}", "categories": [{}]}}']))
def test_any_text_is_read_without_an_error(text: str, form: str) -> None:
    filled = form.replace("{}", text)
    for verdict in (think(filled), edit(filled), flex(filled).overall):
        assert math.isnan(verdict) or verdict in (0.0, 0.5, 1.0)


def test_category_rates_count_only_replies_that_carry_them() -> None:
    replies = [FlexReply(1.0, (("A", 1.0), ("B", 0.5))), FlexReply(0.0, (("A", 0.0),)), FlexReply(NONE)]
    rates = category_rates([Pair(0, 1), Pair(0, 2), Pair(1, 2)], replies, [0, 0, 0])
    assert list(rates) == ["A", "B"]
    assert rates["A"].tolist() == [0.5, 0.0, 1.0] and rates["B"][:2].tolist() == [0.5, 0.5] and rates["B"][2].isnan()
    mean = category_mean(rates, (1.0, 3.0), count=3)
    assert mean.tolist() == [0.5, 0.375, 1.0]
    assert category_mean(rates, (3.0,), count=3)[1] == (3 * 0.0 + 0.5) / 4, "the second weighs 1"
    assert category_mean({}, (1.0,), count=2).isnan().all()


def test_flex_mix_is_the_intended_formula() -> None:
    overall, mean = torch.tensor([0.5, 1.0], dtype=torch.float64), torch.tensor([0.25, NONE], dtype=torch.float64)
    mixed = flex_mix(overall, mean, overall_weight=0.3, category_weight=0.7)
    assert mixed.tolist() == pytest.approx([0.3 * 0.5 + 0.7 * 0.25, 1.0], rel=1e-12)
    assert torch.equal(flex_mix(overall, mean, category_weight=0.0), overall)
