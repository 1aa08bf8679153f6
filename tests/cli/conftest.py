"""A working directory with the files of a small pipeline, prompts and a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_files import write_pipeline

RECIPE = """\
name: mine
model:
  path: pipe
  height: 64
  width: 64
data:
  prompts: prompts.txt
reward:
  names: gold
train:
  lr: 3e-4
"""


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with `pipe/`, `prompts.txt` and `mine.yaml`, made the working directory."""
    write_pipeline(tmp_path / "pipe")
    (tmp_path / "prompts.txt").write_text("".join(f"a red circle number {i}\n" for i in range(20)))
    (tmp_path / "mine.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path
