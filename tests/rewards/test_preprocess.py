"""The tensor path of CLIP preprocessing against open_clip's own PIL transform."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor

from reward_models.preprocess import clip_images

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def picture(height: int, width: int) -> Tensor:
    """A picture with smooth areas, hard edges and noise, [1, 3, H, W]."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    channels = [x, y, ((x - 0.4) ** 2 + (y - 0.4) ** 2 < 0.06).astype(float)]
    noise = np.random.default_rng(0).uniform(-0.2, 0.2, (3, height, width))
    return torch.from_numpy(np.clip(np.stack(channels) + noise, 0, 1)).float()[None]


def by_pil(image: Tensor, config: PreprocessCfg) -> Tensor:
    array = (image[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    return image_transform_v2(config, is_train=False)(Image.fromarray(array))[None]


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("source", [(64, 64), (200, 200), (40, 40), (101, 67), (67, 150), (64, 91)])
@pytest.mark.parametrize(("size", "interpolation"), [(64, "bicubic"), ((64, 64), "bilinear"), ((48, 64), "bicubic")])
def test_equals_the_pil_transform(resize_mode: str, source: tuple, size: int | tuple, interpolation: str) -> None:
    """Within 2 of 255 levels everywhere and half a level on average.

    Recent versions of Pillow resize some tall pictures rows first; squashed noise then differs by up to 10 levels.
    """
    config = PreprocessCfg(
        size=size, mean=MEAN, std=STD, interpolation=interpolation, resize_mode=resize_mode, fill_color=0
    )
    image = picture(*source)
    ours, theirs = clip_images(image, asdict(config)), by_pil(image, config)
    assert ours.shape == theirs.shape
    levels = (ours - theirs).abs() * torch.tensor(STD).view(3, 1, 1) * 255
    assert levels.max() <= (10 if resize_mode == "squash" and source[0] > source[1] else 2.01)
    assert levels.mean() <= 0.5


def test_is_exact_where_no_resize_is_needed() -> None:
    config = PreprocessCfg(size=64, mean=MEAN, std=STD)
    image = picture(64, 80)
    torch.testing.assert_close(clip_images(image, asdict(config)), by_pil(image, config), atol=1e-6, rtol=0)


def test_does_not_depend_on_the_batch() -> None:
    config = asdict(PreprocessCfg(size=32))
    batch = torch.cat([picture(64, 64), picture(64, 64).flip(-1)])
    assert torch.equal(clip_images(batch, config), torch.cat([clip_images(row[None], config) for row in batch]))
