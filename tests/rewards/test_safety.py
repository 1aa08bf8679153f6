"""The safety gate on a small ViT classifier."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from reward_models import ScorerError, load


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("safety")
    config = ViTConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=32,
        patch_size=16,
        initializer_range=2.0,
        id2label={0: "normal", 1: "nsfw", 2: "gore"},
        label2id={"normal": 0, "nsfw": 1, "gore": 2},
    )
    torch.manual_seed(0)
    ViTForImageClassification(config).save_pretrained(path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(path)
    return path


def images() -> torch.Tensor:
    return torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def by_hand(folder: Path) -> torch.Tensor:
    network = ViTForImageClassification.from_pretrained(folder).eval()
    drawn = [Image.fromarray((one.permute(1, 2, 0) * 255).round().byte().numpy()) for one in images()]
    with torch.no_grad():
        return network(**ViTImageProcessor.from_pretrained(folder)(drawn, return_tensors="pt")).logits.softmax(-1)


def test_the_gate_follows_the_classifier(folder: Path) -> None:
    risks = by_hand(folder)
    got = load("safety", model=str(folder))(images(), [""] * 6)
    torch.testing.assert_close(got.components["unsafe"], risks[:, 1].double(), rtol=0, atol=1e-5)
    both = load("safety", model=str(folder), unsafe=["nsfw", "gore"])(images(), [""] * 6)
    torch.testing.assert_close(both.components["unsafe"], risks[:, 1:].sum(-1).double(), rtol=0, atol=1e-5)
    middle = risks[:, 1].median().item() + 1e-4
    gate = load("safety", model=str(folder), threshold=middle)(images(), [""] * 6).scores
    assert gate.tolist() == (risks[:, 1] < middle).double().tolist() and 0 < gate.mean() < 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"unsafe": "nfsw"}, r"no label 'nfsw' \(did you mean 'nsfw'\?\).*normal, nsfw, gore"),
        ({"unsafe": ()}, "no label ''"),
        ({"threshold": 0}, "got threshold 0; right would be a probability"),
        ({"model": None}, "needs the option model"),
        ({"model": "./nowhere"}, "cannot load AutoModelForImageClassification"),
    ],
)
def test_wrong_options_are_refused(folder: Path, options: dict, words: str) -> None:
    with pytest.raises(ScorerError, match=words):
        load("safety", **{"model": str(folder), **options})


def test_the_version_follows_the_threshold(folder: Path) -> None:
    assert load("safety", model=str(folder)).version != load("safety", model=str(folder), threshold=0.9).version
