"""Text rewards as scorers: the verifiers' numbers, and metadata that fit no problem."""

from __future__ import annotations

import pytest
import torch

from reward_models import SCORERS, ScorerError, check_name, load
from reward_models.registry import TEXT
from reward_models.tasks import d1, generate, verify


def test_solutions_get_full_marks_and_nonsense_gets_what_verify_says() -> None:
    problems = [
        one for name in ("arithmetic", "countdown", "sudoku") for one in generate(name, "train", seed=0, count=3)
    ]
    prompts, rows = [one.prompt for one in problems], [one.metadata for one in problems]
    for name, other in (("task", "strict"), ("task_strict", "partial")):
        good = load(name)([one.solution for one in problems], prompts, rows)
        assert good.scores.tolist() == good.components[other].tolist() == [1.0] * 9
    bad = load("task")(["<answer>7</answer>"] * 9, prompts, rows)
    assert bad.scores.tolist() == [verify("<answer>7</answer>", row).partial for row in rows]
    assert bad.scores.max() > 0
    assert load("task_strict")(["<answer>7</answer>"] * 9, prompts, rows).scores.tolist() == [0.0] * 9


def test_metadata_of_no_problem_are_invalid_and_not_zero() -> None:
    got = load("task")(
        ["<answer>3</answer>"] * 2, ["p"] * 2, [{"task": "chess"}, {"task": "gsm8k", "answer": "3", "tagged": True}]
    )
    assert got.valid.tolist() == [False, True] and got.scores[1] == 1 and "got 'chess'" in got.errors[0]
    lost = load("d1")(["x"], ["p"], [{"task": "gsm8k"}])
    assert not lost.valid.any() and "metadata lack 'answer'" in lost.errors[0]
    assert "one of gsm8k" in load("d1")(["x"], ["p"]).errors[0]


def test_d1_is_the_sum_of_the_published_parts() -> None:
    text = "<reasoning>\nadd\n</reasoning>\n<answer>\n42\n</answer>\n"
    got = load("d1")([text, text], ["p"] * 2, [{"task": "gsm8k", "answer": "42"}, {"task": "math", "solution": "42"}])
    assert got.scores[0].item() == d1.gsm8k_rewards(text, "42")["total"] > 2.5
    assert got.scores[1].item() == sum(d1.math_rewards(text, "42").values())


def test_forms() -> None:
    form = "<reasoning>a</reasoning><answer>b</answer>"
    assert load("answer_format")([form, "b"], ["p"] * 2).scores.tolist() == [1.0, 0.0]
    code = "Here:\n```python\nx = 1\n```\n"
    assert load("code_format")([code, code.replace("= 1", "="), "x"], ["p"] * 3).scores.tolist() == [1.0, 0.5, 0.0]


@pytest.mark.parametrize("samples", ["text", torch.rand(1, 3, 4, 4), [1]])
def test_only_lists_of_texts_are_read(samples: object) -> None:
    with pytest.raises(ScorerError, match="reads texts; got a"):
        load("task")(samples, ["p"])


def test_lengths_must_agree_and_the_card_says_text() -> None:
    with pytest.raises(ScorerError, match="got 2 texts, 1 prompts and 1 metadata"):
        load("task")(["a", "b"], ["p"])
    assert set(SCORERS) >= TEXT and all(load(name).media == "text" for name in TEXT)
    with pytest.raises(ValueError, match="scorer 'task' reads texts"):
        check_name("task", single=True)
