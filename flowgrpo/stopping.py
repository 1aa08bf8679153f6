"""When a run ends: steps, time, a reward that no longer rises, or a signal."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowgrpo.recipe import Train

PLATEAU_SMOOTHING = 5
"""Iterations averaged before rewards are compared: the mean reward of one iteration is mostly its prompts."""


class Interrupted(Exception):
    """SIGINT or SIGTERM arrived and the run is at a point where nothing is lost by leaving."""


class SignalFlag:
    """Remembers SIGINT and SIGTERM until the trainer asks; a second SIGINT acts at once."""

    def __init__(self) -> None:
        self.received: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number

    def leave_if_set(self) -> None:
        """Raises: Interrupted: when a signal has arrived."""
        if self.received is not None:
            raise Interrupted(signal.Signals(self.received).name)


@contextmanager
def signals_flagged() -> Iterator[SignalFlag]:
    """Route SIGINT and SIGTERM into a flag; the previous handlers come back afterwards.

    Outside the main thread Python allows no handlers: then the flag is never set.
    """
    flag = SignalFlag()
    try:
        previous = {number: signal.signal(number, flag) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:
        previous = {}
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def smoothed(rewards: Sequence[float], width: int = PLATEAU_SMOOTHING) -> list[float]:
    """Trailing means over `width` values; one value per position from which a full mean exists."""
    return [sum(rewards[end - width : end]) / width for end in range(width, len(rewards) + 1)]


def plateaued(rewards: Sequence[float], *, patience: int, delta: float) -> bool:
    """Whether the smoothed reward's best of the last `patience` iterations exceeds the earlier best by < `delta`."""
    means = smoothed(rewards)
    if len(means) <= patience:
        return False
    return max(means[-patience:]) < max(means[:-patience]) + delta


def reason_to_stop(train: Train, *, iteration: int, seconds: float, rewards: Sequence[float]) -> str | None:
    """Why the run ends after `iteration`, in words, or None while it goes on.

    Args:
        train: the recipe's section.
        iteration: iterations done.
        seconds: training time so far, over all resumed parts.
        rewards: mean reward of every iteration so far.
    """
    if iteration >= train.iterations:
        return f"all {train.iterations} iterations done"
    if train.max_minutes is not None and seconds >= 60 * train.max_minutes:
        return f"{train.max_minutes:g} minutes of training used"
    patience = train.plateau_patience
    if patience is not None and plateaued(rewards, patience=patience, delta=train.plateau_delta):
        return f"reward has not risen by {train.plateau_delta:g} for {patience} iterations"
    return None
