"""What sharing saves: the same iterations with network inputs shared between samples, and with none shared.

    OMP_NUM_THREADS=1 python -m scripts.bench_sharing --out assets/benchmarks/sharing.json

Without sharing every sample is drawn as a chain of its own, and every trained edge has a forward and a backward pass of
its own; then the gradient must be the same, and it is compared. No weight is moved, so that all repeats do the same
work. Seconds are the process's own. Recipes that the file holds are not measured again.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from flowgrpo.media import Collected
from flowgrpo.recipe_loading import load_recipe
from flowgrpo.shared_rollout import SharedRollout
from flowgrpo.trainer import Trainer
from samplers.rollout import FlowRollout
from scripts.benchmarks import add, held, where

CHAINS = ("demo", ())
OWN_NOISE = ("--sampler.initial_noise", "separate")
APART: dict[str, tuple[str, tuple[str, ...]]] = {
    "mix_grpo_demo": ("mix_grpo_demo", OWN_NOISE),
    "mix_grpo_flash_demo": ("mix_grpo_flash_demo", OWN_NOISE),
    "branch_grpo_demo": CHAINS,
    "branch_grpo_mix_demo": CHAINS,
    "tempflow_grpo_demo": CHAINS,
}
"""Recipe -> the recipe, and what differs from it, that draws as many samples of as many steps without sharing."""
MIDDLE = 12
"""Iteration whose window is measured: neither at the start of the schedule nor at its end."""
Row = dict[str, Any]


def main() -> None:
    """Measure what is missing, then print the table."""
    args = _arguments()
    for name in () if args.table else args.recipes:
        if not any(row["recipe"] == name for row in held(args.out)):
            add(args.out, {"recipe": name, **measured(name, args.repeats), **where()})
    print(table(held(args.out), args.recipes))


def measured(name: str, repeats: int) -> Row:
    """Medians over the repeats of both ways, the two beside each other in each repeat."""
    other, words = APART[name]
    with _trainer(name, ()) as together, _trainer(other, (*_samples(name), *words)) as apart:
        found = [_both(together, apart) for _ in range(repeats)]
    return {key: median(row[key] for row in found) for key in found[0]}


def _samples(name: str) -> tuple[str, ...]:
    train = load_recipe(name, []).recipe.train
    groups = ("--train.prompts_per_iteration", str(train.prompts_per_iteration))
    return (*groups, "--train.group_size", str(train.group_size))


@contextmanager
def _trainer(name: str, words: Sequence[str]) -> Iterator[Trainer]:
    with tempfile.TemporaryDirectory() as folder:
        told = ("--run.dir", folder, "--run.clock", "processor", "--train.updates_per_iteration", "1", *words)
        trainer = Trainer(load_recipe(name, list(told)).recipe)
        trainer.learner.optimizer.step = lambda *a, **k: None  # type: ignore[method-assign]
        yield trainer
        trainer.pool.abandon()


def _both(together: Trainer, apart: Trainer) -> dict[str, float]:
    drawn, sampling = sampled(together)
    shared, trained, gradient = updated(together, drawn)
    unshared, trained_apart, gradient_apart = updated(together, replace(drawn, rollout=separated(drawn.rollout.own)))
    drawn_apart, sampling_apart = sampled(apart)
    samples = len(drawn.group)
    return {
        "sampled": drawn.forwards / samples,
        "sampled_apart": drawn_apart.forwards / samples,
        "sampling_seconds": sampling,
        "sampling_seconds_apart": sampling_apart,
        "trained": trained / samples,
        "trained_apart": trained_apart / samples,
        "training_seconds": shared,
        "training_seconds_apart": unshared,
        "gradient_gap": ((gradient - gradient_apart).norm() / gradient.norm()).item(),
    }


def sampled(trainer: Trainer) -> tuple[Collected, float]:
    """One iteration's samples, and the seconds of drawing their latents."""
    trainer.clock.take()
    prompts = trainer._prompts(MIDDLE)
    drawn = trainer.medium.collect(
        prompts, trainer.pool, iteration=MIDDLE, clock=trainer.clock, between=lambda done, total: None
    )
    return drawn, trainer.clock.take()["rollout"]


def updated(trainer: Trainer, drawn: Collected) -> tuple[float, int, Tensor]:
    """Seconds of the update, its forwards, and the gradient."""
    work = trainer.medium.work(drawn, trainer.objective, MIDDLE)
    trainer.clock.take()
    trainer.learner.learn(work, iteration=MIDDLE, clock=trainer.clock)
    seconds = trainer.clock.take()["update"]
    gradients = [p.grad.flatten() for p in trainer.policy.trainable().values() if p.grad is not None]
    return seconds, work.forwards["trained"], torch.cat(gradients)


def separated(rollout: FlowRollout) -> SharedRollout:
    """The same rollout, but each edge starts from an input of its own."""
    of = rollout.edge_input
    alone = replace(
        rollout,
        **{name: getattr(rollout, name)[of] for name in ("inputs", "velocities", "input_root", "input_step")},
        edge_input=torch.arange(len(of)),
    )
    return SharedRollout(alone, alone)


def table(rows: Sequence[Row], names: Sequence[str]) -> str:
    """Forwards per sample and seconds with sharing and without; missing rows are said to be missing."""
    lines = [
        "recipe                    sampled: shared, not  s: shared, not  trained: shared, not  s: shared, not  gap"
    ]
    by_name = {row["recipe"]: row for row in rows}
    lines += [_line(by_name[name]) if name in by_name else f"{name:25s} missing" for name in names]
    return "\n".join(lines)


def _line(row: Row) -> str:
    pairs = [
        f"{row[key]:8.2f} {row[f'{key}_apart']:6.2f}"
        for key in ("sampled", "sampling_seconds", "trained", "training_seconds")
    ]
    return f"{row['recipe']:25s} {'  '.join(pairs)}  {row['gradient_gap']:.1e}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("assets/benchmarks/sharing.json"))
    parser.add_argument("--recipes", nargs="*", default=list(APART), choices=list(APART))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="print what is there and run nothing")
    return parser.parse_args()


if __name__ == "__main__":
    main()
