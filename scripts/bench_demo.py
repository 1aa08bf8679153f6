"""Does training on tiny-sd3 raise held-out prompt following? Seeds, and a control with shuffled rewards.

    python -m scripts.bench_demo --out assets/benchmarks/demo.json

Runs the recipe `demo` once per seed, then once with `--train.shuffle_rewards true`, and adds what each run measured to
the JSON file, with versions and commit. Runs that the file already holds are not repeated, an interrupted run
continues; what is missing is printed as missing. Base and trained model use the same ODE sampler and steps; the base
runs at its best guidance, which is the recipe's `eval.base_guidance_scale`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flowgrpo.recipe_loading import load_recipe, recipe_hash
from flowgrpo.runfolder import read_jsonl, write_atomically

LIBRARIES = ("torch", "diffusers", "transformers")
SCORES = ("gold.strict", "gold")


def main() -> None:
    """Run what is missing, then print the table."""
    args = _arguments()
    jobs = [("demo", seed) for seed in args.seeds] + [("control", seed) for seed in args.control_seeds]
    for name, seed in jobs:
        if _find(_held(args.out), name, seed) is None and not args.table:
            _run(args, name, seed)
    print(table(_held(args.out), jobs))


def table(rows: list[dict[str, Any]], jobs: list[tuple[str, int]]) -> str:
    """Points of strict gold, base to trained, per run and set; missing runs are said to be missing."""
    lines = []
    for name, seed in jobs:
        row = _find(rows, name, seed)
        if row is None:
            lines.append(f"{name:8s} seed {seed}: missing")
            continue
        for set_name, held in row["sets"].items():
            before, after = (100 * held["gold.strict"][when]["mean"] for when in ("base", "final"))
            partial = [100 * held["gold"][when]["mean"] for when in ("base", "final")]
            lines.append(
                f"{name:8s} seed {seed} {set_name:8s} strict {before:5.1f} -> {after:5.1f} ({after - before:+5.1f})  "
                f"partial {partial[0]:5.1f} -> {partial[1]:5.1f}  {row['iterations']} iterations, "
                f"{row['train_seconds']:.0f} s of training"
            )
    return "\n".join(lines)


def _run(args: argparse.Namespace, name: str, seed: int) -> None:
    overrides = ["--train.seed", str(seed), "--run.dir", str(args.runs / f"{name}-seed{seed}")]
    if args.minutes is not None:
        overrides += ["--train.max_minutes", str(args.minutes)]
    if name == "control":
        overrides += ["--train.shuffle_rewards", "true"]
    subprocess.run([sys.executable, "-m", "flowgrpo", "train", "demo", *overrides], check=True)
    recipe = load_recipe("demo", overrides).recipe
    row = {"run": name, "seed": seed, "hash": recipe_hash(recipe), **_measured(Path(recipe.run.dir)), **_where()}
    write_atomically(args.out, json.dumps([*_held(args.out), row], indent=1) + "\n")


def _measured(folder: Path) -> dict[str, Any]:
    sets: dict[str, Any] = {}
    for row in read_jsonl(folder / "eval.jsonl"):
        if row["scorer"] in SCORES:
            held = sets.setdefault(row["set"], {}).setdefault(row["scorer"], {})
            held[row["label"]] = {key: row[key] for key in ("mean", "ci95", "n", "guidance_scale", "steps", "seconds")}
            if row["scorer"] == "gold.strict":
                held[row["label"]]["by_category"] = {
                    category: round(part["mean"], 4) for category, part in row["by_category"].items()
                }
    last = read_jsonl(folder / "timing.jsonl")[-1]
    return {"sets": sets, "iterations": last["iteration"], "train_seconds": last["seconds"]}


def _where() -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    versions = {name: version(name) for name in LIBRARIES}
    return {"commit": commit, "versions": versions, "machine": f"{os.cpu_count()} cores, {platform.machine()}"}


def _held(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text()) if path.exists() else []


def _find(rows: list[dict[str, Any]], name: str, seed: int) -> dict[str, Any] | None:
    return next((row for row in rows if (row["run"], row["seed"]) == (name, seed)), None)


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
