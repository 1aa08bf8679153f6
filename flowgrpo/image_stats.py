"""Guard rails beside the reward: cheap picture statistics that move when a policy starts to cheat its scorer."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEVELS = 8
"""Bins per colour channel."""


def picture_statistics(images: Tensor) -> dict[str, Tensor]:
    """Five properties of each picture.

    Args:
        images: [N, 3, H, W] in [0, 1], or videos [N, F, 3, H, W], of which frames are averaged.

    Returns:
        brightness (mean value), saturation (mean of max - min over channels), edges (mean absolute difference of
        neighbours), sharpness (mean absolute difference of a pixel and the mean of its four neighbours),
        colour_entropy (entropy of a picture's colours in bins, 1 where all are equally frequent); each [N] in [0, 1].
    """
    frames = images.flatten(0, -4).float()
    across, down = (frames.diff(dim=dim).abs().mean((1, 2, 3)) for dim in (-1, -2))
    statistics = {
        "brightness": frames.mean((1, 2, 3)),
        "saturation": (frames.amax(1) - frames.amin(1)).mean((1, 2)),
        "edges": (across + down) / 2,
        "sharpness": _laplacian(frames).abs().mean((1, 2, 3)),
        "colour_entropy": colour_entropy(frames),
    }
    return {name: values.view(len(images), -1).mean(1) for name, values in statistics.items()}


def image_statistics(images: Tensor, group: Tensor) -> dict[str, float]:
    """Batch means of `picture_statistics`, and how pictures of a group differ.

    Args:
        images: [N, 3, H, W] in [0, 1], or videos [N, F, 3, H, W], of which frames of one time are compared.
        group: group of each picture [N].

    Returns:
        The five, and diversity (root mean square distance of a picture to its group's mean picture); all in [0, 1].
    """
    means = {name: values.mean().item() for name, values in picture_statistics(images).items()}
    return {**means, "diversity": _spread(images, group)}


def _spread(images: Tensor, group: Tensor) -> float:
    if images.ndim == 5:
        frames = images.shape[1]
        time = torch.arange(frames, device=group.device)
        images, group = images.flatten(0, 1), (group[:, None] * frames + time).flatten()
    images = images.float()
    _, row = group.unique(return_inverse=True)
    row = row.to(images.device)
    count = torch.bincount(row).to(images)
    sums = torch.zeros(len(count), *images.shape[1:], device=images.device).index_add_(0, row, images)
    return (images - (sums / count.view(-1, 1, 1, 1))[row]).square().mean().sqrt().item()


def colour_entropy(images: Tensor) -> Tensor:
    """How many colours a picture has, and how evenly.

    Args:
        images: [N, 3, H, W] in [0, 1].

    Returns:
        [N] in [0, 1]: entropy of the histogram over 8 levels of each channel, in units of the log of the bins' number.
    """
    levels = (images * LEVELS).long().clamp(0, LEVELS - 1)
    colours = (levels[:, 0] * LEVELS + levels[:, 1]) * LEVELS + levels[:, 2]
    bins = LEVELS**3
    offset = torch.arange(len(images), device=images.device).view(-1, 1, 1) * bins
    counts = torch.bincount((colours + offset).flatten(), minlength=len(images) * bins).view(-1, bins)
    return torch.special.entr(counts / counts.sum(1, keepdim=True)).sum(1) / math.log(bins)


def _laplacian(images: Tensor) -> Tensor:
    """Each inner pixel minus the mean of its four neighbours [N, 3, H - 2, W - 2]."""
    inner = images[..., 1:-1, 1:-1]
    sides = images[..., :-2, 1:-1] + images[..., 2:, 1:-1] + images[..., 1:-1, :-2] + images[..., 1:-1, 2:]
    return inner - sides / 4
