"""Where an iteration's time goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

TIMERS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}
"""What `run.clock` names: seconds on the wall, or seconds that this process has used of all its cores."""


@dataclass(slots=True)
class Clock:
    """Seconds per stage of the current iteration, and since it was last reset."""

    timer: Callable[[], float] = time.perf_counter
    stages: dict[str, float] = field(default_factory=dict)
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.timer()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = self.timer()
        try:
            yield
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + self.timer() - start

    def take(self) -> dict[str, float]:
        """Seconds per stage since the last call, with "total" and the unattributed "other"; starts anew."""
        total = self.timer() - self.started
        stages = {**self.stages, "other": total - sum(self.stages.values()), "total": total}
        self.stages, self.started = {}, self.timer()
        return stages
