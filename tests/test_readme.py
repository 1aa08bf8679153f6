"""The README's own reward and own kernel, trained on as they are printed; `tests/test_docs.py` has all other blocks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flowgrpo.recipe_loading import load_recipe
from flowgrpo.trainer import check_run
from tests.doc_blocks import ROOT, shown_files
from tests.tiny import tiny_sd3_pipeline

LONGEST = 8


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("readme")
    (folder / "prompts.txt").write_text("a red cat\na blue dog\n")
    return {
        "model.path": str(tiny_sd3_pipeline(0, folder / "sd3")),
        "model.height": 16,
        "model.width": 16,
        "model.max_sequence_length": 20,
        "model.lora_rank": 2,
        "data.prompts": str(folder / "prompts.txt"),
        "sampler.steps": 4,
        "train.prompts_per_iteration": 2,
        "train.group_size": 3,
        "eval.scorers": [],
    }


def printed(name: str, folder: Path) -> Path:
    """A file of the README, of at most eight lines of code."""
    code = shown_files(ROOT / "README.md")[name]
    lines = [line for line in code.splitlines() if line.strip() and line != f"# {name}"]
    assert len(lines) <= LONGEST
    path = folder / name
    path.write_text(code)
    return path


def test_own_reward(settings: dict[str, object], tmp_path: Path) -> None:
    path = printed("my_reward.py", tmp_path)
    row = check_run(load_recipe(None, {**settings, "reward.names": f"{path}:warm"}).recipe)
    assert row["reward/std"] > 0 and row["grad_norm"] > 0 and row["reward/invalid"] == 0


def test_own_kernel(settings: dict[str, object], tmp_path: Path) -> None:
    reward, kernel = printed("my_reward.py", tmp_path), printed("my_kernel.py", tmp_path)
    changes = {"reward.names": f"{reward}:warm", "sampler.kernel": f"{kernel}:wiggle"}
    row = check_run(load_recipe(None, {**settings, **changes}).recipe)
    assert row["grad_norm"] > 0 and row["ratio_minus_1/max"] == 0.0
    assert row["per_step"]["std"] == pytest.approx([0.7 * sigma for sigma in row_sigmas()], rel=1e-6)


def row_sigmas() -> list[float]:
    """Levels after each trained step of the default grid with shift 3 and four steps."""
    from samplers.sigmas import flow_match_sigmas

    return list(flow_match_sigmas(4, shift=3.0))[1:-1]
