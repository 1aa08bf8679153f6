"""Commands over a language model: check, sample with its unmasking, eval."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flowgrpo.cli import main
from tests import masked_toys as toys

ODD = "</bdi><script>alert(1)</script>?"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = toys.bert(tmp_path_factory.mktemp("model") / "bert")
    return ["--model.path", str(folder), "--sampler.gen_length", "6", "--sampler.steps", "6"]


@pytest.mark.parametrize("name", ["diffu_grpo", "coupled_grpo", "gdpo", "mdpo"])
def test_check_counts_answers_and_forwards(name: str, model: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"{name}_demo", *model]) == 0
    out = capsys.readouterr().out
    assert "6 tokens in 6 steps, one block, low_confidence first" in out and "32 prompts x 16 = 512" in out
    assert main(["check", name]) == 0  # not on this disk: said, but no fault
    assert "will be fetched by its hub name" in capsys.readouterr().out


def test_check_names_what_belongs_to_the_other_kind(capsys: pytest.CaptureFixture[str], model: list[str]) -> None:
    assert main(["check", "demo", "--model.path", model[1]]) == 2
    assert "model_index.json" in capsys.readouterr().err
    assert main(["check", "diffu_grpo_demo", "--sampler.eta", "0.5", *model]) == 2
    assert "belongs to flow models" in capsys.readouterr().err


def test_sample_prints_the_answer_and_its_steps(model: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "sample",
        "diffu_grpo_demo",
        *model,
        "--prompt",
        "1+2=",
        "--show-steps",
        "--eval.decoding.temperature",
        "1",
    ]
    assert main([*words, "--seeds", "0,1"]) == 0
    both = capsys.readouterr().out.splitlines()
    assert both[0].startswith("1+2= [seed 0, ") and "forwards]" in both[0]
    steps = [line.split("  ", 1)[1] for line in both if line[:4].strip().isdigit() and line[4:6] == "  "]
    masks = [line.count("▒") for line in steps]
    assert masks[0] == 5 and 0 <= masks[-1] < 6
    assert main([*words, "--seeds", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == both[-1]  # a seed's answer does not depend on its batch


def test_the_page_is_escaped_and_needs_nothing_else(model: list[str], tmp_path: Path) -> None:
    page = tmp_path / "steps.html"
    words = ["sample", "diffu_grpo_demo", *model, "--model.max_sequence_length", "60"]
    assert main([*words, "--prompt", ODD, "--html", str(page)]) == 0
    text = page.read_text()
    assert "<script" not in text and "&lt;script&gt;" in text and "http" not in text.replace("http-equiv", "")
    assert text.count("<li ") == 6 and "default-src 'none'" in text


def test_eval_has_rows_for_length_and_forwards(
    model: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "p.jsonl"
    row = {"task": "arithmetic", "answer": "3", "category": "small"}
    prompts.write_text("".join(json.dumps({"prompt": f"{i}+1=", **row}) + "\n" for i in range(3)))
    words = ["eval", "diffu_grpo_demo", *model, "--prompts", str(prompts), "--scorer", "task_strict", "--json"]
    assert main([*words, "--steps", "3"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"length", "forwards"} < {found["scorer"] for found in rows}
    assert rows[0]["steps"] == 3 and rows[0]["n"] + rows[0]["invalid"] == 3
    assert main([*words, "--guidance-scale", "3"]) == 2
    assert "answers have no setting 'guidance_scale'" in capsys.readouterr().err
    assert main([*words[:-3], "--scorer", "gold"]) == 2
    assert "looks at pictures" in capsys.readouterr().err


def test_pictures_have_no_unmasking(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", "demo", "--prompt", "a red circle", "--show-steps"]) == 2
    assert "draws pictures" in capsys.readouterr().err
