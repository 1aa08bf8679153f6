"""Stable Diffusion 3 and 3.5: two CLIP encoders and an optional T5, joint attention, guidance by a negative prompt."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flowgrpo.policies.family import Family, Text


def encode(pipe: Any, prompt: str, max_length: int, device: torch.device, negative: bool) -> dict[str, Tensor]:
    """{"tokens" [1, L, D], "pooled" [1, P]}"""
    tokens, _, pooled, _ = pipe.encode_prompt(
        prompt=[prompt],
        prompt_2=None,
        prompt_3=None,
        device=device,
        do_classifier_free_guidance=False,
        max_sequence_length=max_length,
    )
    return {"tokens": tokens, "pooled": pooled}


def denoise(transformer: Any, x: Tensor, timestep: Tensor, text: Text, guidance_scale: float) -> Tensor:
    """Velocity [n, C, h, w]."""
    return transformer(
        hidden_states=x,
        timestep=timestep,
        encoder_hidden_states=text["tokens"],
        pooled_projections=text["pooled"],
        return_dict=False,
    )[0]


STABLE_DIFFUSION_3 = Family(
    encode=encode,
    denoise=denoise,
    text_parts=("text_encoder", "text_encoder_2", "text_encoder_3"),
    token_limits=(("tokenizer", False), ("tokenizer_2", False), ("tokenizer_3", True)),
)
