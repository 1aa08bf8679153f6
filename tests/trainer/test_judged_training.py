"""Training with a pairwise judge over HTTP beside a scorer in this process."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowgrpo import rollout
from flowgrpo.checkpoint import list_checkpoints
from flowgrpo.errors import RunError
from flowgrpo.recipe import Recipe
from flowgrpo.runfolder import read_jsonl
from flowgrpo.trainer import Trainer
from tests.rewards.judge_server import Body, brightness, completion, running, status

Make = Callable[..., Recipe]
PAIRS = 2 * 6
"""Of two groups of four."""


def brighter(body: Body) -> Body:
    a, b = brightness(body)
    said = completion(f"<answer>Image {1 if a > b else 2} is better</answer>")
    return {**said, "usage": {"prompt_tokens": 100, "completion_tokens": 5}}


def judged(make_recipe: Make, files: Path, url: str, **options: Any) -> Recipe:
    red = f"{files / 'rewards.py'}:red"
    server = {"base_url": url, "model": "vlm", "retries": 0, "prices": [1.0, 10.0], **options}
    return make_recipe(
        reward__names={"unifiedreward_think": 0.7, red: 0.3},
        reward__options={"unifiedreward_think": server},
        sampler__batch_size=4,
        train__iterations=2,
    )


def test_rewards_overlap_sampling_and_their_cost_is_told(
    make_recipe: Make, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second batch is not sampled before the judge has been asked about the first: were scoring to begin after
    sampling, it would wait in vain."""
    asked_at: list[int] = []
    sample = rollout.sample_flow

    def waiting(*args: Any, **more: Any) -> Any:
        if len(asked_at) % 2:
            end = time.monotonic() + 20
            while server.asked == asked_at[-1] and time.monotonic() < end:
                time.sleep(0.005)
        asked_at.append(server.asked)
        return sample(*args, **more)

    with running(brighter) as server:
        monkeypatch.setattr(rollout, "sample_flow", waiting)
        result = Trainer(judged(make_recipe, files, server.url)).run()
    assert result.iterations == 2 and server.asked == 2 * PAIRS and len(asked_at) == 4
    assert all(second > first for first, second in zip(asked_at[::2], asked_at[1::2], strict=True)), asked_at
    rows, times = (read_jsonl(result.folder / name) for name in ("metrics.jsonl", "timing.jsonl"))
    assert [row["reward/unifiedreward_think/mean"] for row in rows] == pytest.approx([0.5, 0.5])
    spent = {key.rpartition("/")[2]: value for key, value in times[0].items() if key.startswith("cost/")}
    assert spent == {
        "requests": PAIRS,
        "remembered": 0,
        "prompt_tokens": 100 * PAIRS,
        "reply_tokens": 5 * PAIRS,
        "price": pytest.approx(PAIRS * 150 / 1e6),
    }


def test_a_dead_judge_stops_the_run_with_one_line_and_the_run_goes_on_later(make_recipe: Make, files: Path) -> None:
    with running(brighter, [None] * PAIRS + [status(500)] * 99) as server:
        recipe = judged(make_recipe, files, server.url)
        with pytest.raises(RunError) as caught:
            Trainer(recipe).run()
        message = str(caught.value)
        assert "\n" not in message and "could not be scored" in message and "status 500" in message
        (folder,) = {path.parent.parent for path in list_checkpoints(Path(recipe.run.dir) / "checkpoints")}
        assert len(read_jsonl(folder / "metrics.jsonl")) == 1
        server.faults = []
        assert Trainer(recipe).run().iterations == 2


def test_a_killed_run_finds_its_judges_answers_again(make_recipe: Make, files: Path, tmp_path: Path) -> None:
    """Whatever a judge said of an iteration that was lost is not asked, or paid for, again."""
    with running(brighter) as server:
        recipe = judged(make_recipe, files, server.url, cache=str(tmp_path / "cache"))
        first = Trainer(recipe)
        first.iterate(1)
        first.pool.abandon()
        assert server.asked == PAIRS
        result = Trainer(recipe).run()
        assert server.asked == 2 * PAIRS
    costs = [row["cost/unifiedreward_think/remembered"] for row in read_jsonl(result.folder / "timing.jsonl")]
    assert costs == [PAIRS, 0]
