"""CLIPScore on the embedded model: the same numbers as open_clip itself, and the model's use."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from reward_models import Scorer, load
from reward_models.shapes import parse, render

ASSET = Path(__file__).parents[2] / "assets" / "tiny-clip"
CAPTIONS = ("a red circle", "three blue squares", "a green cross above a white triangle", "a small yellow square")
WRONG = ("a red square", "two blue squares", "a green cross below a white triangle", "a large yellow square")


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return load("clip")


def drawings(captions=CAPTIONS, seed: int = 0) -> np.ndarray:
    return np.stack([render(parse(text), np.random.default_rng([seed, i])) for i, text in enumerate(captions)])


def as_images(drawn: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 255


def test_scores_equal_open_clip_used_by_hand(scorer: Scorer) -> None:
    drawn = drawings()
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{ASSET}")
    tokens = open_clip.get_tokenizer(f"local-dir:{ASSET}")(list(CAPTIONS))
    with torch.no_grad():
        pictures = torch.stack([transform(Image.fromarray(array)) for array in drawn])
        pairs = model.eval().encode_image(pictures, normalize=True) @ model.encode_text(tokens, normalize=True).T
    ours = scorer(as_images(drawn), CAPTIONS)
    torch.testing.assert_close(ours.scores, pairs.diagonal().double(), atol=1e-5, rtol=0)
    assert ours.valid.all() and ours.scores.abs().max() <= 1


def test_the_right_caption_wins(scorer: Scorer) -> None:
    """One picture each may be misjudged: the model is a proxy."""
    wins = [
        (scorer(as_images(drawings(seed=seed)), CAPTIONS).scores > scorer(as_images(drawings(seed=seed)), WRONG).scores)
        for seed in range(10)
    ]
    assert torch.stack(wins).double().mean() >= 0.85


def test_scores_do_not_depend_on_batch_order_or_threads(scorer: Scorer) -> None:
    images, captions = as_images(drawings(CAPTIONS * 8)), CAPTIONS * 8
    whole = scorer(images, captions).scores
    single = torch.cat([scorer(images[i : i + 1], captions[i : i + 1]).scores for i in range(32)])
    backwards = scorer(images.flip(0), captions[::-1]).scores.flip(0)
    for other in (single, backwards):
        torch.testing.assert_close(other, whole, atol=1e-5, rtol=0)
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: scorer(images, captions), range(16)):
            assert torch.equal(result.scores, whole)


def test_any_size_and_any_text_get_a_score(scorer: Scorer) -> None:
    scores = scorer(torch.rand(3, 3, 90, 120), ["", "ein Bild 漢字 🙂 " * 30, "A RED CIRCLE"])
    assert scores.valid.all()


def test_a_larger_picture_scores_like_its_small_self(scorer: Scorer) -> None:
    drawn = drawings()
    large = np.stack(
        [np.asarray(Image.fromarray(array).resize((256, 256), Image.Resampling.BICUBIC)) for array in drawn]
    )
    gap = scorer(as_images(large), CAPTIONS).scores - scorer(as_images(drawn), CAPTIONS).scores
    assert gap.abs().max() < 0.05


def test_the_card_states_what_it_is(scorer: Scorer) -> None:
    assert (scorer.name, scorer.range, scorer.higher_is_better, scorer.licence) == (
        "clip",
        (-1.0, 1.0),
        True,
        "Apache-2.0",
    )
    assert scorer.version == load("clip", model=str(ASSET)).version and len(scorer.version) == 12


def test_the_version_follows_weights_and_preprocessing(scorer: Scorer, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(ASSET, folder)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["preprocess_cfg"]["mean"] = [0.1, 0.1, 0.1]
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    assert load("clip", model=str(folder)).version != scorer.version
    weights = tmp_path / "weights.pt"
    state = open_clip.create_model(f"local-dir:{ASSET}").state_dict()
    torch.save({name: value * 0.5 for name, value in state.items()}, weights)
    assert load("clip", weights=str(weights)).version != scorer.version


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "ViT-B-33"}, r"no model 'ViT-B-33' \(did you mean 'ViT-B-32"),
        ({"model": "ViT-B-32"}, "no weights None for architecture 'ViT-B-32'; right would be a file or one of openai"),
        ({"model": "ViT-B-32", "weights": "opanai"}, r"no weights 'opanai' \(did you mean 'openai'"),
        ({"model": "./nowhere"}, r"finds no folder '\./nowhere'"),
        ({"model": "tests"}, r"no open_clip_config\.json in 'tests'"),
        ({"weights": "missing.pt"}, r"finds no weights file 'missing\.pt'"),
    ],
)
def test_wrong_models_and_weights_are_refused(options: dict, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    with pytest.raises(ValueError, match=words):
        load("clip", **options)


def test_broken_weights_are_refused(tmp_path: Path) -> None:
    shutil.copytree(ASSET, tmp_path / "broken")
    (tmp_path / "broken" / "open_clip_model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ValueError, match="cannot load model"):
        load("clip", model=str(tmp_path / "broken"))
