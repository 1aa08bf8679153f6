"""Pictures as CLIP-style models expect them: open_clip's inference transform, on batches of tensors on any device.

Resizing goes through 8 bits before and after, as it does through PIL, and always antialiased: torchvision's default for
tensors changed between versions, and the scores with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

REVISION = 1
"""Rises with every change here that changes a score; part of the scorers' versions."""


def clip_images(images: Tensor, config: Mapping[str, Any]) -> Tensor:
    """Resize, crop or pad, and normalise.

    Args:
        images: float32 [N, 3, H, W] in [0, 1].
        config: open_clip's preprocessing fields: size (side or (height, width)), mean, std, interpolation ("bicubic",
            "bilinear" or "random", which is bicubic here), resize_mode ("shortest", "longest" or "squash"), fill_color.

    Returns:
        float32 [N, 3, height, width], within 2/255/std of the PIL transform and equal to it where no resize is needed.
        (Recent versions of Pillow swap the passes for some tall pictures: squashed ones may differ more at hard edges.)
    """
    size = config["size"]
    height, width = (size, size) if isinstance(size, int) else size
    mode = "bilinear" if config["interpolation"] == "bilinear" else "bicubic"
    resized = _resize(_eight_bit(images), _resized_size(images, (height, width), config["resize_mode"]), mode)
    cropped = _crop_or_pad(resized, height, width, config["fill_color"] / 255)
    mean, std = (torch.tensor(config[key], device=images.device).view(-1, 1, 1) for key in ("mean", "std"))
    return (cropped - mean) / std


def _eight_bit(images: Tensor) -> Tensor:
    return (images * 255).round().clamp(0, 255) / 255


def _resized_size(images: Tensor, target: tuple[int, int], mode: str) -> tuple[int, int]:
    (h, w), (height, width) = images.shape[-2:], target
    if mode == "squash":
        return target
    if mode == "shortest" and height == width:
        short = min(h, w)
        return int(height * h / short), int(width * w / short)
    ratio = (max if mode == "longest" else min)(h / height, w / width)
    return round(h / ratio), round(w / ratio)


def _resize(images: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Columns first, then rows, with 8 bits in between: where bicubic overshoots, PIL cuts after each pass."""
    for step in ((images.shape[-2], size[1]), size):
        if tuple(images.shape[-2:]) != tuple(step):
            images = _eight_bit(F.interpolate(images, size=step, mode=mode, antialias=True, align_corners=False))
    return images


def _crop_or_pad(images: Tensor, height: int, width: int, fill: float) -> Tensor:
    gap_h, gap_w = max(height - images.shape[-2], 0), max(width - images.shape[-1], 0)
    padding = (gap_w // 2, gap_w - gap_w // 2, gap_h // 2, gap_h - gap_h // 2)
    padded = F.pad(images, padding, value=fill)
    top, left = round((padded.shape[-2] - height) / 2), round((padded.shape[-1] - width) / 2)
    return padded[..., top : top + height, left : left + width]
