"""What colour a detected object has, by CLIP: GenEval's zero-shot classifier (Ghosh et al., arXiv 2310.11513)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reward_models.geneval_rules import COLORS, Detection

BACKGROUND = 0x99 / 255
"""Grey of what is not the object."""
TEMPLATES = ("a photo of a {color} {label}", "a photo of a {color}-colored {label}", "a photo of a {color} object")
"""The benchmark's own three; other wordings give other colours."""
_CROPS_PER_CALL = 32

Namer = Callable[[Tensor, Sequence[Detection]], list[str]]
"""A picture [3, H, W] and some of its objects -> the colour of each."""


def clip_namer(network: Any, tokenizer: Any, prepare: Callable[[Tensor], Tensor], device: str) -> Namer:
    """A namer of colours by a network of open_clip.

    Args:
        network: With encode_image and encode_text.
        tokenizer: Of the network.
        prepare: Pictures [1, 3, h, w] in [0, 1] -> [1, 3, side, side], as the network wants them.
        device: Where the network is.

    Returns:
        The namer. A colour's direction is the normalised mean of its normalised templates.
    """

    @cache
    def directions(label: str) -> Tensor:
        texts = [template.format(color=color, label=label) for color in COLORS for template in TEMPLATES]
        rows = F.normalize(network.encode_text(tokenizer(texts).to(device)), dim=-1)
        return F.normalize(rows.view(len(COLORS), len(TEMPLATES), -1).mean(1), dim=-1)

    def name(image: Tensor, objects: Sequence[Detection]) -> list[str]:
        crops = torch.cat([prepare(crop(image, one)) for one in objects])
        seen = torch.cat([network.encode_image(part.to(device)) for part in crops.split(_CROPS_PER_CALL)])
        pairs = zip(objects, F.normalize(seen, dim=-1), strict=True)
        return [COLORS[int((directions(one.label) @ row).argmax())] for one, row in pairs]

    return name


def crop(image: Tensor, found: Detection) -> Tensor:
    """The object's box on grey, [1, 3, h, w] with sides of at least one pixel.

    Args:
        image: [3, H, W] in [0, 1].
        found: With a mask [H, W] of booleans, or none: then the box keeps its background. The box is rounded to whole
            pixels; what lies outside the picture is left out.
    """
    height, width = image.shape[-2:]
    left, top, right, bottom = (round(edge) for edge in found.box)
    left, top = min(max(left, 0), width - 1), min(max(top, 0), height - 1)
    box = (..., slice(top, max(bottom, top + 1)), slice(left, max(right, left + 1)))
    if found.mask is None:
        return image[box][None]
    mask = torch.as_tensor(found.mask, device=image.device)
    return image.where(mask, torch.full_like(image, BACKGROUND))[box][None]
