"""How well a picture compresses: the toy rewards of DDPO (Black et al., arXiv 2305.13301), free of weights."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from PIL import Image, __version__, features
from torch import Tensor

from reward_models.eight_bit import as_pictures
from reward_models.scorer import Scorer
from reward_models.scores import Scores, as_scores

QUALITY = 95
_THOUSAND = 1000


def jpeg_incompressibility(*, device: str = "cpu") -> Scorer:
    """Size of the picture as JPEG of quality 95, in thousands of bytes: large for noise, small for flat areas.

    Args:
        device: Ignored; the encoder runs on the CPU.

    Returns:
        The scorer. Sizes depend on the JPEG library by a few bytes, and its version is part of the scorer's.
    """
    return _scorer("jpeg_incompressibility", 1.0)


def jpeg_compressibility(*, device: str = "cpu") -> Scorer:
    """The negative of `jpeg_incompressibility`; Flow-GRPO's form is 1/500 of it."""
    return _scorer("jpeg_compressibility", -1.0)


def jpeg_bytes(picture: Image.Image) -> int:
    """Bytes of a picture as baseline JPEG of quality 95."""
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=QUALITY)
    return buffer.tell()


def _scorer(name: str, sign: float) -> Scorer:
    library = features.version("libjpeg_turbo") or features.version("jpg")
    return Scorer(
        name=name,
        version=f"{QUALITY}-pillow{__version__}-jpeg{library}",
        needs=(),
        range=(0.0, math.inf) if sign > 0 else (-math.inf, 0.0),
        licence="Apache-2.0",
        function=partial(_score, sign=sign),
    )


def _score(images: Tensor, prompts: list[str], metadata: list[Mapping[str, Any]], *, sign: float) -> Scores:
    sizes = [jpeg_bytes(picture) / _THOUSAND for picture in as_pictures(images)]
    return as_scores(sign * torch.tensor(sizes, dtype=torch.float64))
