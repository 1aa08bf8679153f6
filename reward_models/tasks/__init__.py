"""Text tasks whose answers can be checked exactly: generators, verifiers and files. Pure Python, bar
math-verify in a process of its own for the task `math`.

problems = generate("countdown", "train", seed=0, count=1000)
verdict = verify("<answer>2*4-3</answer>", problems[0].metadata)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from reward_models.importing import near
from reward_models.tasks import arithmetic, countdown, maths, sudoku
from reward_models.tasks.answers import extract_answer, format_reward
from reward_models.tasks.problems import Problem, Split, TaskError, Verdict

__all__ = [
    "GENERATORS",
    "VERIFIERS",
    "Problem",
    "Split",
    "TaskError",
    "Verdict",
    "extract_answer",
    "format_reward",
    "generate",
    "verify",
]

GENERATORS: dict[str, Callable[..., list[Problem]]] = {
    "arithmetic": arithmetic.generate,
    "countdown": countdown.generate,
    "sudoku": sudoku.generate,
}
"""Task -> (split, *, seed, count, style, its own options) -> problems."""

VERIFIERS: dict[str, Callable[[str, Mapping[str, Any]], Verdict]] = {
    "arithmetic": arithmetic.verify,
    "countdown": countdown.verify,
    "gsm8k": maths.verify_number,
    "math": maths.verify_expression,
    "sudoku": sudoku.verify,
}
"""Task -> (text of the model, metadata of the problem) -> verdict."""


def generate(task: str, split: Split, *, seed: int, count: int, **options: Any) -> list[Problem]:
    """Problems of one split; no problem of one split occurs in the other, whatever the seeds.

    Args:
        task: key of `GENERATORS`.
        split: "train" or "heldout".
        seed: equal seeds give equal problems, and a smaller count a prefix of them.
        count: number of problems, all different.
        **options: `style` and the task's own.

    Raises:
        TaskError: unknown task, split or style, or the options allow fewer than `count` problems.
    """
    if task not in GENERATORS:
        raise TaskError(
            f"no generator for task {task!r}{near(task, list(GENERATORS))}; there are {', '.join(GENERATORS)}"
        )
    return GENERATORS[task](split, seed=seed, count=count, **options)


def verify(text: str, metadata: Mapping[str, Any]) -> Verdict:
    """Check what a model wrote for a problem.

    Args:
        text: the completion without special tokens.
        metadata: of the problem; `task` names the verifier.

    Raises:
        TaskError: the metadata belong to no known task.
    """
    task = metadata.get("task")
    if task not in VERIFIERS:
        raise TaskError(f"metadata need a task, one of {', '.join(VERIFIERS)}; got {task!r}")
    return VERIFIERS[task](text, metadata)
