"""Write the prompt sets of the text tasks: training and held-out problems of arithmetic, Countdown and 4x4 Sudoku.

Run `python -m scripts.make_task_prompts` from the repository root; the same seed writes the same bytes.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from reward_models.tasks import Problem, Split, generate

OPTIONS: dict[str, dict[str, Any]] = {"arithmetic": {"operators": "+-"}, "countdown": {}, "sudoku": {}}
"""Task -> options of its generator. Products of two digits would need more than a tiny model can learn."""

SIZES: dict[Split, int] = {"train": 2000, "heldout": 256}


def make_set(task: str, split: Split, seed: int) -> list[dict[str, Any]]:
    """The rows of one file.

    Args:
        task: Key of `OPTIONS`.
        split: "train" or "heldout"; which problems belong to a split is no matter of the seed.
        seed: Of the draw.

    Returns:
        `SIZES[split]` rows: prompt, what the verifier reads, and a category.
    """
    return [to_row(problem) for problem in generate(task, split, seed=seed, count=SIZES[split], **OPTIONS[task])]


def to_row(problem: Problem) -> dict[str, Any]:
    """The JSONL row of a problem."""
    category = CATEGORIES[problem.metadata["task"]](problem.metadata)
    return {"prompt": problem.prompt, **problem.metadata, "category": category}


def terms(expression: str) -> tuple[int, str, int]:
    """The two numbers of a sum or difference and the sign between them."""
    first, sign, second = re.fullmatch(r"(\d+)([+-])(\d+)", expression).groups()  # type: ignore[union-attr]
    return int(first), sign, int(second)


def _arithmetic(metadata: Mapping[str, Any]) -> str:
    first, sign, second = terms(metadata["expression"])
    if sign == "+":
        return "carry" if first % 10 + second % 10 > 9 else "sum"
    if first < second:
        return "negative"
    return "borrow" if first % 10 < second % 10 else "difference"


def _countdown(metadata: Mapping[str, Any]) -> str:
    return next(f"target to {limit}" for limit in (9, 29, 99) if metadata["target"] <= limit)


def _sudoku(metadata: Mapping[str, Any]) -> str:
    empty = metadata["puzzle"].count("0")
    return next(f"{low} to {high} empty" for low, high in ((4, 5), (6, 7), (8, 10)) if empty <= high)


CATEGORIES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "arithmetic": _arithmetic,
    "countdown": _countdown,
    "sudoku": _sudoku,
}


def main() -> None:
    """Write the six files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("assets/prompts/tasks"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for task in OPTIONS:
        (args.out / task).mkdir(parents=True, exist_ok=True)
        for split in SIZES:
            rows = make_set(task, split, args.seed)
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (args.out / task / f"{split}.jsonl").write_text(text, encoding="utf-8")
            print(f"{task} {split}: {len(rows)} problems")


if __name__ == "__main__":
    main()
