"""How `flagship` was found: mixtures of parts beside each other, for the same time, on training prompts alone.

    python -m scripts.search_flagship
    python -m scripts.search_flagship --proxy --minutes 8 --seeds 100 --out assets/benchmarks/flagship_endurance.json

Every candidate is a recipe with a few words changed. Each trains for `--minutes` of processor time per seed, on gold
or, with `--proxy`, on the small CLIP; gold then judges one picture of every training prompt. No held-out prompt is
drawn, so that those stay fit for reporting. Finished runs are not repeated, missing ones are printed as missing.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean
from typing import Any

from scripts.bench_methods import NO_END
from scripts.bench_overoptimisation import CLIP
from scripts.benchmarks import find, gain, held, train

SET = "train"
JUDGED = ("--eval.prompts", f"{{{SET}: shapes/train}}", "--eval.images_per_prompt", "1", "--eval.steps", "10")
MIX, BRANCH, DEMO = "mix_grpo_demo", "branch_grpo_mix_demo", "demo"
GUARD = ("--sampler.density", "gaussian", "--objective.ratio", "guard", "--objective.weight", "inverse_dt")
TWICE = ("--train.updates_per_iteration", "2")
HALVES = ("--train.prompts_per_iteration", "8")
QUARTERS = ("--train.prompts_per_iteration", "4")
SLOW = ("--train.lr", "1e-4")
FADING = ("--train.lr_decay_updates", "60")
MOVING = ("--sampler.window", "progressive", "--sampler.window_high", "7", "--sampler.window_tau", "4")
CANDIDATES: dict[str, tuple[str, tuple[str, ...]]] = {
    "tree": (BRANCH, ()),
    "tree, guard, twice": (BRANCH, (*GUARD, *TWICE)),
    "tree, halves": (BRANCH, HALVES),
    "tree, guard, halves": (BRANCH, (*GUARD, *HALVES)),
    "tree, quarters": (BRANCH, QUARTERS),
    "tree, guard, quarters": (BRANCH, (*GUARD, *QUARTERS)),
    "chains, guard, quarters": (DEMO, (*GUARD, *QUARTERS)),
    "window, guard, halves": (MIX, (*GUARD, *HALVES)),
    "chains, guard, halves": (DEMO, (*GUARD, *HALVES)),
    "chains, guard, quarters, slow": (DEMO, (*GUARD, *QUARTERS, *SLOW)),
    "chains, quarters, slow": (DEMO, (*QUARTERS, *SLOW)),
    "tree, guard, halves, slow": (BRANCH, (*GUARD, *HALVES, *SLOW)),
    "tree, guard, quarters, slow": (BRANCH, (*GUARD, *QUARTERS, *SLOW)),
    "tree, guard, quarters, fading": (BRANCH, (*GUARD, *QUARTERS, *FADING)),
    "moving tree, guard, halves, slow": (BRANCH, (*GUARD, *HALVES, *SLOW, *MOVING)),
}
"""Name -> recipe, and what differs from it; "twice": the batch is cut into two updates; "halves", "quarters": that much
of the batch, so more iterations; "slow": half of the learning rate; "fading": it falls to 0.7 in two minutes and to a
third in twenty; "moving": the trained steps of the tree slide."""


def main() -> None:
    """Run what is missing, then print the table."""
    args = _arguments()
    words = [*NO_END, "--train.max_minutes", str(args.minutes), *JUDGED, "--run.images", "0"]
    words += [*CLIP, "--eval.scorers", "gold,clip"] if args.proxy else []
    base = None
    for seed in args.seeds:
        for name in args.names:
            if find(held(args.out), name, seed) is None and not args.table:
                folder = args.runs / f"{name.replace(' ', '-').replace(',', '')}-seed{seed}"
                recipe, told = CANDIDATES[name]
                base = train(args.out, name, recipe, seed, folder, [*words, *told], base=base)
    print(table(held(args.out), args.names, args.seeds))


def table(rows: list[dict[str, Any]], names: list[str], seeds: list[int]) -> str:
    """Gold on the judged training prompts after equal time, means over the seeds that are there."""
    lines = [
        "candidate                        seeds  iterations  s/iter  strict           partial gold    gain of each seed"
    ]
    for name in names:
        found = [row for seed in seeds if (row := find(rows, name, seed))]
        lines.append(_line(name, found) if found else f"{name:32s} missing")
    return "\n".join(lines)


def _line(name: str, rows: list[dict[str, Any]]) -> str:
    pairs = {score: [gain(row, SET, score) for row in rows] for score in ("gold.strict", "gold")}
    strict, partial = (tuple(map(mean, zip(*pairs[score], strict=True))) for score in ("gold.strict", "gold"))
    gains = " ".join(f"{after - before:+5.1f}" for before, after in pairs["gold"])
    return (
        f"{name:32s} {len(rows):5d}  {mean(row['iterations'] for row in rows):10.1f}  "
        f"{mean(row['seconds_per_iteration']['total'] for row in rows):6.2f}  {strict[0]:5.1f} -> {strict[1]:5.1f}  "
        f"{partial[0]:5.1f} -> {partial[1]:5.1f}  {gains}"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("assets/benchmarks/flagship_search.json"))
    parser.add_argument("--runs", type=Path, default=Path("runs/flagship_search"), help="where the run folders go")
    parser.add_argument("--names", nargs="*", default=list(CANDIDATES), choices=list(CANDIDATES))
    parser.add_argument("--seeds", type=int, nargs="*", default=[100, 101, 102])
    parser.add_argument("--minutes", type=float, default=2.0, help="training time of each run")
    parser.add_argument("--proxy", action="store_true", help="train on the small CLIP while gold watches")
    parser.add_argument("--table", action="store_true", help="print what is there and run nothing")
    return parser.parse_args()


if __name__ == "__main__":
    main()
