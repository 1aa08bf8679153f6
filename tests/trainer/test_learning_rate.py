"""The learning rate of each update."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from flowgrpo.recipe import Recipe, Train
from flowgrpo.runfolder import read_jsonl
from flowgrpo.trainer import Trainer
from flowgrpo.update import learning_rate


def test_it_stays_unless_told_otherwise() -> None:
    assert {learning_rate(Train(lr=0.3), updates) for updates in (0, 1, 1000)} == {0.3}


def test_it_rises_in_equal_steps() -> None:
    train = Train(lr=0.3, warmup_updates=3)
    assert [learning_rate(train, updates) for updates in range(5)] == pytest.approx([0.1, 0.2, 0.3, 0.3, 0.3])


def test_it_falls_as_an_inverse_square_root() -> None:
    train = Train(lr=0.3, lr_decay_updates=20)
    found = [learning_rate(train, updates) for updates in (0, 20, 60, 300)]
    assert found == pytest.approx([0.3, 0.3 / 2**0.5, 0.15, 0.075])


def test_far_out_it_is_halved_by_four_times_the_updates() -> None:
    train = Train(lr=0.3, lr_decay_updates=1)
    assert learning_rate(train, 400_000) / learning_rate(train, 100_000) == pytest.approx(0.5, abs=1e-5)


def test_both_together() -> None:
    train = Train(lr=0.4, warmup_updates=2, lr_decay_updates=1)
    assert [learning_rate(train, updates) for updates in (0, 3)] == pytest.approx([0.2, 0.2])


def test_a_run_follows_it_across_a_resume(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    told = {
        "train__lr": 1e-3,
        "train__lr_decay_updates": 2,
        "run__dir": str(tmp_path / "run"),
        "run__checkpoint_every": 1,
    }
    Trainer(make_recipe(**told, train__iterations=1)).run()
    Trainer(make_recipe(**told, train__iterations=3)).run()
    rates = [row["lr"] for row in read_jsonl(tmp_path / "run" / "metrics.jsonl")]
    assert rates == pytest.approx([1e-3, 1e-3 / 1.5**0.5, 1e-3 / 2**0.5])
