"""How much of an iteration's wall time is inside the network, the VAE, the scorers and backward?

    python -m scripts.profile_iteration [RECIPE] [--iterations 3] [--section.key VALUE ...]

Hooks on those modules note when each call begins and ends, in every thread; the share is the union of these intervals
over the iteration's wall time, so that scoring beside sampling is not counted twice.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch

from flowgrpo.recipe_loading import load_recipe
from flowgrpo.trainer import Trainer

Interval = tuple[float, float]


def main() -> None:
    """Run the iterations and print one line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="demo")
    parser.add_argument("--iterations", type=int, default=3)
    args, overrides = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        recipe = load_recipe(args.recipe, [*overrides, "--run.dir", folder]).recipe
        trainer = Trainer(recipe)
        trainer.policy.encode([prompt.text for prompt in trainer.prompts])
        intervals: dict[str, list[Interval]] = {}
        watch(trainer, intervals)
        for number in range(1, args.iterations + 1):
            for held in intervals.values():
                held.clear()
            start = time.perf_counter()
            trainer.iterate(number)
            print(line(number, time.perf_counter() - start, intervals))
        trainer.pool.abandon()


def line(number: int, wall: float, intervals: dict[str, list[Interval]]) -> str:
    """Seconds of each part, and the share of all of them together."""
    parts = "  ".join(f"{name} {union(held):.2f}" for name, held in intervals.items())
    share = union([interval for held in intervals.values() for interval in held]) / wall
    return f"iteration {number}: {wall:.2f} s, inside modules {share:.1%} ({parts})"


def union(intervals: list[Interval]) -> float:
    """Seconds covered by at least one interval."""
    covered, end = 0.0, float("-inf")
    for begin, finish in sorted(intervals):
        covered += max(0.0, finish - max(begin, end))
        end = max(end, finish)
    return covered


def watch(trainer: Trainer, intervals: dict[str, list[Interval]]) -> None:
    """Time every outermost call of the modules, of the scorers and of backward."""
    for name, module in trainer.policy.parts().items():
        held = intervals.setdefault(name, [])
        begun: list[float] = []
        # A VAE is called by its `decode`, which runs no hooks of its own; its decoder's do.
        module = getattr(module, "decoder", module)
        module.register_forward_pre_hook(lambda *_, begun=begun: begun.append(time.perf_counter()))
        module.register_forward_hook(lambda *_, begun=begun, held=held: held.append((begun.pop(), time.perf_counter())))
    for name, scorer in trainer.pool.scorers.items():
        timed_function = timed(scorer.function, intervals.setdefault(f"scorer {name}", []))
        trainer.pool.scorers[name] = dataclasses.replace(scorer, function=timed_function)
    torch.Tensor.backward = timed(torch.Tensor.backward, intervals.setdefault("backward", []))  # type: ignore[method-assign]


def timed(function: Callable[..., Any], held: list[Interval]) -> Callable[..., Any]:
    """The same function, noting each call."""

    def call(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            held.append((start, time.perf_counter()))

    return call


if __name__ == "__main__":
    main()
