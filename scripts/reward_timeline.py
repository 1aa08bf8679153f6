"""Show that rewards overlap sampling: one iteration with a pairwise judge over HTTP beside a scorer in this process.

    python -m scripts.reward_timeline --json assets/benchmarks/reward_timeline.json

The demo's model draws one group per batch; the judge is a server on loopback that takes --seconds for each comparison.
Printed is a line per lane over the iteration's time: sampling (drawing and decoding), the scorer in this process, the
judge (requests under way), and training.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from flowgrpo import rollout
from flowgrpo.judging import unjudged
from flowgrpo.recipe_loading import load_recipe
from flowgrpo.trainer import Learner, Trainer
from tests.rewards.judge_server import Body, brightness, completion, running

LANES = ("sampling", "gold", "judge", "training")
WIDTH = 100


class Lanes:
    """Intervals of time by lane, from any thread."""

    def __init__(self) -> None:
        self.spans: dict[str, list[tuple[float, float]]] = {lane: [] for lane in LANES}
        self._lock = threading.Lock()

    def timed(self, lane: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its calls noted."""

        def call(*arguments: Any, **more: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments, **more)
            finally:
                with self._lock:
                    self.spans[lane].append((start, time.perf_counter()))

        return call


def covered(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The union of intervals, in order."""
    found: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def overlap(a: Sequence[tuple[float, float]], b: Sequence[tuple[float, float]]) -> float:
    """Seconds in which both go on."""
    pairs = ((max(s, u), min(e, v)) for s, e in covered(a) for u, v in covered(b))
    return sum(max(0.0, end - start) for start, end in pairs)


def drawn(spans: Sequence[tuple[float, float]], seconds: float) -> str:
    """A line of WIDTH characters, # where the lane is busy."""
    cells = [" "] * WIDTH
    for start, end in spans:
        for cell in range(int(WIDTH * start / seconds), min(WIDTH, int(WIDTH * end / seconds) + 1)):
            cells[cell] = "#"
    return "".join(cells)


def measure(prompts: int, group: int, seconds: float) -> dict[str, Any]:
    """One iteration after a first one that warms up."""
    lanes = Lanes()

    def better(body: Body) -> Body:
        time.sleep(seconds)
        a, b = brightness(body)
        return completion(f"<answer>Image {1 if a > b else 2} is better</answer>")

    with running(lanes.timed("judge", better)) as server, tempfile.TemporaryDirectory() as folder:
        rollout.sample_flow = lanes.timed("sampling", rollout.sample_flow)
        options = {"base_url": server.url, "model": "judge", "cache": "none"}
        changes = {
            "reward.names": {"unifiedreward_think": 0.7, "gold": 0.3},
            "reward.options": {"unifiedreward_think": options},
            "reward.workers": 2,
            "train.prompts_per_iteration": prompts,
            "train.group_size": group,
            "sampler.batch_size": group,
            "run.dir": folder,
        }
        trainer = Trainer(unjudged(load_recipe("demo", changes).recipe))
        trainer.pool.scorers = dict(trainer.pool.scorers, gold=_Timed(trainer.pool.scorers["gold"], lanes))
        Learner.learn = lanes.timed("training", Learner.learn)
        trainer.iterate(1)
        asked = server.asked
        lanes.spans = {lane: [] for lane in LANES}
        start = time.perf_counter()
        trainer.iterate(2)
        whole = time.perf_counter() - start
        trainer.pool.abandon()
    spans = {lane: covered([(a - start, b - start) for a, b in held]) for lane, held in lanes.spans.items()}
    return {
        "seconds": round(whole, 2),
        "comparisons": server.asked - asked,
        "seconds_per_comparison": seconds,
        "busy": {lane: round(sum(b - a for a, b in held), 2) for lane, held in spans.items()},
        "judge_while_sampling": round(overlap(spans["judge"], spans["sampling"]), 2),
        "lanes": {lane: drawn(held, whole) for lane, held in spans.items()},
        "settings": {"prompts": prompts, "group": group},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


class _Timed:
    """A scorer whose calls are noted; everything else is its own."""

    def __init__(self, scorer: Any, lanes: Lanes) -> None:
        self._scorer = scorer
        self._call = lanes.timed("gold", scorer)

    def __call__(self, *arguments: Any, **more: Any) -> Any:
        return self._call(*arguments, **more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scorer, name)


def main() -> int:
    """Parse the command line, run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--group", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=0.5, help="that the judge takes for a comparison")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = measure(options.prompts, options.group, options.seconds)
    for lane, line in found["lanes"].items():
        print(f"{lane:>9} |{line}| {found['busy'][lane]:.1f} s")
    print(
        f"{found['comparisons']} comparisons; the judge works {found['judge_while_sampling']} s while sampling goes on"
    )
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
