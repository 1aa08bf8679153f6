"""ImageReward through a stand-in for its package: how it is called, and what is said where it cannot be."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from reward_models import ScorerError, load


class Stub(nn.Linear):
    """Scores by the mean red of a PIL picture and the length of its prompt."""

    def score(self, prompt: str, picture) -> float:
        return picture.getpixel((0, 0))[0] / 255 + len(prompt)


def test_the_missing_package_is_named_with_the_remote_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ImageReward", None)
    with pytest.raises(ScorerError, match=r"needs the package image-reward.*an environment of its own.*'remote'"):
        load("imagereward")


def test_each_picture_meets_its_own_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fake_load(name, **options):
        calls.append((name, options))
        return Stub(1, 1)

    monkeypatch.setitem(sys.modules, "ImageReward", SimpleNamespace(load=fake_load, __version__="1.5"))
    scorer = load("imagereward", model="file.pt", med_config="med.json")
    images = torch.zeros(3, 3, 4, 4)
    images[1, 0] = 1
    assert scorer(images, ["a", "bb", "ccc"]).scores.tolist() == [1.0, 3.0, 3.0]
    assert calls == [("file.pt", {"device": "cpu", "med_config": "med.json"})]
    assert not scorer.thread_safe and scorer.licence == "unknown"


def test_a_failing_load_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name, **options):
        raise OSError("no such thing")

    monkeypatch.setitem(sys.modules, "ImageReward", SimpleNamespace(load=broken))
    with pytest.raises(ScorerError, match=r"cannot load 'ImageReward-v1\.0': OSError: no such thing"):
        load("imagereward")
