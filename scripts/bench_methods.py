"""Every method on tiny-sd3 for the same time: forwards, seconds, and gold.

    python -m scripts.bench_methods --out assets/benchmarks/methods.json

Runs each recipe once per seed for `--minutes` of training and adds what it measured to the JSON file; finished runs are
not repeated, an interrupted one continues, missing ones are printed as missing. Then prints two tables: what was
measured on tiny-sd3, and the cost of the published settings in forward-equivalents beside the published ratios.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean
from typing import Any

from flowgrpo.geometry import TRAINED_COST, Price, geometry, price
from flowgrpo.recipe import Recipe
from flowgrpo.recipe_loading import load_recipe
from flowgrpo.runfolder import write_atomically
from scripts.benchmarks import find, gain, held, train
from scripts.curves_picture import Curve, Panel, picture, smoothed

RECIPES = (
    "demo",
    "mix_grpo_demo",
    "mix_grpo_flash_demo",
    "mix_grpo_flash_star_demo",
    "branch_grpo_demo",
    "branch_grpo_pruned_demo",
    "branch_grpo_mix_demo",
    "tempflow_grpo_demo",
    "grpo_guard_demo",
    "pref_grpo_demo",
    "flagship",
)
NO_END = ("--train.iterations", "1000000")
"""Time alone ends a run."""
EVALUATION = (
    *("--eval.prompts", "{heldout: shapes/heldout}", "--eval.images_per_prompt", "1", "--eval.steps", "10"),
    *("--run.images_every", "0"),
)
"""One picture per held-out prompt, and half of the demo's steps: there are many runs."""
SMOOTH = 3
"""Iterations in a mean of the picture."""
ONE_PROMPT = ("--train.prompts_per_iteration", "1", "--train.updates_per_iteration", "1")
PUBLISHED: dict[str, tuple[str, float, Price]] = {
    "mix_grpo": ("DanceGRPO, 25 steps, 14 trained", 0.51, Price(25, 14)),
    "mix_grpo_flash": ("DanceGRPO, 25 steps, 14 trained", 0.39, Price(25, 14)),
    "mix_grpo_flash_star": ("DanceGRPO, 25 steps, 14 trained", 0.29, Price(25, 14)),
    "branch_grpo": ("DanceGRPO, 20 steps, 20 trained", 0.71, Price(20, 20)),
    "branch_grpo_pruned": ("DanceGRPO, 20 steps, 20 trained", 0.45, Price(20, 20)),
    "branch_grpo_mix": ("DanceGRPO, 20 steps, 20 trained", 0.21, Price(20, 20)),
}
"""Recipe -> what its paper compares with, the published ratio of seconds, and the price of that baseline per sample."""


def main() -> None:
    """Run what is missing, then print the tables."""
    args = _arguments()
    words = [*NO_END, "--train.max_minutes", str(args.minutes), *EVALUATION]
    base = None
    for seed in args.seeds:
        for name in args.recipes:
            if find(held(args.out), name, seed) is None and not args.table:
                folder = args.runs / f"{name}-seed{seed}"
                base = train(args.out, name, name, seed, folder, words, base=base)
    print(measured_table(held(args.out), args.recipes, args.seeds))
    print()
    print(price_table())
    if args.picture:
        write_atomically(args.picture, drawn(held(args.out), args.recipes, args.seeds))


def drawn(rows: list[dict[str, Any]], recipes: list[str], seeds: list[int]) -> str:
    """The picture: gold of the rollouts over seconds, mean over the seeds that are there, smoothed over iterations."""
    found = {name: [row for seed in seeds if (row := find(rows, name, seed))] for name in recipes}
    curves = [Curve(name.removesuffix("_demo"), _gold(runs)) for name, runs in found.items() if runs]
    return picture([Panel("gold, mean of rollouts", curves)], "Gold over the seconds of training, for each method")


def _gold(runs: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """Mean over runs, as many iterations as all of them have."""
    points = [list(columns) for columns in zip(*(row["curve"] for row in runs), strict=False)]
    seconds = [mean(point[0] for point in column) for column in points]
    gold = [mean(point[2] for point in column) for column in points]
    return list(zip(seconds, smoothed(gold, SMOOTH), strict=True))


def measured_table(rows: list[dict[str, Any]], recipes: list[str], seeds: list[int]) -> str:
    """Means over the seeds that are there; how many that is stands in the second column."""
    lines = [
        "recipe                    seeds  sampled trained /sample  s/iter  trained:sampled s  strict    partial gold"
    ]
    for name in recipes:
        found = [row for seed in seeds if (row := find(rows, name, seed))]
        lines.append(_measured_line(name, found) if found else f"{name:25s} missing")
    return "\n".join(lines)


def _measured_line(name: str, rows: list[dict[str, Any]]) -> str:
    def average(pick: Any) -> float:
        return mean(pick(row) for row in rows)

    sampled = average(lambda row: row["forwards_per_iteration"]["sampling"] / row["samples"])
    trained = average(lambda row: row["forwards_per_iteration"]["trained"] / row["samples"])
    seconds = average(lambda row: row["seconds_per_iteration"]["total"])
    ratio = average(_trained_to_sampled)
    strict, partial = ([gain(row, "heldout", score) for row in rows] for score in ("gold.strict", "gold"))
    return (
        f"{name:25s} {len(rows):5d}  {sampled:7.2f} {trained:7.2f}          {seconds:6.2f}  {ratio:17.2f}  "
        f"{mean(a for a, _ in strict):4.1f} -> {mean(b for _, b in strict):4.1f}  "
        f"{mean(a for a, _ in partial):4.1f} -> {mean(b for _, b in partial):4.1f}"
    )


def _trained_to_sampled(row: dict[str, Any]) -> float:
    """What a trained forward with its backward pass costs, in sampling forwards of the same run."""
    seconds, forwards = row["seconds_per_iteration"], row["forwards_per_iteration"]
    return (seconds["update"] / forwards["trained"]) / (seconds["rollout"] / forwards["sampling"])


def price_table() -> str:
    """Forward-equivalents of the published settings, with sharing and without, beside the published ratios."""
    lines = [
        f"published settings, in sampling forwards per sample (a trained one counted {TRAINED_COST:g} times):",
        "recipe                sampled trained  ratio  unshared  published  against",
    ]
    for name, (against, published, base) in PUBLISHED.items():
        recipe = load_recipe(name, list(ONE_PROMPT)).recipe
        own, counts = price(recipe), geometry(recipe)
        apart = Price(_unshared_sampling(recipe), counts.trained_edges / counts.samples)
        ratio, unshared = own.equivalents / base.equivalents, apart.equivalents / base.equivalents
        numbers = f"{own.sampling:8.2f} {own.trained:7.2f} {ratio:6.2f}  {unshared:8.2f} {published:10.2f}"
        lines.append(f"{name:20s} {numbers}  {against}")
    return "\n".join(lines)


def _unshared_sampling(recipe: Recipe) -> float:
    """Sampling forwards per sample as published: trees branch, but the members of a group share no prefix."""
    alone = recipe.sampler.model_copy(update={"initial_noise": "separate"})
    return price(recipe.model_copy(update={"sampler": alone})).sampling


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("assets/benchmarks/methods.json"))
    parser.add_argument("--runs", type=Path, default=Path("runs/methods"), help="where the run folders go")
    parser.add_argument("--recipes", nargs="*", default=list(RECIPES))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=2.0, help="training time of each run")
    parser.add_argument("--table", action="store_true", help="print what is there and run nothing")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw gold over seconds as SVG")
    return parser.parse_args()


if __name__ == "__main__":
    main()
