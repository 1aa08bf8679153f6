"""Where an iteration's wall time goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class Clock:
    """Seconds per stage of the current iteration, and since it was last reset."""

    stages: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + time.perf_counter() - start

    def take(self) -> dict[str, float]:
        """Seconds per stage since the last call, with "total" and the unattributed "other"; starts anew."""
        total = time.perf_counter() - self.started
        stages = {**self.stages, "other": total - sum(self.stages.values()), "total": total}
        self.stages, self.started = {}, time.perf_counter()
        return stages
