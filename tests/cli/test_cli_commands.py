"""Commands that run a model, on a random pipeline, and what they print and leave."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flowgrpo.cli import main
from tests.tiny import IMAGE_SIZE, TEXT_LENGTH, tiny_sd3_pipeline

REWARD = "def brightness(images, prompts, metadata):\n    return [float(image.mean()) for image in images]\n"
PROMPTS = [{"prompt": "a red circle", "category": "one"}, {"prompt": "two blue squares", "category": "two"}]
MODEL = [
    "--model.path=pipe",
    f"--model.height={IMAGE_SIZE}",
    f"--model.width={IMAGE_SIZE}",
    f"--model.max_sequence_length={TEXT_LENGTH}",
    "--eval.steps=2",
    "--run.device=cpu",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    tiny_sd3_pipeline(0, folder / "pipe")
    (folder / "mine.py").write_text(REWARD)
    (folder / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
    return folder


@pytest.fixture(autouse=True)
def there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def test_sample_then_score(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", *MODEL, "--prompts", "p.jsonl", "--seeds", "0-2", "--out", "pictures"]) == 0
    files = capsys.readouterr().out.split()
    assert len(files) == 6 and all((place / file).is_file() for file in files)
    words = ["--scorer", "mine.py:brightness", "--images", "pictures", "--prompts", "p.jsonl", "--out", "scores.jsonl"]
    assert main(["score", *words]) == 0
    lines = [json.loads(line) for line in (place / "scores.jsonl").read_text().splitlines()]
    assert [line["prompt"] for line in lines] == ["a red circle"] * 3 + ["two blue squares"] * 3
    mean = sum(line["scores"]["mine.py:brightness"] for line in lines) / 6
    table = capsys.readouterr().out.split()
    assert f"{mean:.4f}" in table and "one" in table and "6" in table


def test_eval_continues_where_it_stopped(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["eval", *MODEL, "--prompts", "p.jsonl", "--scorer", "mine.py:brightness", "--json"]
    assert main([*words, "--out", "eval.jsonl"]) == 0
    whole = json.loads(capsys.readouterr().out)
    lines = (place / "eval.jsonl").read_text().splitlines(keepends=True)
    (place / "eval.jsonl").write_text("".join(lines[:-1]))
    assert main([*words, "--out", "eval.jsonl"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (place / "eval.jsonl").read_text().splitlines(keepends=True)[:-1] == lines[:-1]
    assert again["mean"] == pytest.approx(whole["mean"], abs=1e-6) and again["n"] == whole["n"] == 2


def test_an_evaluation_of_something_else_is_neither_continued_nor_lost(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["eval", *MODEL, "--prompts", "p.jsonl", "--out", "eval.jsonl"]
    assert main([*words, "--scorer", "mine.py:brightness"]) == 0
    held = (place / "eval.jsonl").read_bytes()
    assert main([*words, "--scorer", "jpeg_compressibility", "--steps", "3"]) == 2
    said = capsys.readouterr().err
    assert "eval.jsonl holds an evaluation of other settings (steps" in said and "here 3" in said
    assert "scorers ['mine.py:brightness'], here ['jpeg_compressibility']" in said and "another --out" in said
    assert (place / "eval.jsonl").read_bytes() == held
    (place / "eval.jsonl").write_text("my notes\n")
    assert main([*words, "--scorer", "mine.py:brightness"]) == 2
    assert "holds no evaluation" in capsys.readouterr().err and (place / "eval.jsonl").read_text() == "my notes\n"


def test_train_flow_grpo_on_own_prompts_and_model(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The paper's recipe on other prompts, another model and another reward, made small; then its report again."""
    small = [
        *("--train.prompts_per_iteration=2", "--train.group_size=2", "--train.iterations=1", "--sampler.steps=3"),
        *("--model.dtype=float32", "--model.lora_rank=2", "--run.dir=run", "--run.images=0", "--eval.scorers=gold"),
    ]
    words = ["--data.prompts", "p.jsonl", "--reward.names", "mine.py:brightness"]
    assert main(["train", "flow_grpo", *MODEL, *words, *small]) == 0
    assert capsys.readouterr().out.strip().endswith("report.html")
    record = json.loads((place / "run" / "recipe.json").read_text())
    assert record["origins"]["data.prompts"] == "command line"
    assert record["origins"]["sampler.eta"].startswith("flow_grpo.yaml:")
    assert (place / "run" / "adapter" / "pytorch_lora_weights.safetensors").is_file()
    (place / "run" / "report.html").unlink()
    assert main(["report", "run"]) == 0 and (place / "run" / "report.html").is_file()


def test_check_shows_counts_estimate_and_origins(capsys: pytest.CaptureFixture[str]) -> None:
    tiled = ["--model.decode_tiling", "--train.micro_batch_size", "auto"]
    assert main(["check", "flow_grpo", *MODEL, "--data.prompts", "p.jsonl", *tiled]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for part in (
        "model.path pipe command line",
        "sampler.eta 0.7 flow_grpo.yaml:",
        "samples 48 prompts x 24 = 1152, 1152 of them trained",
        "sampling forwards 11520 (23040 rows with guidance)",
        "old forwards 5184",
        "estimate, time good to a factor of two",
        "auto: at least 81 per update, as many of 64 network inputs or less as fit",
        "model.decode_tiling lossy decodes overlapping tiles",
        "model.decode_tiling: is lossy: it decodes overlapping tiles",
        "; scorers' own models not counted",
        "train 2 from p.jsonl",
        "48 of 2 prompts: some come twice in an iteration",
    ):
        assert part in said, part
    assert said.index("model.path pipe") < said.index("default")


def test_check_run(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--train.prompts_per_iteration=2", "--train.group_size=2", "--sampler.steps=3", "--model.dtype=float32"]
    words = ["--data.prompts", "p.jsonl", "--reward.names", "mine.py:brightness", "--model.lora_rank=2"]
    assert main(["check", "flow_grpo", "--run", *MODEL, *small, *words]) == 0
    assert "first ratio" in capsys.readouterr().out
