"""Problems, verdicts, and the split of all problems into those for training and those that are held out."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Split = Literal["train", "heldout"]

HELD_OUT_SHARE = 5
"""One of so many problems is held out."""
PATIENCE = 2000
"""Candidates in a row that bring nothing new before a generator gives up."""


class TaskError(ValueError):
    """A task was asked for what it does not have, or a file of problems is wrong."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A question with a checkable answer.

    Attributes:
        prompt: what the model reads.
        metadata: `task` and what its verifier reads; plain JSON values. `tagged` says whether the answer must stand
            between <answer> tags.
        solution: a completion that the verifier accepts.
    """

    prompt: str
    metadata: Mapping[str, Any]
    solution: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verifier found.

    Attributes:
        strict: 1 where the answer is right, else 0.
        partial: in [0, 1], 1 exactly where strict is 1.
        answer: the text that was judged, None where there was none.
    """

    strict: float
    partial: float
    answer: str | None


NO_ANSWER = Verdict(0.0, 0.0, None)


def judged(answer: str, correct: bool, credit: float) -> Verdict:
    """The verdict on an answer: full marks if it is correct, else partial credit below 1."""
    return Verdict(1.0, 1.0, answer) if correct else Verdict(0.0, credit, answer)


def is_held_out(identity: str) -> bool:
    """Whether a problem is held out: a hash of what it is, so that no seed can move it."""
    return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big") % HELD_OUT_SHARE == 0


def draw_problems(
    make: Callable[[random.Random], tuple[str, Problem] | None], split: Split, *, task: str, seed: int, count: int
) -> list[Problem]:
    """Candidates of a generator that belong to a split, without repetition.

    Args:
        make: random numbers -> (identity, problem), or None where nothing came out; equal identities share a split.
        split: "train" or "heldout".
        task: for the seed and messages.
        seed: of the sequence of candidates.
        count: how many.

    Raises:
        TaskError: unknown split, negative count, or no new problem among `PATIENCE` candidates.
    """
    if split not in ("train", "heldout"):
        raise TaskError(f"split must be 'train' or 'heldout', got {split!r}")
    if count < 0:
        raise TaskError(f"count must not be negative, got {count}")
    rng = random.Random(f"{task}:{split}:{seed}")
    found: dict[str, Problem] = {}
    idle = 0
    while len(found) < count:
        made = make(rng)
        fresh = made is not None and made[1].prompt not in found and is_held_out(made[0]) == (split == "heldout")
        if made is not None and fresh:
            found[made[1].prompt] = made[1]
        idle = 0 if fresh else idle + 1
        if idle == PATIENCE:
            raise TaskError(
                f"{task} gave only {len(found)} different problems for split {split!r}, {count} were asked for; right "
                "would be a smaller count or wider options"
            )
    return list(found.values())


def styled(style: str, prompts: Mapping[str, str], task: str, **values: object) -> str:
    """A prompt in one of a task's styles.

    Raises:
        TaskError: the task has no such style.
    """
    if style not in prompts:
        raise TaskError(f"{task} has the styles {', '.join(prompts)}, not {style!r}")
    return prompts[style].format(**values)


def solution_text(answer: str, *, tagged: bool) -> str:
    """An answer as a model should write it."""
    return f"<answer>{answer}</answer>" if tagged else answer
