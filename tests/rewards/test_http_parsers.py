"""Replies of judges: what is read from them, what is refused, and that nothing else ever happens."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_models import verdicts
from reward_models.http.parsers import Unreadable, checks, final_mark, marks, soft_verdict, yes_probability

EQUAL = {"Alignment": 1.0, "Coherence": 1.0, "Style": 1.0}


@pytest.mark.parametrize(
    "reply",
    [
        "Alignment Score (1-5): 4.5\nCoherence Score (1-5): 3\nStyle Score (1-5): 2.25",
        "**Alignment Score (1-5):** 4.5\n**Coherence Score**: **3**\n- style score = 2.25.",
        "Alignment: 1\nI think again.\nAlignment: 4.5/5, Coherence: 3/5, Style: 2.25/5",
    ],
)
def test_marks(reply: str) -> None:
    assert marks(reply) == {"Alignment": 4.5, "Coherence": 3.0, "Style": 2.25}


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "no mark for Alignment"),
        ("Alignment Score (1-5): 4\nStyle Score (1-5): 4", "no mark for Coherence"),
        ("Alignment: 4, Coherence: 45, Style: 4", "Coherence is 45, outside 1 to 5"),
        ("Alignment: 4, Coherence: 0, Style: 4", "Coherence is 0, outside"),
        ("Alignment: 4, Coherence: -3, Style: 4", "Coherence is -3, outside"),
        ("Alignment: X, Coherence: Y, Style: Z", "no mark for Alignment"),
        ("Alignment: 4, Coherence: nan, Style: 4", "no mark for Coherence"),
    ],
)
def test_marks_are_refused(reply: str, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        marks(reply)


def test_final_mark() -> None:
    assert final_mark("cat (animal): 1\nhat (thing): 0\nFinal Score: 3.67") == 3.67
    with pytest.raises(Unreadable):
        final_mark("Score: 3")


REPLY = """Alignment Score:
 Image 1: 0.435699999332428
 Image 2: 0.564300000667572

Coherence Score:
 Image 1: 0.25
 Image 2: 0.75

**Style Score:**
 Image 1: 1
 Image 2: 0
"""


def test_soft_verdict() -> None:
    """The layout is that of the model's published example."""
    assert soft_verdict(REPLY, EQUAL) == pytest.approx((0.435699999332428 + 0.25 + 1) / 3, abs=1e-12)
    assert soft_verdict(REPLY, {"Alignment": 0.0, "Coherence": 3.0, "Style": 1.0}) == pytest.approx(1.75 / 4)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("0.75", "0.85", "divides Coherence as 0.25 and 0.85"),
        ("Image 2: 0\n", "", "does not divide Style"),
        ("Coherence Score", "Quality", "does not divide Coherence"),
        ("Image 1: 1\n Image 2: 0\n", "Image 1: 1.5\n Image 2: -0.5\n", "divides Style as 1.5 and -0.5"),
    ],
)
def test_soft_verdicts_are_refused(old: str, new: str, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        soft_verdict(REPLY.replace(old, new), EQUAL)


def test_checks() -> None:
    found = checks("<analysis>['it is, red', \"it's square\"]</analysis>\n<score> [1, 0] </score>", 2)
    assert found.holds == (True, False)
    assert found.explanations == ("it is, red", "it's square")
    assert checks("<score>[true,false,1]</score>", 3).holds == (True, False, True)


@pytest.mark.parametrize("analysis", ["[broken, 'a']", "['only one']", "", "[" * 5000])
def test_an_unreadable_analysis_costs_the_explanations_only(analysis: str) -> None:
    found = checks(f"<analysis>{analysis}</analysis><score>[1, 1]</score>", 2)
    assert found.holds == (True, True) and found.explanations == ("", "")


@pytest.mark.parametrize("score", ["[1]", "[1, 0, 1]", "[1, 0.5]", "[]", "[1, None]", "yes and no", "[1, [0]]"])
def test_scores_are_refused(score: str) -> None:
    with pytest.raises(Unreadable, match="no list of 2 scores"):
        checks(f"<score>{score}</score>", 2)


def test_yes_probability() -> None:
    top = [("Yes", math.log(0.5)), (" no", math.log(0.2)), ("YES.", math.log(0.1)), ("Maybe", math.log(0.2))]
    assert yes_probability(top) == pytest.approx(0.6 / 0.8, abs=1e-12)
    assert yes_probability([("No", -0.1)]) == 0.0
    for silent in ([], [("Maybe", 0.0)], [("Yes", math.nan)]):
        with pytest.raises(Unreadable, match="neither Yes nor No"):
            yes_probability(silent)


PIECES = [
    *(
        "Alignment Score",
        "Coherence",
        "Style Score:",
        "Image 1: ",
        "Image 2:",
        "Final Score: ",
        "0.4",
        "0.6",
        "7",
        "(1-5)",
    ),
    *(
        "<score>",
        "</score>",
        "<analysis>",
        "</analysis>",
        "[1, 0]",
        "<answer>",
        "</answer>",
        "Image 1 is better",
        "tie",
    ),
    *('{"winner": "Image 1"', '"categories": [', "]", "}", "\n", ":", "**", "\x00", "9" * 400, "1e999"),
]
texts = st.one_of(st.text(max_size=200), st.lists(st.sampled_from(PIECES), max_size=25).map("".join))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(texts)
def test_any_text_is_read_or_refused(text: str) -> None:
    for read in (marks, final_mark, lambda reply: soft_verdict(reply, EQUAL), lambda reply: checks(reply, 2)):
        try:
            value = read(text)
        except Unreadable as error:
            assert "\n" not in str(error)
            continue
        numbers = value.values() if isinstance(value, dict) else [value] if isinstance(value, float) else []
        assert all(0 <= number <= 5 for number in numbers)
    for verdict in (verdicts.think(text), verdicts.edit(text), verdicts.flex(text).overall):
        assert math.isnan(verdict) or verdict in (0.0, 0.5, 1.0)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(["Yes", "no", "x"]), st.floats()), max_size=6))
def test_any_logprobs_are_read_or_refused(top: list[tuple[str, float]]) -> None:
    with contextlib.suppress(Unreadable):
        assert 0 <= yes_probability(top) <= 1
