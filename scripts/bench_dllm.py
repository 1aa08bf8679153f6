"""Do masked language models learn? Four methods at equal time, one long run, and a control with shuffled rewards.

    python -m scripts.bench_dllm                                  the four methods, 2 minutes each, 3 seeds
    python -m scripts.bench_dllm --long gdpo_demo --minutes 10    one recipe for longer, and its control

Trains on tiny-dllm and adds what each run measured to the JSON file, with versions and commit: accuracy and lengths of
held-out answers before and after, by the recipe's own evaluation. Finished runs are not repeated, an interrupted one
continues, missing ones are printed as missing.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from scripts.benchmarks import find, gain, held, train

METHODS = ("diffu_grpo_demo", "coupled_grpo_demo", "gdpo_demo", "mdpo_demo")
SCORE, SET = "task_strict", "heldout"
EQUAL_MINUTES, LONG_MINUTES = 2.0, 10.0
ENOUGH, TOO_MUCH = 20.0, 3.0
"""Points that the long run should gain at least, and that its control should stay below."""
NO_END = ("--train.iterations", "1000000")
"""Time alone ends a run."""


@dataclass(frozen=True, slots=True)
class Job:
    """One run: its row's name and seed, the recipe, and what it is told."""

    run: str
    recipe: str
    seed: int
    words: tuple[str, ...]

    @property
    def folder(self) -> str:
        return f"{self.run.replace(' ', '-')}-seed{self.seed}"


def equal_time(seeds: list[int], minutes: float) -> Iterator[Job]:
    """Every method, seed by seed, so that a stopped benchmark has compared them on the seeds that it did."""
    for seed in seeds:
        for name in METHODS:
            yield Job(name, name, seed, (*NO_END, "--train.max_minutes", str(minutes)))


def long_run(recipe: str, seeds: list[int], control_seeds: list[int], minutes: float) -> Iterator[Job]:
    """One recipe for longer, and the same with rewards that belong to other answers."""
    words = (*NO_END, "--train.max_minutes", str(minutes))
    for seed in seeds:
        yield Job(f"{recipe} long", recipe, seed, words)
    for seed in control_seeds:
        yield Job(f"{recipe} shuffled", recipe, seed, (*words, "--train.shuffle_rewards", "true"))


def main() -> None:
    """Run what is missing, then print the tables."""
    args = _arguments()
    if not args.table:
        for job in _jobs(args):
            if find(held(args.out), job.run, job.seed) is None:
                train(args.out, job.run, job.recipe, job.seed, args.runs / job.folder, job.words)
    rows = held(args.out)
    print(methods_table(rows, args.seeds))
    print()
    print(long_table(rows, [args.long] if args.long else long_recipes(rows), args.seeds, args.control_seeds))


def _jobs(args: argparse.Namespace) -> list[Job]:
    if args.long is None:
        return list(equal_time(args.seeds, args.minutes or EQUAL_MINUTES))
    return list(long_run(args.long, args.seeds, args.control_seeds, args.minutes or LONG_MINUTES))


def long_recipes(rows: list[dict[str, Any]]) -> list[str]:
    """Recipes of which the file has a long run."""
    return sorted({row["recipe"] for row in rows if row["run"].endswith(" long")})


def methods_table(rows: list[dict[str, Any]], seeds: list[int]) -> str:
    """Means over the seeds that are there; how many that is stands in the second column."""
    lines = [
        "recipe             seeds  accuracy, %      gain of each seed      iterations  s/iter  trained/sample  length"
    ]
    for name in METHODS:
        found = [row for seed in seeds if (row := find(rows, name, seed))]
        lines.append(_method_line(name, found) if found else f"{name:18s} missing")
    return "\n".join(lines)


def _method_line(name: str, rows: list[dict[str, Any]]) -> str:
    before, after = (mean(pair) for pair in zip(*(gain(row, SET, SCORE) for row in rows), strict=True))
    gains = " ".join(f"{_gained(row):+6.1f}" for row in rows)
    trained = mean(row["forwards_per_iteration"]["trained"] / row["samples"] for row in rows)
    seconds = mean(row["seconds_per_iteration"]["total"] for row in rows)
    iterations = mean(row["iterations"] for row in rows)
    return (
        f"{name:18s} {len(rows):5d}  {before:5.1f} -> {after:5.1f}  {gains:22s}  {iterations:10.0f}  {seconds:6.2f}"
        f"  {trained:14.2f}  {_length(rows)}"
    )


def _length(rows: list[dict[str, Any]]) -> str:
    """Mean tokens of an answer before and after, where the evaluation counted them."""
    counted = [row["sets"][SET]["length"] for row in rows if "length" in row["sets"][SET]]
    if not counted:
        return "missing"
    return " -> ".join(f"{mean(row[when]['mean'] for row in counted):.1f}" for when in ("base", "final"))


def long_table(rows: list[dict[str, Any]], recipes: list[str], seeds: list[int], control_seeds: list[int]) -> str:
    """Each long run and each control, and whether they are what a method that works shows."""
    if not recipes:
        return "long run: missing"
    lines = []
    for recipe in recipes:
        for run, wanted in ((f"{recipe} long", seeds), (f"{recipe} shuffled", control_seeds)):
            found = [(seed, find(rows, run, seed)) for seed in wanted]
            lines += [f"{run:28s} seed {seed}: {_long_line(row)}" for seed, row in found]
        lines += [verdict(rows, recipe, seeds, control_seeds)]
    return "\n".join(lines)


def _long_line(row: dict[str, Any] | None) -> str:
    if row is None:
        return "missing"
    before, after = gain(row, SET, SCORE)
    return (
        f"{before:5.1f} -> {after:5.1f} ({after - before:+5.1f})  {row['iterations']} iterations, "
        f"{row['train_seconds']:.0f} s of training"
    )


def verdict(rows: list[dict[str, Any]], recipe: str, seeds: list[int], control_seeds: list[int]) -> str:
    """In how many seeds the long run gained enough, and the control too little to speak of."""
    gains = [_gained(row) for seed in seeds if (row := find(rows, f"{recipe} long", seed))]
    controls = [_gained(row) for seed in control_seeds if (row := find(rows, f"{recipe} shuffled", seed))]
    reached, calm = sum(value >= ENOUGH for value in gains), sum(value < TOO_MUCH for value in controls)
    return (
        f"{recipe}: gains at least {ENOUGH:g} points in {reached} of {len(seeds)} seeds ({len(gains)} measured); the "
        f"control gains less than {TOO_MUCH:g} in {calm} of {len(control_seeds)} ({len(controls)} measured)"
    )


def _gained(row: dict[str, Any]) -> float:
    before, after = gain(row, SET, SCORE)
    return after - before


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("assets/benchmarks/dllm.json"))
    parser.add_argument("--runs", type=Path, default=Path("runs/dllm"), help="where the run folders go")
    parser.add_argument("--long", metavar="RECIPE", help="run this recipe and its control instead of the four methods")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--control-seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--minutes", type=float, help="training time of each run; 2, or 10 of the long run")
    parser.add_argument("--table", action="store_true", help="print what is there and run nothing")
    return parser.parse_args()


if __name__ == "__main__":
    main()
