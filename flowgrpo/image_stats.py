"""Guard rails beside the reward: cheap picture statistics that move when a policy starts to cheat its scorer."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEVELS = 8
"""Bins per colour channel."""


def image_statistics(images: Tensor, group: Tensor) -> dict[str, float]:
    """Batch means of six properties of pictures.

    Args:
        images: [N, 3, H, W] in [0, 1], or videos [N, F, 3, H, W], of which frames of one time are compared.
        group: group of each picture [N].

    Returns:
        brightness (mean value), saturation (mean of max - min over channels), edges (mean absolute difference of
        neighbours), sharpness (mean absolute difference of a pixel and the mean of its four neighbours),
        colour_entropy (entropy of a picture's colours in bins, 1 where all are equally frequent), diversity (root mean
        square distance of a picture to its group's mean picture); all in [0, 1].
    """
    if images.ndim == 5:
        frames = images.shape[1]
        time = torch.arange(frames, device=group.device)
        images, group = images.flatten(0, 1), (group[:, None] * frames + time).flatten()
    images = images.float()
    saturation = images.amax(1) - images.amin(1)
    across, down = images.diff(dim=-1).abs().mean(), images.diff(dim=-2).abs().mean()
    _, row = group.unique(return_inverse=True)
    count = torch.bincount(row).to(images)
    sums = torch.zeros(len(count), *images.shape[1:], device=images.device).index_add_(0, row.to(images.device), images)
    means = sums / count.view(-1, 1, 1, 1)
    spread = (images - means[row]).square().mean().sqrt()
    return {
        "brightness": images.mean().item(),
        "saturation": saturation.mean().item(),
        "edges": ((across + down) / 2).item(),
        "sharpness": _laplacian(images).abs().mean().item(),
        "colour_entropy": colour_entropy(images).mean().item(),
        "diversity": spread.item(),
    }


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
