"""Compressibility: thousands of bytes, and their negative."""

from __future__ import annotations

import io

import pytest
import torch
from PIL import Image

from reward_models import load


def test_scores_are_the_sizes_of_files_of_quality_95() -> None:
    images = torch.rand(2, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    sizes = []
    for image in images:
        buffer = io.BytesIO()
        array = (image.permute(1, 2, 0) * 255).round().byte().numpy()
        Image.fromarray(array).save(buffer, "JPEG", quality=95)
        sizes.append(len(buffer.getvalue()) / 1000)
    assert load("jpeg_incompressibility")(images, ["", ""]).scores.tolist() == sizes
    assert load("jpeg_compressibility")(images, ["", ""]).scores.tolist() == [-size for size in sizes]


def test_noise_is_larger_than_flat_colour() -> None:
    images = torch.stack([torch.full((3, 64, 64), 0.5), torch.rand(3, 64, 64)])
    flat, noise = load("jpeg_incompressibility")(images, ["", ""]).scores.tolist()
    assert flat < 1.5 and noise > 3 * flat


@pytest.mark.parametrize(("name", "sign"), [("jpeg_compressibility", -1), ("jpeg_incompressibility", 1)])
def test_the_card_names_the_encoder(name: str, sign: int) -> None:
    scorer = load(name)
    assert "pillow" in scorer.version and scorer.needs == ()
    assert scorer.range == ((0, torch.inf) if sign > 0 else (-torch.inf, 0))
