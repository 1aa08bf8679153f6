"""What a person sees of long work: bars with rate and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

from flowgrpo.recipe import Train

PLAIN_EVERY_S = 15.0
"""Seconds between plain lines of one piece of work: a log file is read, not watched."""
BAR = 24


def time_left(seconds: float) -> str:
    """Seconds as "45s", "3m10s" or "2h05m"."""
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


@dataclass(slots=True)
class Progress:
    """Writes progress to `stream`, or nowhere."""

    stream: TextIO | None = field(default_factory=lambda: sys.stderr)
    _shown: float = field(default_factory=time.monotonic)

    @classmethod
    def silent(cls) -> Progress:
        return cls(None)

    def say(self, line: str) -> None:
        """One line that stays."""
        if self.stream is not None:
            print(self._clear() + line, file=self.stream, flush=True)

    def counter(self, label: str) -> Callable[[int, int], None]:
        """A function (done, total) that shows how far `label` is."""

        began = time.monotonic()

        def show(done: int, total: int) -> None:
            self._show(label, done, total, began)

        return show

    def stage(self, iteration: int, name: str, done: int, total: int) -> None:
        """What the current iteration is doing; only where it can be overwritten."""
        if self._is_terminal():
            count = f" {done}/{total}" if total else ""
            self._write(f"{self._clear()}iteration {iteration}: {name}{count}")

    def iteration(self, row: Mapping[str, Any], *, seconds: float, train: Train) -> None:
        """One line per finished iteration, with the time left by whichever limit comes first."""
        done = row["iteration"]
        left = seconds / done * (train.iterations - done)
        if train.max_minutes is not None:
            left = min(left, max(0.0, 60 * train.max_minutes - seconds))
        self.say(
            f"iteration {done}/{train.iterations}  reward {row['reward/mean']:.4f} +- {row['reward/std']:.4f}  "
            f"max|ratio-1| {row.get('ratio_minus_1/max', 0.0):.1e}  clip {row['clip/low'] + row['clip/high']:.0%}  "
            f"grad {row['grad_norm']:.3f}  {seconds / done:.2f} s/iteration  {time_left(left)} left"
        )

    def _show(self, label: str, done: int, total: int, began: float) -> None:
        now = time.monotonic()
        rate = done / max(now - began, 1e-9)
        text = f"{label} {done}/{total}  {rate:.1f}/s  {time_left((total - done) / max(rate, 1e-9))} left"
        if self._is_terminal():
            full = BAR * done // max(total, 1)
            self._write(f"{self._clear()}[{'#' * full}{'.' * (BAR - full)}] {text}" + ("\n" if done == total else ""))
        elif self.stream is not None and (done == total or now - self._shown >= PLAIN_EVERY_S):
            self._shown = now
            print(text, file=self.stream, flush=True)

    def _is_terminal(self) -> bool:
        return self.stream is not None and self.stream.isatty()

    def _clear(self) -> str:
        return "\r\x1b[K" if self._is_terminal() else ""

    def _write(self, text: str) -> None:
        if self.stream is not None:
            self.stream.write(text)
            self.stream.flush()
