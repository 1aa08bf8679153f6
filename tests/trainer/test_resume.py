"""A run that is killed and resumed equals one that was not, bit for bit."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from flowgrpo.checkpoint import list_checkpoints
from flowgrpo.recipe import Recipe
from flowgrpo.runfolder import read_jsonl
from flowgrpo.trainer import Trainer

KILLS = 5
FORK = multiprocessing.get_context("fork")


def in_child(recipe: Recipe) -> Any:
    """A forked run: it shares the imported libraries, so that it starts at once."""
    child = FORK.Process(target=lambda: Trainer(recipe).run())
    child.start()
    return child


def test_five_kills_change_nothing(make_recipe: Callable[..., Recipe], files: Path, tmp_path: Path) -> None:
    settings = {
        "train__iterations": 6,
        "train__updates_per_iteration": 2,
        "train__ema_decay": 0.7,
        "eval__prompts": {"mine": str(files / "prompts.txt")},
        "eval__every": 3,
        "run__images": 2,
        "run__images_every": 3,
        "run__keep": 1,
    }
    whole = make_recipe(run__dir=str(tmp_path / "whole"), **settings)
    broken = make_recipe(run__dir=str(tmp_path / "broken"), **settings)
    start = time.perf_counter()
    child = in_child(whole)
    child.join()
    assert child.exitcode == 0
    lasted = time.perf_counter() - start

    moments = random.Random(7)
    for _ in range(KILLS):
        child = in_child(broken)
        time.sleep(moments.uniform(0.3, 0.7) * lasted)
        os.kill(child.pid, signal.SIGKILL)
        child.join()
    child = in_child(broken)
    child.join()
    assert child.exitcode == 0

    for name in ("metrics.jsonl", "images/index.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes(), name
    assert evaluations(tmp_path / "whole") == evaluations(tmp_path / "broken")
    for path in sorted((tmp_path / "whole" / "images").rglob("*.png")):
        assert path.read_bytes() == (tmp_path / "broken" / path.relative_to(tmp_path / "whole")).read_bytes()
    assert len(list((tmp_path / "whole" / "images").rglob("*.png"))) == 8
    same_tensors(*(list_checkpoints(tmp_path / name / "checkpoints")[-1] for name in ("whole", "broken")))
    same_tensors(*(tmp_path / name / "adapter" for name in ("whole", "broken")))


def evaluations(folder: Path) -> list[dict[str, Any]]:
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in read_jsonl(folder / "eval.jsonl")]
    assert len(rows) == 4 * 6  # before, twice during, after; one scorer and five statistics of pictures
    return rows


def same_tensors(first: Path, second: Path) -> None:
    names = sorted(path.name for path in first.glob("*.safetensors"))
    assert names and names == sorted(path.name for path in second.glob("*.safetensors"))
    for name in names:
        a, b = load_file(first / name), load_file(second / name)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a), name


def test_sigterm_saves_and_a_second_run_continues(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = make_recipe(train__iterations=10_000, run__checkpoint_every=10_000)
    child = in_child(recipe)
    metrics = tmp_path / "run" / "metrics.jsonl"
    for _ in range(600):
        if len(read_jsonl(metrics)) >= 2:
            break
        time.sleep(0.1)
    os.kill(child.pid, signal.SIGTERM)
    child.join(60)
    assert child.exitcode == 0
    done = len(read_jsonl(metrics))
    assert done >= 2
    assert [path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")] == [f"iteration-{done:06d}"]
    last = json.loads((tmp_path / "run" / "events.jsonl").read_text().splitlines()[-1])
    assert last["kind"] == "stop" and "SIGTERM" in last["message"]

    again = Trainer(make_recipe(train__iterations=done + 1))
    again.run()
    assert [row["iteration"] for row in read_jsonl(metrics)] == list(range(1, done + 2))


def test_fewer_or_more_iterations_do_not_make_another_recipe_but_a_rate_does(
    make_recipe: Callable[..., Recipe],
) -> None:
    Trainer(make_recipe(train__iterations=1)).run()
    result = Trainer(make_recipe(train__iterations=2)).run()
    assert result.iterations == 2
