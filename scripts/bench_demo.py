"""Does training on tiny-sd3 raise held-out prompt following? Seeds, and a control with shuffled rewards.

    python -m scripts.bench_demo --out assets/benchmarks/demo.json

Runs the recipe `demo` once per seed, then once with `--train.shuffle_rewards true`, and adds what each run measured to
the JSON file, with versions and commit. Runs that the file already holds are not repeated, an interrupted run
continues; what is missing is printed as missing. Base and trained model use the same ODE sampler and steps; the base
runs at its best guidance, which is the recipe's `eval.base_guidance_scale`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from scripts.benchmarks import find, gain, held, train


def main() -> None:
    """Run what is missing, then print the table."""
    args = _arguments()
    jobs = [("demo", seed) for seed in args.seeds] + [("control", seed) for seed in args.control_seeds]
    for name, seed in jobs:
        if find(held(args.out), name, seed) is None and not args.table:
            overrides = [] if args.minutes is None else ["--train.max_minutes", str(args.minutes)]
            overrides += ["--train.shuffle_rewards", "true"] if name == "control" else []
            train(args.out, name, "demo", seed, args.runs / f"{name}-seed{seed}", overrides)
    print(table(held(args.out), jobs))


def table(rows: list[dict[str, Any]], jobs: list[tuple[str, int]]) -> str:
    """Points of strict gold, base to trained, per run and set; missing runs are said to be missing."""
    lines = []
    for name, seed in jobs:
        row = find(rows, name, seed)
        if row is None:
            lines.append(f"{name:8s} seed {seed}: missing")
            continue
        for set_name in row["sets"]:
            before, after = gain(row, set_name, "gold.strict")
            partial = gain(row, set_name, "gold")
            lines.append(
                f"{name:8s} seed {seed} {set_name:8s} strict {before:5.1f} -> {after:5.1f} ({after - before:+5.1f})  "
                f"partial {partial[0]:5.1f} -> {partial[1]:5.1f}  {row['iterations']} iterations, "
                f"{row['train_seconds']:.0f} s of training"
            )
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("assets/benchmarks/demo.json"))
    parser.add_argument("--runs", type=Path, default=Path("runs/bench"), help="where the run folders go")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--control-seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--minutes", type=float, help="training time of each run, instead of the recipe's")
    parser.add_argument("--table", action="store_true", help="print what is there and run nothing")
    return parser.parse_args()


if __name__ == "__main__":
    main()
