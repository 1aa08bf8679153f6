"""Who keeps gold while a proxy rises? Long runs on the small CLIP, with gold watching.

    python -m scripts.bench_overoptimisation --out assets/benchmarks/overoptimisation.json

Trains each recipe on the proxy for `--minutes` per seed, evaluates gold on held-out prompts before and after, and keeps
both rewards over time; finished runs are not repeated. Prints, per recipe, the proxy and gold at the start, at gold's
best and at the end: a method over-optimises where gold falls from its best while the proxy still rises.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from scripts.benchmarks import find, gain, held, train

PROXY = ("--reward.names", "clip=1.0,gold=0.0")
RUNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "flow_grpo": ("demo", PROXY),
    "grpo_guard": ("grpo_guard_demo", PROXY),
    "pref_grpo": ("pref_grpo_demo", ("--reward.names", "preference=1.0,clip=0.0,gold=0.0")),
}
"""Name -> recipe and what it is told; the proxy of Pref-GRPO is its judge's win rate."""
SMOOTH = 5


def main() -> None:
    """Run what is missing, then print the table."""
    args = _arguments()
    for seed in args.seeds:
        for name in args.names:
            if find(held(args.out), name, seed) is None and not args.table:
                recipe, words = RUNS[name]
                overrides = [*words, "--train.max_minutes", str(args.minutes)]
                train(args.out, name, recipe, seed, args.runs / f"{name}-seed{seed}", overrides)
    print(table(held(args.out), args.names, args.seeds))


def table(rows: list[dict[str, Any]], names: list[str], seeds: list[int]) -> str:
    """Smoothed training rewards at three moments, and held-out strict gold; missing runs are said to be missing."""
    lines = [
        "run         seed  proxy: start -> gold's best -> end      gold: start -> best -> end        held-out strict"
    ]
    for name in names:
        for seed in seeds:
            row = find(rows, name, seed)
            lines.append(f"{name:11s} {seed:4d}  missing" if row is None else _line(name, seed, row))
    return "\n".join(lines)


def _line(name: str, seed: int, row: dict[str, Any]) -> str:
    proxy, gold = (_smoothed([point[column] for point in row["curve"]]) for column in (1, 2))
    best = max(range(len(gold)), key=gold.__getitem__)
    shown = ["  ".join(f"{series[i]:.3f}" for i in (0, best, -1)) for series in (proxy, gold)]
    before, after = gain(row, "heldout", "gold.strict")
    return f"{name:11s} {seed:4d}  {shown[0]:38s}  {shown[1]:30s}  {before:.1f} -> {after:.1f}"


def _smoothed(values: list[float]) -> list[float]:
    windows = (values[max(0, i - SMOOTH + 1) : i + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("assets/benchmarks/overoptimisation.json"))
    parser.add_argument("--runs", type=Path, default=Path("runs/overoptimisation"), help="where the run folders go")
    parser.add_argument("--names", nargs="*", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--minutes", type=float, default=20.0, help="training time of each run")
    parser.add_argument("--table", action="store_true", help="print what is there and run nothing")
    return parser.parse_args()


if __name__ == "__main__":
    main()
