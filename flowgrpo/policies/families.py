"""What differs between families of diffusers pipelines, as one table of small functions.

A family is known by the class name in `model_index.json`. Latents are [n, C, h, w] for all of them: a family whose
transformer wants packed tokens packs inside `denoise`. A new family is one more entry of `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

Text = Mapping[str, Tensor]

JOINT_ATTENTION = (
    *("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"),
    *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
)


@dataclass(frozen=True, slots=True)
class Family:
    """How to drive one class of pipelines through its own parts."""

    encode: Callable[[Any, str, int, torch.device], dict[str, Tensor]]
    """(pipeline, prompt, max_sequence_length, device) -> name -> tensor [1, ...]"""
    denoise: Callable[[Module, Tensor, Tensor, Text, float], Tensor]
    """(transformer, x [n, C, h, w], timestep [n] in 0 ... 1000, text [n, ...], guidance) -> velocity [n, C, h, w]"""
    text_parts: tuple[str, ...]
    """Pipeline components that only `encode` needs."""
    token_limits: tuple[tuple[str, bool], ...]
    """(tokenizer, whether `max_sequence_length` bounds it; if not, its own maximum does)"""
    channels: Callable[[Any], int]
    """Latent channels C, from the transformer's config."""
    patch: Callable[[Any], int]
    """Side of the square of latent pixels that makes one image token, from the transformer's config."""
    lora_targets: tuple[str, ...]
    """Published adapter targets."""
    negative_branch: bool = True
    """Whether guidance runs a negative prompt; if not, the scale is an input of the network."""
    explicit_sigmas: bool = False
    """Whether the stock pipeline hands its scheduler explicit sigmas (the sigma trap of `samplers.sigmas`)."""


def _sd3_encode(pipe: Any, prompt: str, max_length: int, device: torch.device) -> dict[str, Tensor]:
    tokens, _, pooled, _ = pipe.encode_prompt(
        prompt=[prompt],
        prompt_2=None,
        prompt_3=None,
        device=device,
        do_classifier_free_guidance=False,
        max_sequence_length=max_length,
    )
    return {"tokens": tokens, "pooled": pooled}


def _sd3_denoise(transformer: Module, x: Tensor, timestep: Tensor, text: Text, guidance_scale: float) -> Tensor:
    return transformer(
        hidden_states=x,
        timestep=timestep,
        encoder_hidden_states=text["tokens"],
        pooled_projections=text["pooled"],
        return_dict=False,
    )[0]


def _flux_encode(pipe: Any, prompt: str, max_length: int, device: torch.device) -> dict[str, Tensor]:
    tokens, pooled, _ = pipe.encode_prompt(
        prompt=[prompt], prompt_2=None, device=device, max_sequence_length=max_length
    )
    return {"tokens": tokens, "pooled": pooled}


def _flux_denoise(transformer: Any, x: Tensor, timestep: Tensor, text: Text, guidance_scale: float) -> Tensor:
    rows, columns = x.shape[2] // 2, x.shape[3] // 2
    embedded = transformer.config.guidance_embeds
    guidance = torch.full((len(x),), guidance_scale, device=x.device) if embedded else None
    velocity = transformer(
        hidden_states=pack(x),
        timestep=timestep / 1000,
        guidance=guidance,
        pooled_projections=text["pooled"],
        encoder_hidden_states=text["tokens"],
        txt_ids=x.new_zeros(text["tokens"].shape[1], 3),
        img_ids=_positions(rows, columns, x),
        return_dict=False,
    )[0]
    return unpack(velocity, rows, columns)


def pack(x: Tensor) -> Tensor:
    """Latents [n, C, 2h, 2w] as tokens [n, h w, 4 C], one per square of 2 x 2."""
    n, channels, height, width = x.shape
    squares = x.reshape(n, channels, height // 2, 2, width // 2, 2)
    return squares.permute(0, 2, 4, 1, 3, 5).reshape(n, height * width // 4, channels * 4)


def unpack(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """The inverse of `pack` for a grid of `rows` x `columns` tokens."""
    n, _, width = tokens.shape
    squares = tokens.reshape(n, rows, columns, width // 4, 2, 2)
    return squares.permute(0, 3, 1, 4, 2, 5).reshape(n, width // 4, rows * 2, columns * 2)


def _positions(rows: int, columns: int, like: Tensor) -> Tensor:
    """(0, row, column) of every image token [rows * columns, 3]."""
    grid = torch.cartesian_prod(torch.arange(1), torch.arange(rows), torch.arange(columns))
    return grid.to(like)


STABLE_DIFFUSION_3 = Family(
    encode=_sd3_encode,
    denoise=_sd3_denoise,
    text_parts=("text_encoder", "text_encoder_2", "text_encoder_3"),
    token_limits=(("tokenizer", False), ("tokenizer_2", False), ("tokenizer_3", True)),
    channels=lambda config: config.in_channels,
    patch=lambda config: config.patch_size,
    lora_targets=JOINT_ATTENTION,
)

FLUX_1 = Family(
    encode=_flux_encode,
    denoise=_flux_denoise,
    text_parts=("text_encoder", "text_encoder_2"),
    token_limits=(("tokenizer", False), ("tokenizer_2", True)),
    channels=lambda config: config.in_channels // 4,
    patch=lambda config: 2,
    lora_targets=(
        *JOINT_ATTENTION,
        *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
    ),
    negative_branch=False,
    explicit_sigmas=True,
)

FAMILIES: dict[str, Family] = {"StableDiffusion3Pipeline": STABLE_DIFFUSION_3, "FluxPipeline": FLUX_1}
