"""Batches of pictures in 8 bits, for what reads arrays or PIL pictures."""

from __future__ import annotations

import numpy as np
from PIL import Image
from torch import Tensor

from reward_models.png import to_bytes


def as_arrays(images: Tensor) -> list[np.ndarray]:
    """N arrays uint8 [H, W, 3] of floating [N, 3, H, W] in [0, 1], rounded."""
    return [to_bytes(image).numpy() for image in images]


def as_pictures(images: Tensor) -> list[Image.Image]:
    """N pictures in RGB of floating [N, 3, H, W] in [0, 1], rounded to 8 bits."""
    return [Image.fromarray(array) for array in as_arrays(images)]
