"""Rewards of texts: what a language model wrote, judged by the exact verifiers of `reward_models.tasks`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import torch

from reward_models import sandbox, sandbox_child, tasks
from reward_models.batching import call_in_slices
from reward_models.comparisons import Seed
from reward_models.sandbox import Limits
from reward_models.scorer import Card, Metadata
from reward_models.scores import ScorerError, Scores, as_scores, with_components
from reward_models.tasks import (
    TaskError,
    answers,
    arithmetic,
    code_format,
    countdown,
    d1,
    expressions,
    math_library,
    math_worker,
    maths,
    problems,
    sudoku,
    verify,
)
from reward_models.tasks import code as code_task
from reward_models.weights import source_version

Row = Mapping[str, Any]
Judge = Callable[[str, Row], Mapping[str, float]]
"""(text, metadata of its problem) -> named numbers, "score" among them; TaskError where the metadata are at fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextScorer(Card):
    """A reward of texts: a card whose media is "text", and a function.

    Attributes:
        function: (n texts, n prompts, n metadata) -> Scores of length n.
    """

    function: Callable[..., Scores]

    def __call__(
        self,
        texts: Sequence[str],
        prompts: Sequence[str],
        metadata: Metadata | None = None,
        *,
        group: Sequence[int] | None = None,
        seed: Seed = 0,
    ) -> Scores:
        """Score N texts.

        Args:
            texts: N completions without special tokens.
            prompts: N texts that they answer.
            metadata: N mappings with what the verifier reads.
            group: Ignored, as by every pointwise scorer.
            seed: Ignored.

        Returns:
            Scores of length N; metadata that name no known problem make their sample invalid.

        Raises:
            ScorerError: The lengths differ, or these are no texts.
        """
        rows = [{}] * len(prompts) if metadata is None else list(metadata)
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise ScorerError(
                f"scorer '{self.name}' reads texts; got a {type(texts).__name__}, right would be a list of str"
            )
        if not len(texts) == len(prompts) == len(rows):
            raise ScorerError(
                f"scorer '{self.name}' got {len(texts)} texts, {len(prompts)} prompts and {len(rows)} metadata; "
                "right would be as many of each"
            )
        scores = call_in_slices(self.function, list(texts), list(prompts), rows, limit=self.max_batch, label=self.name)
        return with_components(scores, self.components)


def task(*, device: str = "cpu") -> TextScorer:
    """Partial credit of an answer in [0, 1] by the verifier that the metadata's "task" names; component "strict"."""
    return _scorer("task", _by_credit("partial", "strict"), (0.0, 1.0), ("strict",))


def task_strict(*, device: str = "cpu") -> TextScorer:
    """1 for a right answer, else 0, by the verifier that the metadata's "task" names; component "partial"."""
    return _scorer("task_strict", _by_credit("strict", "partial"), (0.0, 1.0), ("partial",))


def answer_format(*, device: str = "cpu") -> TextScorer:
    """How well a text keeps to reasoning tags and then answer tags, in [0, 1]; no metadata are read."""
    return _scorer("answer_format", lambda text, row: {"score": answers.format_reward(text)}, (0.0, 1.0))


def code_block(*, device: str = "cpu") -> TextScorer:
    """DiffuCoder's format reward: 1 for one fenced Python block at the end, 1/2 if it has a syntax error, else 0."""
    return _scorer("code_format", lambda text, row: {"score": code_format.code_format_reward(text)}, (0.0, 1.0))


def code(
    *,
    device: str = "cpu",
    seconds: float = 5.0,
    memory_mb: int = 512,
    workers: int = 2,
    confine_files: bool = True,
) -> TextScorer:
    """Share of the metadata's "test_cases" that the text's Python block passes in the sandbox; component "strict".

    Args:
        device: Ignored.
        seconds: Wall time of each case.
        memory_mb: Memory of each process, in MiB.
        workers: Cases at a time.
        confine_files: False also runs on kernels without Landlock, where code can read what the user can read.
    """
    limits = Limits(seconds=seconds, memory_mb=memory_mb, confine_files=confine_files)
    judge = partial(code_task.code_reward, limits=limits, workers=workers)
    return _scorer("code", judge, (0.0, 1.0), ("strict",), (code_task, sandbox, sandbox_child))


def d1_reward(*, device: str = "cpu") -> TextScorer:
    """The sum of d1's published rewards (arXiv 2504.12216) of the problem that the metadata's "task" names.

    gsm8k reads "answer", countdown "numbers" and "target", sudoku "puzzle" and "solution", math "solution".
    """
    return _scorer("d1", _d1, (-torch.inf, 3.5))


_D1: dict[str, Callable[[str, Row], float]] = {
    "gsm8k": lambda text, row: d1.gsm8k_rewards(text, row["answer"])["total"],
    "countdown": lambda text, row: d1.countdown_reward(text, row["numbers"], row["target"]),
    "sudoku": lambda text, row: d1.sudoku_reward(text, row["puzzle"], row["solution"]),
    "math": lambda text, row: sum(d1.math_rewards(text, row["solution"]).values()),
}


def _d1(text: str, row: Row) -> Mapping[str, float]:
    name = row.get("task")
    if name not in _D1:
        raise TaskError(f"metadata need a task, one of {', '.join(_D1)}; got {name!r}")
    return {"score": _D1[name](text, row)}


def _by_credit(score: str, other: str) -> Judge:
    def judge(text: str, row: Row) -> Mapping[str, float]:
        verdict = verify(text, row)
        return {"score": getattr(verdict, score), other: getattr(verdict, other)}

    return judge


def _scorer(
    name: str,
    judge: Judge,
    bounds: tuple[float, float],
    components: tuple[str, ...] = (),
    further: tuple[ModuleType, ...] = (),
) -> TextScorer:
    sources = (tasks, answers, arithmetic, code_format, countdown, d1, expressions, maths, problems, sudoku)
    library = (math_library, math_worker)
    return TextScorer(
        name=name,
        version=source_version(*sources, *library, *further, further=[name, math_library.library_version()]),
        media="text",
        needs=("metadata",),
        range=bounds,
        licence="Apache-2.0",
        components=components,
        function=partial(_score, judge=judge, components=components),
    )


def _score(
    texts: list[str], prompts: list[str], metadata: list[Row], *, judge: Judge, components: tuple[str, ...]
) -> Scores:
    columns = {name: torch.full((len(texts),), torch.nan, dtype=torch.float64) for name in ("score", *components)}
    errors = {}
    for i, (text, row) in enumerate(zip(texts, metadata, strict=True)):
        try:
            found = judge(text, row)
        except (TaskError, KeyError) as error:
            errors[i] = f"metadata lack {error}" if isinstance(error, KeyError) else str(error)
            continue
        for name, column in columns.items():
            column[i] = found[name]
    return as_scores(columns.pop("score"), components=columns, errors=errors)
