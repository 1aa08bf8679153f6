"""Guard rails beside the reward: cheap picture statistics that move when a policy starts to cheat its scorer."""

from __future__ import annotations

import torch
from torch import Tensor


def image_statistics(images: Tensor, group: Tensor) -> dict[str, float]:
    """Batch means of four properties of pictures.

    Args:
        images: [N, 3, H, W] in [0, 1], or videos [N, F, 3, H, W], of which frames of one time are compared.
        group: group of each picture [N].

    Returns:
        brightness (mean value), saturation (mean of max - min over channels), edges (mean absolute difference of
        neighbours), diversity (root mean square distance of a picture to its group's mean picture); all in [0, 1].
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
        "diversity": spread.item(),
    }
