"""Benchmarks: prompts with test points, pictures, a judge's answers, and the table that the field quotes.

A benchmark is a `Track` of `Task`s. Its stages write into one folder, each continues where it stopped, and each is a
function of what the one before left there: draw (`drawing`), judge (`judgements`), count (`tally`), show (`page`).
"""

from flowgrpo.benchmarks.tasks import Point, Task, Track

__all__ = ["Point", "Task", "Track"]
