"""Sana: a Gemma with an instruction for the text, linear attention, a deep autoencoder of factor 32."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from flowgrpo.policies.family import Family, Text


def encode(pipe: Any, prompt: str, max_length: int, device: torch.device, negative: bool) -> dict[str, Tensor]:
    """{"tokens" [1, L, D], "mask" [1, L]}; the negative prompt goes without the instruction, as in the stock call."""
    instruction = inspect.signature(type(pipe).__call__).parameters["complex_human_instruction"].default
    tokens, mask, _, _ = pipe.encode_prompt(
        [prompt],
        do_classifier_free_guidance=False,
        device=device,
        max_sequence_length=max_length,
        complex_human_instruction=None if negative else instruction,
    )
    return {"tokens": tokens, "mask": mask}


def denoise(transformer: Any, x: Tensor, timestep: Tensor, text: Text, guidance_scale: float) -> Tensor:
    """Velocity [n, C, h, w]; of a network that learned a variance too, the first half of its answer."""
    velocity = transformer(
        x,
        encoder_hidden_states=text["tokens"],
        encoder_attention_mask=text["mask"],
        timestep=timestep * transformer.config.timestep_scale,
        return_dict=False,
    )[0]
    return velocity[:, : x.shape[1]]


SANA = Family(
    encode=encode,
    denoise=denoise,
    text_parts=("text_encoder",),
    token_limits=(("tokenizer", True),),
)
