"""Pictures as PNG files in memory: the form in which they leave this process."""

from __future__ import annotations

import io

import torch
from torch import Tensor


def to_bytes(image: Tensor) -> Tensor:
    """A picture [3, H, W] in [0, 1] as uint8 [H, W, 3] on the CPU, rounded to the nearest of 256 levels."""
    return (image.detach().float().clamp(0, 1) * 255).round().to("cpu", torch.uint8).permute(1, 2, 0).contiguous()


def encode_png(pixels: Tensor) -> bytes:
    """A PNG file.

    Args:
        pixels: uint8 [H, W, 3], as `to_bytes` gives them.

    Returns:
        The file.
    """
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels.numpy(), "RGB").save(file, "PNG", compress_level=1)
    return file.getvalue()


def decode_png(data: bytes, *, most_pixels: int) -> Tensor:
    """The picture in a PNG file; nothing is unpacked before its size is known.

    Args:
        data: The file.
        most_pixels: Height times width at most.

    Returns:
        float32 [3, H, W] in [0, 1].

    Raises:
        ValueError: It is no PNG file, broken, or too large.
    """
    import numpy
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            width, height = image.size
            if width * height > most_pixels:
                raise ValueError(
                    f"the picture has {width} x {height} pixels; right would be at most {most_pixels} in all"
                )
            pixels = numpy.array(image.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError("the data is not a whole PNG file") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
