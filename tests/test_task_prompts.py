"""Prompt sets of the text tasks: what their script writes, disjoint, checkable, and readable by the embedded model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from flowgrpo.assets import asset
from flowgrpo.prompts import load_prompts
from reward_models.tasks import Problem, generate, verify
from reward_models.tasks.expressions import evaluate
from reward_models.tasks.problems import is_held_out
from scripts.make_task_prompts import CATEGORIES, OPTIONS, SIZES, make_set, terms
from scripts.tiny_dllm_data import MISTAKES, SOLUTIONS, make_shelves
from scripts.tiny_dllm_models import make_tokenizer
from scripts.train_tiny_dllm import bound

IDENTITIES = {
    "arithmetic": lambda row: f"arithmetic:{sorted(terms(row['expression'])[::2])}:{terms(row['expression'])[1]}",
    "countdown": lambda row: f"countdown:{sorted(row['numbers'])}:{row['target']}",
    "sudoku": lambda row: f"sudoku:{row['solution']}",
}


@pytest.mark.parametrize("task", OPTIONS)
@pytest.mark.parametrize("split", SIZES)
def test_the_script_writes_the_files(task: str, split: str) -> None:
    loaded = load_prompts(f"tasks/{task}/{split}")
    rows = make_set(task, split, 0)
    assert [{"prompt": prompt.text, **prompt.metadata} for prompt in loaded.prompts] == rows
    assert len(rows) == SIZES[split] and loaded.warnings == ()
    assert {row["task"] for row in rows} == {task} and 3 <= len({row["category"] for row in rows}) <= 5


@pytest.mark.parametrize("task", OPTIONS)
def test_held_out_problems_were_never_trained_on(task: str) -> None:
    held_out = {prompt.text for prompt in load_prompts(f"tasks/{task}/heldout").prompts}
    assert not held_out & {prompt.text for prompt in load_prompts(f"tasks/{task}/train").prompts}
    assert not held_out & {problem.prompt for problem in generate(task, "train", seed=1000, count=800, **OPTIONS[task])}
    for split in SIZES:
        prompts = load_prompts(f"tasks/{task}/{split}").prompts
        assert {is_held_out(IDENTITIES[task](prompt.metadata)) for prompt in prompts} == {split == "heldout"}


def test_prompt_sets_are_small() -> None:
    files = sorted(Path(asset("prompts")).glob("tasks/*/*.jsonl"))
    assert len(files) == 6 and sum(file.stat().st_size for file in files) < 1.5 * 2**20
    assert all(json.loads(line)["task"] == file.parent.name for file in files for line in file.open())


def test_categories_say_what_is_hard() -> None:
    name = {text: CATEGORIES["arithmetic"]({"expression": text}) for text in ("1+2", "8+5", "31-8", "39-8", "8-31")}
    assert list(name.values()) == ["sum", "carry", "borrow", "difference", "negative"]
    assert CATEGORIES["countdown"]({"target": 29}) == "target to 29"
    assert CATEGORIES["sudoku"]({"puzzle": "0" * 8 + "1" * 8}) == "8 to 10 empty"


@pytest.mark.parametrize("task", OPTIONS)
def test_answers_that_are_learned_are_right_and_mistakes_are_wrong(task: str) -> None:
    changed = 0
    for problem in generate(task, "train", seed=5, count=200, **OPTIONS[task]):
        right = SOLUTIONS[task](problem)
        wrong = MISTAKES[task](problem, right)
        assert verify(right, problem.metadata).strict == 1
        # Adding instead of multiplying can be right by chance: 2*2 is 2+2.
        assert wrong == right or task == "countdown" or verify(wrong, problem.metadata).strict == 0
        changed += wrong != right
        if task == "sudoku":
            assert all(sorted(wrong[row : row + 4]) == list("1234") for row in range(0, 16, 4))
            assert all(cell in ("0", said) for cell, said in zip(problem.metadata["puzzle"], wrong, strict=True))
    assert 60 < changed < 200


def test_the_usual_mistakes_of_arithmetic() -> None:
    wrong = {"37+45": "72", "99+1": "90", "12+34": "46", "52-17": "45", "17-52": "35", "58-17": "41"}
    for expression, mistake in wrong.items():
        problem = Problem(f"{expression}=", {"expression": expression}, str(evaluate(expression)))
        assert MISTAKES["arithmetic"](problem, problem.solution) == mistake


def test_the_tokenizer_loses_nothing_and_begins_with_bos() -> None:
    tokenizer = make_tokenizer()
    for text in ("numbers 3 5 8 target 16", "37+45=", "sudoku 3002100421030321", "a  b , c\n(1+2)= ~x"):
        ids = tokenizer(text).input_ids
        assert ids[0] == tokenizer.bos_token_id and tokenizer.decode(ids, skip_special_tokens=True) == text
    assert len(tokenizer("numbers 3 5 8 target 16", add_special_tokens=False).input_ids) == 12
    assert tokenizer("é").input_ids[1] == tokenizer.unk_token_id


def test_shelves_hold_answers_that_end() -> None:
    tokenizer = make_tokenizer()
    shelves = make_shelves(tokenizer, 0, {"arithmetic": 50, "countdown": 50, "sudoku": 10})
    assert {shelf.task for shelf in shelves} == set(OPTIONS)
    for shelf in shelves:
        assert (shelf.prompts[:, 0] == tokenizer.bos_token_id).all() and shelf.right.shape == shelf.wrong.shape
        ended = (shelf.right == tokenizer.eos_token_id).any(1).all().item()
        assert ended == (shelf.task != "sudoku")
    assert sum(len(shelf.prompts) for shelf in shelves) == 110


def test_the_bound_of_a_model_that_ignores_its_input_is_exact() -> None:
    """Every count of masks gives the same mean then: the sum of -log p over the answer, per token."""

    class Fixed:
        config = type("config", (), {"mask_token_id": 0})

        def __call__(self, input_ids: torch.Tensor) -> object:
            assert ((input_ids == 0).any(1)).all() and (input_ids[:, :3] != 0).all()
            return type("output", (), {"logits": logits.expand(*input_ids.shape, 5)})

    logits = torch.tensor([0.0, 1.0, 2.0, 3.0, -1.0])
    ids = torch.full((4000, 7), 2)
    nats = -logits.log_softmax(0)[2].item()
    assert bound(Fixed(), ids, 4, torch.Generator().manual_seed(0)).item() == pytest.approx(nats, rel=1e-5)
    ids[:, 3:] = torch.tensor([1, 2, 3, 4])
    mean = -logits.log_softmax(0)[1:].mean().item()
    assert bound(Fixed(), ids, 4, torch.Generator().manual_seed(0)).item() == pytest.approx(mean, abs=0.03)
