"""Where the decoder is while nothing is decoded, and how it decodes what does not fit at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from flowgrpo.errors import RecipeError
from flowgrpo.recipe import Model


def prepare_decoder(vae: Any, model: Model, device: torch.device) -> None:
    """Puts the decoder where it waits, and switches tiling on where the recipe wants it.

    Raises:
        RecipeError: the model's decoder has no tiles.
    """
    if model.decode_tiling:
        if not hasattr(vae, "enable_tiling"):
            raise RecipeError(f"model.decode_tiling: a {type(vae).__name__} decodes no tiles; right would be false")
        vae.enable_tiling()
    if not model.offload_decoder:
        vae.to(device)


@contextmanager
def decoder_on(vae: Any, device: torch.device, *, rests: bool) -> Iterator[None]:
    """Inside, the decoder is on `device`; afterwards it is in the CPU's memory where it `rests` there."""
    if not rests:
        yield
        return
    vae.to(device)
    try:
        yield
    finally:
        vae.to("cpu")
        if device.type == "cuda":
            torch.cuda.empty_cache()
