"""Trackers: off by default, refused by name, fed with the plain numbers of each iteration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from flowgrpo.errors import FlowgrpoError
from flowgrpo.recipe import Recipe
from flowgrpo.trackers import Trackers


class Recorder:
    def __init__(self) -> None:
        self.rows: list[tuple[dict[str, float], int]] = []
        self.ended = False

    def log(self, values: dict[str, float], step: int) -> None:
        self.rows.append((values, step))

    def end_training(self) -> None:
        self.ended = True


def test_none_by_default(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    trackers = Trackers.start(make_recipe(), tmp_path)
    assert trackers.accelerator is None
    trackers.log({"iteration": 1})
    trackers.end()


def test_unknown_name_has_a_suggestion(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    with pytest.raises(FlowgrpoError, match=r"'wandbb' is no tracker; did you mean 'wandb'\?"):
        Trackers.start(make_recipe(run__trackers=["wandbb"]), tmp_path)


def test_only_numbers_are_sent() -> None:
    recorder = Recorder()
    trackers = Trackers(recorder)
    trackers.log({"iteration": 3, "reward/mean": 0.5, "per_step": {"step": [0]}})
    trackers.end()
    assert recorder.rows == [({"iteration": 3, "reward/mean": 0.5}, 3)] and recorder.ended
