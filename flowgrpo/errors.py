"""Errors that a user can act on: one sentence each, and the exit code that the command line gives them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import ClassVar

USAGE = 2
RUN_TIME = 1


class FlowgrpoError(Exception):
    """Root of every error that is reported without a traceback.

    Each leaf also inherits the built-in class that it refines, so that library users may catch either.
    """

    exit_code: ClassVar[int] = RUN_TIME


class UsageError(FlowgrpoError, ValueError):
    """The command line cannot mean anything."""

    exit_code = USAGE


class RecipeError(FlowgrpoError, ValueError):
    """A recipe is wrong. `problems` holds every fault found, one sentence each, with its place."""

    exit_code = USAGE

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[RecipeError], tuple[tuple[str, ...]]]:
        return type(self), (self.problems,)


class PromptError(FlowgrpoError, ValueError):
    """A prompt file is missing or wrong."""

    exit_code = USAGE


class AssetError(FlowgrpoError, FileNotFoundError):
    """A file that ships with the project is not where it should be."""


class RunError(FlowgrpoError, RuntimeError):
    """Something failed while a run was going on."""


class RewardError(RunError):
    """Samples could not be scored. Nothing was learned from them: the weights are those of the iteration before."""


class CheckpointError(RunError):
    """A checkpoint is damaged or belongs to another recipe."""


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """The tail of an error message: "; did you mean 'x'?" for the nearest of `choices`, or nothing if none is near."""
    near = get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def first_line(error: BaseException) -> str:
    """What an exception says, on one line; its class name where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
