"""What a family of models must say about itself, and the functions that several families share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from samplers.sigmas import dynamic_mu

Text = Mapping[str, Tensor]


def linear_guidance(negative: Tensor, positive: Tensor, scale: float) -> Tensor:
    """negative + scale (positive - negative), classifier-free guidance (arXiv 2207.12598)."""
    return negative + scale * (positive - negative)


def scaled_decode(vae: Any, latents: Tensor) -> Tensor:
    """Pictures [n, 3, H, W] in [-1, 1] of latents [n, C, h, w] by an autoencoder with one scale and shift."""
    scaled = latents / vae.config.scaling_factor + (vae.config.get("shift_factor") or 0.0)
    return vae.decode(scaled, return_dict=False)[0]


def shift_by_tokens(config: Mapping[str, Any], tokens: int, steps: int) -> float:
    """The dynamic shift mu that a scheduler's config describes: linear in the number of image tokens."""
    return dynamic_mu(
        tokens,
        base_tokens=config["base_image_seq_len"],
        max_tokens=config["max_image_seq_len"],
        base_shift=config["base_shift"],
        max_shift=config["max_shift"],
    )


@dataclass(frozen=True, slots=True)
class Family:
    """How to drive one class of pipelines through its own parts.

    Latents are [n, C, h, w], and [n, C, f, h, w] of videos, in all families: one whose transformer wants packed tokens
    packs inside `denoise`. Names, sizes and published settings are in `flowgrpo.policies.facts`.
    """

    encode: Callable[[Any, str, int, torch.device, bool], dict[str, Tensor]]
    """(pipeline, prompt, max_sequence_length, device, whether it is the negative one) -> name -> tensor [1, ...];
    every prompt's tensors have the same shapes"""
    denoise: Callable[[Any, Tensor, Tensor, Text, float], Tensor]
    """(transformer, x [n, C, ...], timestep [n] in 0 ... 1000, text [n, ...], guidance) -> velocity [n, C, ...]"""
    text_parts: tuple[str, ...]
    """Pipeline components that only `encode` needs."""
    token_limits: tuple[tuple[str, bool], ...]
    """(tokenizer, whether `max_sequence_length` bounds it; if not, its own maximum does)"""
    decode: Callable[[Any, Tensor], Tensor] = scaled_decode
    """(vae, latents) -> pictures [n, 3, H, W] or videos [n, F, 3, H, W], in [-1, 1]"""
    combine: Callable[[Tensor, Tensor, float], Tensor] = linear_guidance
    """(negative, positive, scale) -> guided velocity"""
    shift: Callable[[Mapping[str, Any], int, int], float] = shift_by_tokens
    """(scheduler's config, image tokens, steps) -> dynamic shift mu"""
    explicit_sigmas: bool = False
    """Whether the stock pipeline hands its scheduler explicit sigmas (the sigma trap of `samplers.sigmas`)."""


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


def positions(*sizes: int, device: torch.device) -> Tensor:
    """Coordinates of every point of a grid of these sizes [product, axes], the last axis running fastest."""
    return torch.cartesian_prod(*(torch.arange(size, device=device) for size in sizes))


def padded(tokens: Tensor, length: int) -> dict[str, Tensor]:
    """One prompt's tokens [1, L, D], L <= length, as {"tokens" [1, length, D] with zeros, "mask" bool [1, length]}."""
    used = tokens.shape[1]
    mask = torch.arange(length, device=tokens.device)[None] < used
    return {"tokens": torch.nn.functional.pad(tokens, (0, 0, 0, length - used)), "mask": mask}


def row_lengths(mask: Tensor) -> list[int]:
    """How many tokens of each row are text; `padded` puts them first."""
    return mask.sum(1).tolist()


def per_channel_decode(vae: Any, latents: Tensor) -> Tensor:
    """Videos [n, 3, F, H, W] in [-1, 1] of latents [n, C, f, h, w] by an autoencoder with statistics per channel."""
    shape = (1, -1, 1, 1, 1)
    mean = torch.tensor(vae.config.latents_mean).view(shape).to(latents)
    std = torch.tensor(vae.config.latents_std).view(shape).to(latents)
    return vae.decode(latents * std + mean, return_dict=False)[0]
