"""Wan 2.1 and 2.2 text-to-video: a UMT5, latents with a time axis, one network or two by noise level.

Wan2.2-TI2V gives every token a timestep of its own. Without a first frame to keep, all of them are equal, so one per
row says the same and saves a modulation per token; the test of parity with the stock pipeline holds for both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flowgrpo.policies.family import Family, Text, per_channel_decode


def encode(pipe: Any, prompt: str, max_length: int, device: torch.device, negative: bool) -> dict[str, Tensor]:
    """{"tokens" [1, L, D]}, L = max_length, zeros after the text."""
    tokens, _ = pipe.encode_prompt(
        [prompt], do_classifier_free_guidance=False, device=device, max_sequence_length=max_length
    )
    return {"tokens": tokens}


def denoise(transformer: Any, x: Tensor, timestep: Tensor, text: Text, guidance_scale: float) -> Tensor:
    """Velocity [n, C, f, h, w]."""
    return transformer(hidden_states=x, timestep=timestep, encoder_hidden_states=text["tokens"], return_dict=False)[0]


def decode(vae: Any, latents: Tensor) -> Tensor:
    """Videos [n, F, 3, H, W]."""
    return per_channel_decode(vae, latents).transpose(1, 2)


WAN = Family(
    encode=encode,
    denoise=denoise,
    decode=decode,
    text_parts=("text_encoder",),
    token_limits=(("tokenizer", True),),
)
