"""A model draws its pictures, on a random pipeline of the real classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowgrpo.cli import main
from tests.benchmarks.bench_files import dimensions, write_csv
from tests.tiny import IMAGE_SIZE, TEXT_LENGTH, tiny_sd3_pipeline

JUDGE = "def judge(prompt, picture, points):\n    return [float(picture.mean()) > 0.45 for _ in points]\n"


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd3_pipeline(0, tmp_path_factory.mktemp("model") / "pipe")


def model(pipe: Path) -> list[str]:
    size = [f"--model.{key}={IMAGE_SIZE}" for key in ("height", "width")]
    return [f"--model.path={pipe}", *size, f"--model.max_sequence_length={TEXT_LENGTH}", "--run.device=cpu"]


def test_a_model_draws_with_published_names_and_an_interruption_continues(there: Path, pipe: Path, capsys) -> None:
    (there / "mine.py").write_text(JUDGE)
    rows = [(3, "a red circle", dimensions(["Style"], ["ink"])), (8, "two squares", dimensions(["Style"], ["ink"]))]
    write_csv(there / "test_prompts_en.csv", rows)
    words = ["eval", "unigenbench", *model(pipe), "--data", ".", "--judge", "mine.py:judge", "--steps", "2"]
    words += ["--samples", "2", "--out", "out"]
    assert main([*words, "--json"]) == 0
    whole = capsys.readouterr().out
    files = sorted((there / "out/images/en").iterdir())
    assert [file.name for file in files] == ["3_0.png", "3_1.png", "8_0.png", "8_1.png"]
    held = {file: file.read_bytes() for file in files}
    assert len(set(held.values())) == 4
    files[2].unlink()
    (answers,) = (there / "out/answers/en").iterdir()
    answers.write_text("".join(answers.read_text().splitlines(keepends=True)[:1]))
    assert main([*words, "--json"]) == 0
    assert capsys.readouterr().out == whole and {file: file.read_bytes() for file in files} == held
    assert main([*words, "--steps", "3"]) == 2
    assert "steps 2, now 3" in capsys.readouterr().err
