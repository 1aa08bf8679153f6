"""A user's own function as a reward, and the names of the shipped ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from reward_models import SCORERS, ScorerError, check_name, load

REDNESS = """\
def redness(images, prompts, metadata, *, strength=1.0):
    red, others = images[:, 0], images[:, 1:].mean(dim=1)
    return strength * (red - others).mean(dim=(1, 2))
"""
ANSWERS = """\
import numpy, torch
VALUES = {VALUES}
def answer(images, prompts, metadata):
    return VALUES
number = 3
def one(images): return [0.0]
def explode(images, prompts, metadata): raise KeyError("label")
def polluter(images, prompts, metadata):
    images.zero_(); prompts.clear(); metadata[0]["seen"] = True
    return [0.0] * len(images)
def wants_device(images, prompts, metadata, device): return [float(device == "cpu")] * len(images)
def labels(images, prompts, metadata): return [row["label"] if "label" in row else None for row in metadata]
"""


@pytest.fixture
def own(tmp_path: Path):
    def write(values: str = "[]") -> str:
        path = tmp_path / "own.py"
        path.write_text(ANSWERS.replace("{VALUES}", values), encoding="utf-8")
        return str(path)

    return write


def images(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def test_eight_lines_are_a_reward(tmp_path: Path) -> None:
    path = tmp_path / "my_rewards.py"
    path.write_text(REDNESS, encoding="utf-8")
    batch = images()
    expected = batch[:, 0].mean(dim=(1, 2)) - batch[:, 1:].mean(dim=(1, 2, 3))
    scores = load(f"{path}:redness")(batch, [""] * 3).scores
    torch.testing.assert_close(scores, expected.double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        load(f"{path}:redness", strength=3)(batch, [""] * 3).scores, 3 * scores, atol=1e-6, rtol=0
    )


def test_a_module_in_the_current_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rewards_in_this_folder.py").write_text(REDNESS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    assert load("rewards_in_this_folder:redness")(images(), [""] * 3).valid.all()


@pytest.mark.parametrize(
    "values", ["[0.5, 1, True]", "torch.tensor([0.5, 1., 1.])", "numpy.array([0.5, 1, 1])", "(0.5, 1, 1)"]
)
def test_lists_tensors_and_arrays_are_answers(own, values: str) -> None:
    assert load(own(values) + ":answer")(images(), [""] * 3).scores.tolist() == [0.5, 1.0, 1.0]


@pytest.mark.parametrize("value", ["None", "float('nan')", "float('inf')", "-float('inf')"])
def test_no_number_is_an_invalid_sample_not_a_zero(own, value: str) -> None:
    scores = load(own(f"[1.0, {value}, 0.0]") + ":answer")(images(), [""] * 3)
    assert scores.valid.tolist() == [True, False, True] and scores.scores[1].isnan()
    assert "not a finite number" in scores.errors[1]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ("[1.0, 2.0]", r"\[2\] numbers for 3 images; right would be \[3\]"),
        ("torch.ones(3, 1)", r"\[3, 1\] numbers for 3 images"),
        ("torch.tensor(1.0)", r"\[\] numbers for 3 images"),
        ("1.0", "returned float"),
        ("{'a': 1}", "returned dict"),
        ("None", "returned NoneType"),
        ("'abc'", "returned str"),
        ("[1.0, 'good', 0.0]", "'good' for image 1"),
    ],
)
def test_a_wrong_answer_is_one_clear_error(own, values: str, words: str) -> None:
    with pytest.raises(ScorerError, match=words):
        load(own(values) + ":answer")(images(), [""] * 3)


def test_an_exception_is_a_text_on_every_sample(own) -> None:
    scores = load(own() + ":explode")(images(), [""] * 3)
    assert not scores.valid.any() and scores.errors[2].endswith("raised KeyError: 'label'")


def test_a_function_that_writes_into_its_arguments_harms_nobody(own) -> None:
    batch, prompts, metadata = images(), ["a", "b", "c"], [{}, {}, {}]
    before = batch.clone()
    assert load(own() + ":polluter")(batch, prompts, metadata).valid.all()
    assert torch.equal(batch, before) and prompts == ["a", "b", "c"] and metadata == [{}, {}, {}]


def test_metadata_and_device_reach_the_function(own) -> None:
    path = own()
    scores = load(path + ":labels")(images(), [""] * 3, [{"label": 0.25}, {}, {"label": np.float32(0.5)}])
    assert scores.scores.nan_to_num(-1).tolist() == [0.25, -1.0, 0.5]
    assert load(path + ":wants_device", device="cpu")(images(), [""] * 3).scores.tolist() == [1.0] * 3


def test_the_version_follows_the_source(own) -> None:
    first = load(own("[0.0]") + ":answer")
    assert first.version == load(own("[0.0]") + ":answer").version
    assert first.version != load(own("[1.0]") + ":answer").version
    assert not first.thread_safe and first.needs == ("prompt", "metadata") and first.kind == "pointwise"


@pytest.mark.parametrize(
    ("tail", "options", "words"),
    [
        (":answr", {}, "no function 'answr' \\(did you mean 'answer'"),
        (":number", {}, "is a int, not a function"),
        (":one", {}, "cannot be called as f\\(images, prompts, metadata\\)"),
        (":answer", {"strength": 2}, "with options strength"),
        (":two words", {}, "no import path"),
    ],
)
def test_wrong_functions_are_refused_at_load(own, tail: str, options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load(own() + tail, **options)


def test_wrong_places_are_refused_at_load(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("1 / 0", encoding="utf-8")
    with pytest.raises(ValueError, match="ZeroDivisionError"):
        load(f"{tmp_path}/mine.py:f")
    with pytest.raises(ValueError, match=r"no file .*did you mean .*mine\.py"):
        load(f"{tmp_path}/mime.py:f")
    with pytest.raises(ValueError, match=r"there is no module 'no_such_package\.rewards': No module named"):
        load("no_such_package.rewards:f")


def test_unknown_names_and_options_get_a_near_miss() -> None:
    with pytest.raises(ValueError, match=r"unknown scorer 'glod' \(did you mean 'gold'\?\).*gold_strict.*clip"):
        load("glod")
    with pytest.raises(ValueError, match=r"scorer 'clip' has no option 'modle' \(did you mean 'model'\?\)"):
        load("clip", modle="x")
    with pytest.raises(ValueError, match="scorer 'gold' has no option 'strict'; it has none"):
        load("gold", strict=True)
    for name in [*SCORERS, "any.module:function"]:
        check_name(name)


def test_names_are_known_without_torch() -> None:
    code = "import sys, reward_models; reward_models.check_name('clip'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
