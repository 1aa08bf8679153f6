"""What tiny-dllm learns from: problems with answers, a share of which has the usual mistake of its task."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import permutations, product
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from reward_models.tasks import Problem, generate
from reward_models.tasks.expressions import ExpressionError, evaluate
from scripts.make_task_prompts import OPTIONS, terms

POOL = {"arithmetic": 12000, "countdown": 7500, "sudoku": 6000}
"""Problems per task, all of the split "train"."""
WINDOWS = {"arithmetic": 8, "countdown": 8, "sudoku": 16}
"""Tokens of an answer with the end tokens behind it; now and then the longest of them is used for all."""
SHARES = {"arithmetic": 0.4, "countdown": 0.4, "sudoku": 0.2}
"""How often a batch is of the task."""


@dataclass(frozen=True, slots=True)
class Shelf:
    """Problems of one task whose prompts have equally many tokens, so that a batch needs no padding.

    Attributes:
        task: of all.
        prompts: token ids [N, P].
        right: right answers, filled up with end tokens [N, longest window].
        wrong: answers with the task's usual mistake, the right ones where a problem has none.
    """

    task: str
    prompts: Tensor
    right: Tensor
    wrong: Tensor


def make_shelves(tokenizer: PreTrainedTokenizerFast, seed: int, pool: Mapping[str, int] = POOL) -> list[Shelf]:
    """All training problems, shelved by task and length of the prompt."""
    rows: dict[tuple[str, int], list[tuple[list[int], list[int], list[int]]]] = {}
    for task, count in pool.items():
        for problem in generate(task, "train", seed=1000 + seed, count=count, **OPTIONS[task]):
            answer = SOLUTIONS[task](problem)
            texts = (problem.prompt, answer, MISTAKES[task](problem, answer))
            prompt, right, wrong = (tokenizer(text, add_special_tokens=False).input_ids for text in texts)
            rows.setdefault((task, len(prompt)), []).append(([tokenizer.bos_token_id, *prompt], right, wrong))
    return [_shelf(task, found, tokenizer.eos_token_id) for (task, _), found in rows.items()]


def _shelf(task: str, rows: list[tuple[list[int], list[int], list[int]]], eos: int) -> Shelf:
    prompts, right, wrong = zip(*rows, strict=True)
    longest = max(WINDOWS.values())
    answers = (torch.tensor([ids + [eos] * (longest - len(ids)) for ids in column]) for column in (right, wrong))
    return Shelf(task, torch.tensor(prompts), *answers)


def draw_batch(shelves: list[Shelf], rng: random.Random, rows: int, mistaken: float) -> tuple[Tensor, int]:
    """Texts of one shelf.

    Args:
        shelves: All; a shelf's chance is its task's share times its part of the task's problems.
        rng: Source of all choices.
        rows: How many texts.
        mistaken: Chance of each text to have the usual mistake.

    Returns:
        Token ids [rows, P + window], and the window.
    """
    sizes = {task: sum(len(shelf.prompts) for shelf in shelves if shelf.task == task) for task in SHARES}
    chances = [SHARES[shelf.task] * len(shelf.prompts) / sizes[shelf.task] for shelf in shelves]
    shelf = rng.choices(shelves, chances)[0]
    window = max(WINDOWS.values()) if rng.random() < 1 / 8 else WINDOWS[shelf.task]
    picked = torch.tensor([rng.randrange(len(shelf.prompts)) for _ in range(rows)])
    faulty = torch.tensor([rng.random() < mistaken for _ in range(rows)]).unsqueeze(1)
    answers = torch.where(faulty, shelf.wrong[picked], shelf.right[picked])[:, :window]
    return torch.cat([shelf.prompts[picked], answers], dim=1), window


def _first_expression(problem: Problem) -> str:
    """One expression per numbers and target, whichever way the generator came upon it: less to guess."""
    return _expressions(tuple(sorted(problem.metadata["numbers"])))[problem.metadata["target"]]


@cache
def _expressions(numbers: tuple[int, ...]) -> dict[int, str]:
    """Whole value -> the shortest expression of three numbers, the first in the alphabet of them."""
    found: dict[int, str] = {}
    for text in sorted(_spelled(numbers), key=lambda text: (len(text), text)):
        try:
            value = evaluate(text)
        except ExpressionError:
            continue
        if value.denominator == 1:
            found.setdefault(int(value), text)
    return found


def _spelled(numbers: tuple[int, ...]) -> Iterator[str]:
    for (a, b, c), (p, q) in product(sorted(set(permutations(numbers))), product("+-*/", repeat=2)):
        yield from (f"{a}{p}{b}{q}{c}", f"({a}{p}{b}){q}{c}", f"{a}{p}({b}{q}{c})")


def no_carry(problem: Problem, answer: str) -> str:
    """What comes out of a sum or difference where carries, borrowed tens and the sign are forgotten."""
    first, sign, second = terms(problem.metadata["expression"])
    if sign == "-" and first < second:
        return answer.removeprefix("-")
    way = 1 if sign == "+" else -1
    return str((first // 10 + way * (second // 10)) * 10 + (first % 10 + way * (second % 10)) % 10)


def added(problem: Problem, answer: str) -> str:
    """An expression that adds where it should first multiply."""
    return answer.replace("*", "+", 1)


def by_rows(problem: Problem, answer: str) -> str:
    """A grid whose rows are filled with the digits that they lack, in order, whatever columns and boxes say."""
    size = math.isqrt(len(answer))
    grid = problem.metadata["puzzle"]
    rows = [grid[start : start + size] for start in range(0, len(grid), size)]
    digits = [iter(sorted(set(map(str, range(1, size + 1))) - set(row))) for row in rows]
    return "".join(
        next(missing) if cell == "0" else cell for row, missing in zip(rows, digits, strict=True) for cell in row
    )


SOLUTIONS: dict[str, Callable[[Problem], str]] = {
    "arithmetic": lambda problem: problem.solution,
    "countdown": _first_expression,
    "sudoku": lambda problem: problem.solution,
}
MISTAKES: dict[str, Callable[[Any, str], str]] = {"arithmetic": no_carry, "countdown": added, "sudoku": by_rows}
