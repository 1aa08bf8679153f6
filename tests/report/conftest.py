"""Synthetic run folders: the files of a run as the trainer leaves them, with numbers that a test can name."""

from __future__ import annotations

import io
import json
import math
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw
from report_rows import PROMPTS, branch_tree, per_step, win_row, write_lines

STEPS = (1, 2, 3, 4)


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """make_run(iterations=40) writes a finished run and gives its folder."""
    return lambda iterations=40: write_run(tmp_path / "run", iterations)


def write_run(path: Path, iterations: int = 40) -> Path:
    """A finished run of `iterations` iterations with every file of the contract."""
    path.mkdir(parents=True, exist_ok=True)
    rng = random.Random(7)
    (path / "recipe.json").write_text(json.dumps(recipe()), encoding="utf-8")
    write_lines(path / "metrics.jsonl", (metric_row(i, iterations, rng) for i in range(1, iterations + 1)))
    write_lines(path / "timing.jsonl", (timing_row(i, rng) for i in range(1, iterations + 1)))
    write_lines(path / "eval.jsonl", evaluation_rows(iterations))
    write_lines(path / "events.jsonl", EVENTS)
    write_lines(path / "trees.jsonl", (branch_tree(1), branch_tree(iterations, pruned=True)))
    write_lines(path / "matrices.jsonl", (win_row(1, 8), win_row(iterations, 8)))
    write_pictures(path / "images", ("before", f"iteration {iterations // 2}", "after"))
    return path


def recipe() -> dict[str, Any]:
    values = {
        "model": {"path": "tiny-sd3", "dtype": "float32", "adapter": "full", "height": 64, "width": 64},
        "data": {"prompts": "shapes/train", "limit": None},
        "sampler": {"steps": 10, "kernel": "cps", "eta": 0.8, "window": "random"},
        "reward": {"names": {"gold": 1.0, "gold.strict": 0.0, "clip": 0.0}, "max_invalid_share": 0.1},
        "objective": {"ratio": "plain", "clip_low": 1e-4, "clip_high": 1e-4, "beta": 0.0},
        "train": {"lr": 1e-4, "max_grad_norm": 1.0, "seed": 42, "shuffle_rewards": False},
        "eval": {"prompts": {"heldout": "shapes/heldout"}, "steps": 20},
        "run": {"dir": "runs/demo-seed42", "images": 4},
    }
    origins = {f"{section}.{key}": "default" for section, keys in values.items() for key in keys}
    origins |= {"sampler.kernel": "demo.yaml:12", "sampler.eta": "demo.yaml:13", "train.lr": "command line"}
    return {"name": "demo", "hash": "0123456789abcdef", "values": values, "origins": origins}


def metric_row(iteration: int, last: int, rng: random.Random) -> dict[str, Any]:
    done = iteration / last
    level = 0.5 + 0.22 * math.tanh(2 * done) + rng.gauss(0, 0.015)
    window = STEPS[iteration % 3 : iteration % 3 + 2]
    return {
        "iteration": iteration, "samples": 192, "updates": 1, "on_policy": True,
        "reward/mean": level, "reward/std": 0.3 - 0.05 * done, "reward/group_std": 0.22,
        "reward/zero_std_groups": 0.0625 * rng.randrange(4), "reward/invalid": 0.0,
        "reward/gold/mean": level, "reward/gold/std": 0.3, "reward/gold.strict/mean": level - 0.2,
        "reward/clip/mean": 0.24 + 0.02 * done, "reward/clip/std": 0.01,
        "loss": rng.gauss(0, 1e-5), "kl": 1e-6 * 10 ** (3 * done), "grad_norm": abs(rng.gauss(0.4, 0.1)), "lr": 1e-4,
        "clip/low": 0.1 * done, "clip/high": 0.12 * done, "advantage/abs_mean": 0.8,
        "parameters/update_norm": 0.01, "image/brightness": 0.4 + 0.02 * done, "image/saturation": 0.6,
        "image/edge_density": 0.1, "image/diversity": 0.3 - 0.05 * done,
        "steps": 10, "trained_steps": list(window), "per_step": per_step(window, rng),
        "forwards/sampling": 3840, "forwards/trained": 768, "forwards/old": 0, "forwards/reference": 0,
        "decodes": 192, "scored": 192, "custom/number": 3 * done,
    }  # fmt: skip


def timing_row(iteration: int, rng: random.Random) -> dict[str, Any]:
    stages = {
        "rollout": 4.0,
        "decode": 0.5,
        "reward_wait": 0.1,
        "old": 0.0,
        "update": 5.0,
        "checkpoint": 0.05,
        "other": 0.1,
    }
    times = {f"time/{name}": seconds * rng.uniform(0.9, 1.1) for name, seconds in stages.items()}
    return {"iteration": iteration, "seconds": 9.8 * iteration, **times}


def evaluation_row(label: str, iteration: int, prompts: str, scorer: str, mean: float) -> dict[str, Any]:
    categories = {"count": mean - 0.1, "colour": mean + 0.05, "relation": mean - 0.2}
    by_category = {name: {"mean": value, "ci95": 0.08, "n": 160} for name, value in categories.items()}
    return {
        "label": label, "iteration": iteration, "set": prompts, "scorer": scorer, "mean": mean, "ci95": 0.043, "n": 512,
        "seconds": 31.0, "by_category": by_category, "guidance_scale": 1.0 if label == "base" else 2.0, "steps": 20,
    }  # fmt: skip


def evaluation_rows(last: int) -> list[dict[str, Any]]:
    rows = []
    for prompts, scorer, base, final in (
        ("heldout", "gold.strict", 0.42, 0.61),
        ("heldout", "gold", 0.55, 0.74),
        ("combinations", "gold.strict", 0.40, 0.43),
    ):
        rows.append(evaluation_row("base", 0, prompts, scorer, base))
        rows.append(evaluation_row("iteration", last // 2, prompts, scorer, (base + final) / 2))
        rows.append(evaluation_row("final", last, prompts, scorer, final))
    return rows


EVENTS = (
    {"time": "2026-01-02T03:04:05.678+00:00", "kind": "start", "message": "demo, seed 42"},
    {"time": "2026-01-02T03:05:05.678+00:00", "kind": "checkpoint", "message": "iteration 10"},
    {"time": "2026-01-02T03:06:05.678+00:00", "kind": "warning", "message": "clip range 1e-4 <b>never</b> reached"},
    {"time": "2026-01-02T03:14:05.678+00:00", "kind": "stop", "message": "finished: max_minutes reached"},
)


def write_pictures(folder: Path, labels: Iterable[str], size: int = 64) -> None:
    columns = []
    for order, label in enumerate(labels):
        sub = folder / label.replace(" ", "-")
        sub.mkdir(parents=True, exist_ok=True)
        names = [f"{sub.name}/{place:03d}.png" for place in range(len(PROMPTS))]
        for place, name in enumerate(names):
            (folder / name).write_bytes(picture(place, order, size))
        columns.append(
            {"label": label, "iteration": 20 * order, "files": names, "scores": [0.25 * order] * len(PROMPTS)}
        )
    index = {"prompts": list(PROMPTS), "seeds": list(range(len(PROMPTS))), "columns": columns}
    (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")


@pytest.fixture
def make_picture() -> Callable[..., bytes]:
    return picture


def picture(place: int, order: int, size: int, noisy: bool = False) -> bytes:
    """A PNG of one coloured shape on grey; `noisy` makes it incompressible."""
    image = Image.new("RGB", (size, size), (60, 60, 66))
    color = [(220, 60, 50), (60, 110, 230), (70, 190, 90), (235, 235, 235)][place % 4]
    reach = size * (0.2 + 0.08 * order)
    box = [size / 2 - reach, size / 2 - reach, size / 2 + reach, size / 2 + reach]
    draw = ImageDraw.Draw(image)
    (draw.ellipse if place % 2 == 0 else draw.rectangle)(box, fill=color)
    if noisy:
        image = Image.frombytes("RGB", (size, size), random.Random(0).randbytes(3 * size * size))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
