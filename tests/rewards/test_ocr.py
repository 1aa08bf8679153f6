"""The arithmetic of text rendering, and the scorer around any reader."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reward_models import ScorerError, load
from reward_models.ocr_rules import joined, levenshtein, normal, quoted, text_reward, video_reward

WORDS = st.text(alphabet="abc ", max_size=8)


@given(WORDS, WORDS, WORDS)
def test_the_distance_is_a_metric(a: str, b: str, c: str) -> None:
    assert levenshtein(a, b) == levenshtein(b, a) <= max(len(a), len(b))
    assert (levenshtein(a, b) == 0) == (a == b)
    assert abs(len(a) - len(b)) <= levenshtein(a, b) <= levenshtein(a, c) + levenshtein(c, b)


@given(WORDS, st.text(alphabet="abc", min_size=1, max_size=8))
def test_the_reward_is_between_0_and_1_and_full_where_the_target_stands(read: str, target: str) -> None:
    assert 0 <= text_reward(read, target) <= 1
    assert text_reward(f"x{read}{target.upper()}y", target) == 1
    assert 0 <= video_reward([read, target], target) <= 1


@pytest.mark.parametrize(
    ("a", "b", "distance"), [("kitten", "sitting", 3), ("", "abc", 3), ("flaw", "lawn", 2), ("ab", "ba", 2)]
)
def test_known_distances(a: str, b: str, distance: int) -> None:
    assert levenshtein(a, b) == distance


def test_targets_are_what_is_quoted_first() -> None:
    assert quoted('a sign "Open" and "Shut"') == "Open"
    assert quoted("a sign “Open” and “Shut”") == "Open"
    assert quoted('straight before “curly” "wins"') == "wins"
    assert quoted("no sign") is None and quoted('half a "quote') is None
    assert normal("Hello World") == "helloworld" and joined([("a", 0.9), ("b", 0.0), ("c", 0.1)]) == "ac"


@pytest.mark.parametrize("function", [lambda: text_reward("a", " "), lambda: video_reward(["a"], "")])
def test_an_empty_target_is_an_error(function) -> None:
    with pytest.raises(ValueError, match="the target is empty"):
        function()


@pytest.fixture
def reader(tmp_path: Path) -> str:
    """Reads the red of the first pixel: 0 is "HELLO", 1 fails, 2 raises, 3 reads nothing."""
    (tmp_path / "my_reader.py").write_text(
        "def read(pictures):\n"
        "    assert all(p.dtype == 'uint8' and p.shape == (6, 4, 3) for p in pictures)\n"
        "    if any(p[0, 0, 0] == 2 for p in pictures):\n"
        "        raise RuntimeError('lens cap')\n"
        "    return [{0: 'HELLO', 1: None, 3: ''}[int(p[0, 0, 0])] for p in pictures]\n"
    )
    return f"{tmp_path / 'my_reader.py'}:read"


def pictures(*reds: int) -> torch.Tensor:
    return torch.tensor(reds).float().view(-1, 1, 1, 1).expand(-1, 3, 6, 4) / 255


def test_scores_and_failures_stay_with_their_picture(reader: str) -> None:
    prompts = ['"Hello" in chalk', '"Help" in chalk', '"Hello"', '"Hello"', '"Hello"', "chalk"]
    got = load("ocr", reader=reader)(pictures(0, 0, 1, 2, 3, 0), prompts)
    assert got.valid.tolist() == [True, True, False, False, True, False]
    assert got.scores[[0, 1, 4]].tolist() == [1.0, 0.5, 0.0]
    assert "could not read" in got.errors[2] and "lens cap" in got.errors[3] and "double quotes" in got.errors[5]


def test_the_metadata_may_hold_the_target(reader: str) -> None:
    got = load("ocr", reader=reader, batch=2)(
        pictures(0, 0), ['"xxxx"', "none"], [{"text": "hello"}, {"text": "jello"}]
    )
    assert got.scores.tolist() == [1.0, 0.8]


def test_readers_are_checked(reader: str, tmp_path: Path) -> None:
    with pytest.raises(ScorerError, match="knows no reader 'rapid'; right would be rapidocr or your own"):
        load("ocr", reader="rapid")
    (tmp_path / "short.py").write_text("def read(pictures):\n    return []\n")
    with pytest.raises(ScorerError, match="got 0 texts from its reader for 1 pictures"):
        load("ocr", reader=f"{tmp_path / 'short.py'}:read")(pictures(0), ['"a"'])


def test_rapidocr_gets_blue_first_and_its_lines_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def engine(array: np.ndarray) -> SimpleNamespace:
        seen.append(array[0, 0].tolist())
        return SimpleNamespace(txts=("Hel", "lo", "?"), scores=(0.9, 0.8, 0.0))

    monkeypatch.setitem(sys.modules, "rapidocr", SimpleNamespace(RapidOCR=lambda: engine, __version__="3"))
    image = torch.zeros(1, 3, 4, 4)
    image[:, 0] = 1
    assert load("ocr")(image, ['"hello"']).scores.tolist() == [1.0] and seen == [[0, 0, 255]]
    monkeypatch.setitem(
        sys.modules, "rapidocr", SimpleNamespace(RapidOCR=lambda: lambda array: SimpleNamespace(txts=None, scores=None))
    )
    assert load("ocr")(image, ['"hello"']).scores.tolist() == [0.0]
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    with pytest.raises(ScorerError, match="needs the extra ocr"):
        load("ocr")


def test_the_version_follows_the_reader(reader: str, tmp_path: Path) -> None:
    (tmp_path / "b.py").write_text("def read(pictures):\n    return ['x'] * len(pictures)\n")
    versions = [load("ocr", reader=name).version for name in (reader, f"{tmp_path / 'b.py'}:read")]
    assert len(set(versions)) == 2
