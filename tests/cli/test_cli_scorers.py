"""Options of scorers that a command names itself, and warnings as lines."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

from flowgrpo.cli import main, warning_lines
from flowgrpo.cli.warning_lines import warnings_as_lines
from flowgrpo.recipe_loading import load_recipe

MINE = "def half(images, prompts, metadata, *, factor=0.5):\n    return [factor] * len(images)\n"


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "p.txt").write_text("a red circle\n")
    (tmp_path / "pics").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "pics" / "0.png")
    return tmp_path


def score(scorer: str, *words: str) -> int:
    return main(["score", "--scorer", scorer, "--images", "pics", "--prompts", "p.txt", *words])


def test_score_takes_options_of_the_scorer_that_it_names(pictures: Path, capsys) -> None:
    assert score("mine.py:half,gold", "--reward.options.mine.py:half.factor", "0.125") == 0
    assert "0.125" in capsys.readouterr().out
    assert score("clip", "--reward.options.clip.context_length=4") == 0


def test_an_option_of_another_scorer_is_still_refused(pictures: Path, capsys) -> None:
    assert score("gold", "--reward.options.clip.model", "x") == 2
    assert "gives options to 'clip', which the recipe does not use" in capsys.readouterr().err
    assert main(["serve", "--scorer", "gold", "--reward.options.gld.a=1"]) == 2
    assert "did you mean 'gold'?" in capsys.readouterr().err


def test_serve_hands_the_options_on(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """No port is opened: a wrong option is refused by the scorer itself, which shows that it arrived there."""
    assert main(["serve", "--scorer", "clip", "--reward.options.clip.model", "/no/such/folder"]) == 2
    assert "scorer 'clip' finds no folder '/no/such/folder'" in capsys.readouterr().err


def test_names_with_dots_are_keys_of_their_own() -> None:
    words = ["--reward.names", "hpsv2.1,gold", "--reward.names.hpsv2.1", "0.5", "--reward.options.hpsv2.1.weights=w.pt"]
    reward = load_recipe(None, words).recipe.reward
    assert reward.names == {"hpsv2.1": 0.5, "gold": 1.0} and reward.options == {"hpsv2.1": {"weights": "w.pt"}}
    evaluated = load_recipe(None, ["--eval.scorers=hpsv2.1", "--reward.options.hpsv2.1.weights=w"]).recipe
    assert evaluated.reward.options["hpsv2.1"] == {"weights": "w"}
    nested = load_recipe(None, ["--reward.options.gold.extra.a.b", "1"]).recipe.reward.options
    assert nested == {"gold": {"extra": {"a": {"b": 1}}}}


def test_warnings_of_ours_are_lines_and_counted(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = str(warning_lines.__file__)
    with warnings_as_lines():
        warnings.simplefilter("always")
        for i in range(4):
            warnings.warn_explicit(f"a prompt is\n cut: {i}", UserWarning, ours, 3)
        warnings.warn_explicit("other", UserWarning, ours, 4)
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "warning: a prompt is cut: 0",
        "warning: other",
        "warning: 3 more like: a prompt is cut: 0",
    ]


def test_warnings_of_libraries_stay_as_they_are() -> None:
    with pytest.warns(UserWarning, match="theirs"), warnings_as_lines():
        warnings.simplefilter("always")
        warnings.warn_explicit("theirs", UserWarning, str(Path(torch.__file__)), 1)
