"""The aesthetic scorer: its head in both forms, on a small CLIP vision tower."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from reward_models import ScorerError, load
from reward_models.aesthetic import LAYERS, collapse, read_affine, through_layers, write_affine
from reward_models.preprocess import clip_images
from reward_models.pretrained import clip_config

SIZES = (12, 9, 8, 5, 4, 1)


def head(sizes: tuple[int, ...] = SIZES) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    pairs = list(zip(LAYERS, sizes, sizes[1:], strict=False))
    weights = {f"layers.{n}.weight": torch.randn(out, fan, generator=generator) for n, fan, out in pairs}
    return weights | {f"layers.{n}.bias": torch.randn(out, generator=generator) for n, _, out in pairs}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("aesthetic")
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=16,
        projection_dim=12,
    )
    torch.manual_seed(0)
    CLIPVisionModelWithProjection(config).save_pretrained(path)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(path)
    torch.save(head(), path / "head.pth")
    return path


def test_the_affine_form_is_exact() -> None:
    state = {name: value.double() for name, value in head().items()}
    embeddings = torch.randn(50, 12, dtype=torch.float64)
    torch.testing.assert_close(collapse(state)(embeddings), through_layers(state, embeddings), rtol=0, atol=1e-12)
    torch.testing.assert_close(collapse(state)(7 * embeddings), collapse(state)(embeddings), rtol=0, atol=1e-12)


def test_scores_equal_the_layers_on_the_towers_embeddings(folder: Path) -> None:
    scorer = load("aesthetic", model=str(folder), head=str(folder / "head.pth"))
    images = torch.rand(4, 3, 50, 40)
    tower = CLIPVisionModelWithProjection.from_pretrained(folder).eval()
    config = clip_config(CLIPImageProcessor.from_pretrained(folder), "x")
    with torch.no_grad():
        seen = tower(pixel_values=clip_images(images, config)).image_embeds
    want = through_layers(head(), F.normalize(seen, dim=-1)).double()
    got = scorer(images, [""] * 4).scores
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    low, high = scorer.range
    assert ((low <= got) & (got <= high)).all() and scorer.needs == ()


def test_the_affine_file_scores_the_same(folder: Path, tmp_path: Path) -> None:
    write_affine(str(folder / "head.pth"), tmp_path / "affine.safetensors")
    images = torch.rand(2, 3, 32, 32)
    first = load("aesthetic", model=str(folder), head=str(folder / "head.pth"))
    second = load("aesthetic", model=str(folder), head=str(tmp_path / "affine.safetensors"))
    assert torch.equal(first(images, ["", ""]).scores, second(images, ["", ""]).scores)
    assert first.version == second.version
    assert (tmp_path / "affine.safetensors").stat().st_size < 400


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: {**head(), "layers.9.bias": torch.ones(1)}, "an aesthetic head holds layers.0.bias"),
        (lambda: {**head(), "layers.2.weight": torch.ones(8, 3)}, "do not follow each other"),
        (lambda: head((13, 9, 8, 5, 4, 1)), "a head for embeddings of 13 numbers and a model that gives 12"),
    ],
)
def test_other_heads_are_refused(folder: Path, tmp_path: Path, make, words: str) -> None:
    torch.save(make(), tmp_path / "head.pth")
    with pytest.raises(ScorerError, match=words):
        load("aesthetic", model=str(folder), head=str(tmp_path / "head.pth"))


def test_a_head_must_be_named() -> None:
    with pytest.raises(ScorerError, match="needs the option head, a file of weights; the released head is"):
        load("aesthetic")
    with pytest.raises(ScorerError, match="finds no file"):
        read_affine("nowhere.pth")
