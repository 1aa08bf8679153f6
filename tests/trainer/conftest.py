"""Runs on a random pipeline of the real classes: 16 x 16 pictures, four steps, a reward that counts red."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from flowgrpo.recipe import Recipe
from flowgrpo.recipe_loading import load_recipe
from tests.tiny import tiny_sd3_pipeline

REWARDS = """
import torch

def red(images, prompts, metadata):
    return images[:, 0].mean((1, 2))

def nan(images, prompts, metadata):
    return torch.full((len(images),), float("nan"))

def sometimes(images, prompts, metadata):
    return [None if i == 0 else 1.0 + i for i in range(len(images))]

def raising(images, prompts, metadata):
    raise OSError("the judge is asleep")

def slow(images, prompts, metadata):
    import time
    time.sleep(3)
    return images[:, 0].mean((1, 2))
"""


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return tiny_sd3_pipeline(0, tmp_path_factory.mktemp("pipeline") / "sd3")


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / "rewards.py").write_text(REWARDS)
    (folder / "prompts.txt").write_text("a red cat\na blue dog\na green bird\na white fish\n")
    return folder


@pytest.fixture
def make_recipe(pipeline_folder: Path, files: Path, tmp_path: Path) -> Callable[..., Recipe]:
    """A recipe of four iterations; keyword arguments override it, with __ for the dot."""

    def make(**changes: Any) -> Recipe:
        values = {
            "model.path": str(pipeline_folder),
            "model.height": 16,
            "model.width": 16,
            "model.max_sequence_length": 20,
            "model.guidance_scale": 1.0,
            "model.lora_rank": 2,
            "model.lora_alpha": 4,
            "data.prompts": str(files / "prompts.txt"),
            "sampler.steps": 4,
            "reward.names": f"{files / 'rewards.py'}:red",
            "eval.scorers": [f"{files / 'rewards.py'}:red"],
            "eval.steps": 3,
            "objective.clip_low": 1e-3,
            "objective.clip_high": 1e-3,
            "train.prompts_per_iteration": 2,
            "train.group_size": 4,
            "train.micro_batch_size": 4,
            "train.iterations": 4,
            "train.lr": 1e-2,
            "run.dir": str(tmp_path / "run"),
            "run.images": 0,
            "run.checkpoint_every": 1,
        }
        values.update({name.replace("__", "."): value for name, value in changes.items()})
        return load_recipe(None, values).recipe

    return make
