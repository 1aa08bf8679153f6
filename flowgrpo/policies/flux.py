"""FLUX.1: CLIP and T5, packed tokens, the guidance scale as an input of a distilled network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flowgrpo.policies.family import Family, Text, pack, positions, unpack


def encode(pipe: Any, prompt: str, max_length: int, device: torch.device, negative: bool) -> dict[str, Tensor]:
    """{"tokens" [1, L, D], "pooled" [1, P]}"""
    tokens, pooled, _ = pipe.encode_prompt(
        prompt=[prompt], prompt_2=None, device=device, max_sequence_length=max_length
    )
    return {"tokens": tokens, "pooled": pooled}


def denoise(transformer: Any, x: Tensor, timestep: Tensor, text: Text, guidance_scale: float) -> Tensor:
    """Velocity [n, C, h, w]."""
    rows, columns = x.shape[2] // 2, x.shape[3] // 2
    embedded = transformer.config.guidance_embeds
    velocity = transformer(
        hidden_states=pack(x),
        timestep=timestep / 1000,
        guidance=torch.full((len(x),), guidance_scale, device=x.device) if embedded else None,
        pooled_projections=text["pooled"],
        encoder_hidden_states=text["tokens"],
        txt_ids=x.new_zeros(text["tokens"].shape[1], 3),
        img_ids=positions(1, rows, columns, device=x.device).to(x),
        return_dict=False,
    )[0]
    return unpack(velocity, rows, columns)


FLUX_1 = Family(
    encode=encode,
    denoise=denoise,
    text_parts=("text_encoder", "text_encoder_2"),
    token_limits=(("tokenizer", False), ("tokenizer_2", True)),
    explicit_sigmas=True,
)
