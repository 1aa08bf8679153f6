"""Qwen-Image: one vision-language model for the text, packed tokens, guidance that keeps each token's norm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flowgrpo.policies.family import (
    Family,
    Text,
    linear_guidance,
    pack,
    padded,
    per_channel_decode,
    row_lengths,
    unpack,
)


def encode(pipe: Any, prompt: str, max_length: int, device: torch.device, negative: bool) -> dict[str, Tensor]:
    """{"tokens" [1, L, D], "mask" [1, L]}, L = max_length."""
    tokens, _ = pipe.encode_prompt(prompt=[prompt], device=device, max_sequence_length=max_length)
    return padded(tokens, max_length)


def denoise(transformer: Any, x: Tensor, timestep: Tensor, text: Text, guidance_scale: float) -> Tensor:
    """Velocity [n, C, h, w]; padding that no row of the batch needs is left out, and so is a mask of ones."""
    rows, columns = x.shape[2] // 2, x.shape[3] // 2
    lengths = row_lengths(text["mask"])
    longest = max(lengths)
    velocity = transformer(
        hidden_states=pack(x),
        timestep=timestep / 1000,
        encoder_hidden_states=text["tokens"][:, :longest],
        encoder_hidden_states_mask=None if min(lengths) == longest else text["mask"][:, :longest],
        img_shapes=[[(1, rows, columns)]] * len(x),
        return_dict=False,
    )[0]
    return unpack(velocity, rows, columns)


def combine(negative: Tensor, positive: Tensor, scale: float) -> Tensor:
    """Guided velocity whose every token [4 C] has the norm of the positive one."""
    guided, kept = pack(linear_guidance(negative, positive, scale)), pack(positive)
    rescaled = guided * (kept.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True))
    return unpack(rescaled, positive.shape[2] // 2, positive.shape[3] // 2)


def decode(vae: Any, latents: Tensor) -> Tensor:
    """Pictures [n, 3, H, W], each decoded as a video of one frame."""
    return per_channel_decode(vae, latents.unsqueeze(2)).squeeze(2)


QWEN_IMAGE = Family(
    encode=encode,
    denoise=denoise,
    decode=decode,
    combine=combine,
    text_parts=("text_encoder",),
    token_limits=(("tokenizer", True),),
    explicit_sigmas=True,
)
