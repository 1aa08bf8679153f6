"""What benchmarks of training runs share: one JSON list of finished runs, each with versions, commit and machine."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from flowgrpo.runfolder import read_jsonl, write_atomically

LIBRARIES = ("torch", "diffusers", "transformers")
ANSWERS = ("length", "forwards")
"""What an evaluation of answers counts beside its scorers."""
FORMS = ("strict", "partial")
"""Components of a scorer that measure what it measures, all or nothing and by degrees."""
FACTS = ("mean", "ci95", "n", "guidance_scale", "steps", "temperature", "seconds")
"""What is kept of a row of an evaluation, where it has it."""


def held(path: Path) -> list[dict[str, Any]]:
    """Rows of the runs that are finished."""
    return json.loads(path.read_text()) if path.exists() else []


def find(rows: Sequence[dict[str, Any]], run: str, seed: int) -> dict[str, Any] | None:
    """The row of one run, if it is finished."""
    return next((row for row in rows if (row["run"], row["seed"]) == (run, seed)), None)


def train(
    out: Path, run: str, recipe: str, seed: int, folder: Path, overrides: Sequence[str], *, base: Path | None = None
) -> Path:
    """Run a recipe (an interrupted run continues) and add what it measured to the file.

    Time is the process's own on one thread, so that runs beside each other and beside other work compare.

    Args:
        out: the JSON file.
        run: what the row is called.
        recipe: shipped name.
        seed: training seed.
        folder: run folder.
        overrides: further command-line words.
        base: folder of a run of the same model and evaluation, whose samples of the untrained model are taken over.

    Returns:
        Path: the run folder.
    """
    from flowgrpo.recipe_loading import load_recipe, recipe_hash  # what only adds rows to a file needs no recipe

    words = ["--train.seed", str(seed), "--run.dir", str(folder), "--run.clock", "processor", *overrides]
    if base is not None:
        _take_over_base(base, folder)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "flowgrpo", "train", recipe, *words], check=True, env=environment)
    loaded = load_recipe(recipe, words).recipe
    facts = {"run": run, "recipe": recipe, "seed": seed, "hash": recipe_hash(loaded)}
    add(out, {**facts, **measured(folder, loaded.eval.scorers), **where()})
    return folder


def _take_over_base(base: Path, folder: Path) -> None:
    for file in base.glob("eval/base-*.jsonl"):
        target = folder / "eval" / file.name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


def add(out: Path, row: dict[str, Any]) -> None:
    """Put a finished row at the end of the file; a reader never sees half of it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, json.dumps([*held(out), row], indent=1) + "\n")


def evaluations(folder: Path, scorers: Sequence[str]) -> dict[str, Any]:
    """Evaluations of a run: set -> scorer -> label -> mean, interval and settings.

    Args:
        folder: run folder.
        scorers: names of the recipe's evaluation, kept with the components that measure the whole task in another
            way; strict scores are kept per category too.
    """
    wanted = {*scorers, *(f"{name}.{form}" for name in scorers for form in FORMS), *ANSWERS}
    sets: dict[str, Any] = {}
    for row in read_jsonl(folder / "eval.jsonl"):
        if row["scorer"] in wanted:
            scores = sets.setdefault(row["set"], {}).setdefault(row["scorer"], {})
            scores[row["label"]] = {key: row[key] for key in FACTS if key in row}
            if row["scorer"].endswith("strict"):
                parts = row["by_category"].items()
                scores[row["label"]]["by_category"] = {
                    category: round(part["mean"], 4) for category, part in parts if part["mean"] is not None
                }
    return sets


def measured(folder: Path, scorers: Sequence[str]) -> dict[str, Any]:
    """Evaluations by set and score, what iterations took, and the training reward against seconds.

    Args:
        folder: run folder.
        scorers: see `evaluations`.
    """
    metrics, timing = read_jsonl(folder / "metrics.jsonl"), read_jsonl(folder / "timing.jsonl")
    count = len(timing)
    stages = {
        name: sum(row.get(f"time/{name}", 0.0) for row in timing) / count
        for name in ("rollout", "decode", "old", "update", "total")
    }
    inputs = {
        name: sum(row[f"forwards/{name}"] for row in metrics) / count
        for name in ("sampling", "trained", "old", "reference")
    }
    curve = [
        [
            round(t["seconds"], 1),
            round(row["reward/mean"], 4),
            round(row.get("reward/gold/mean", row["reward/mean"]), 4),
        ]
        for t, row in zip(timing, metrics, strict=True)
    ]
    named = [key.split("/")[1] for key in metrics[0] if key.startswith("reward/") and key.count("/") == 2]
    by_scorer = {name: [round(row[f"reward/{name}/mean"], 4) for row in metrics] for name in dict.fromkeys(named)}
    return {
        "sets": evaluations(folder, scorers),
        "iterations": timing[-1]["iteration"],
        "train_seconds": timing[-1]["seconds"],
        "samples": metrics[-1]["samples"],
        "seconds_per_iteration": stages,
        "forwards_per_iteration": inputs,
        "curve": curve,
        "by_scorer": by_scorer,
    }


def gain(row: dict[str, Any], name: str, score: str) -> tuple[float, float]:
    """(base, trained) mean of a score on a prompt set, in points of 100."""
    before, after = (100 * row["sets"][name][score][when]["mean"] for when in ("base", "final"))
    return before, after


def where() -> dict[str, Any]:
    """Commit, versions and machine."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    machine = f"{os.cpu_count()} cores, {platform.machine()}"
    return {"commit": commit, "versions": {name: _version(name) for name in LIBRARIES}, "machine": machine}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
