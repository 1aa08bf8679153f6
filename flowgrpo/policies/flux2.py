"""FLUX.2-klein: three layers of a Qwen3, latents in squares of 2 x 2 normalised by running statistics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from flowgrpo.policies.family import Family, Text, positions


def encode(pipe: Any, prompt: str, max_length: int, device: torch.device, negative: bool) -> dict[str, Tensor]:
    """{"tokens" [1, L, 3 D]}; padding is part of the text, as in the stock pipeline."""
    tokens, _ = pipe.encode_prompt(prompt=[prompt], device=device, max_sequence_length=max_length)
    return {"tokens": tokens}


def denoise(transformer: Any, x: Tensor, timestep: Tensor, text: Text, guidance_scale: float) -> Tensor:
    """Velocity [n, C, h, w], every latent pixel one token."""
    height, width = x.shape[2:]
    velocity = transformer(
        hidden_states=x.flatten(2).transpose(1, 2),
        timestep=timestep / 1000,
        guidance=None,
        encoder_hidden_states=text["tokens"],
        txt_ids=positions(1, 1, 1, text["tokens"].shape[1], device=x.device),
        img_ids=positions(1, height, width, 1, device=x.device),
        return_dict=False,
    )[0]
    return velocity.transpose(1, 2).unflatten(2, (height, width))


def decode(vae: Any, latents: Tensor) -> Tensor:
    """Pictures [n, 3, H, W]: normalisation undone, squares unfolded, decoded."""
    shape = (1, -1, 1, 1)
    std = (vae.bn.running_var.view(shape) + vae.config.batch_norm_eps).sqrt().to(latents)
    plain = latents * std + vae.bn.running_mean.view(shape).to(latents)
    return vae.decode(torch.nn.functional.pixel_shuffle(plain, 2), return_dict=False)[0]


def shift(config: Mapping[str, Any], tokens: int, steps: int) -> float:
    """FLUX.2's fitted mu: linear in tokens at 10 and at 200 steps, linear in steps between; above 4300 tokens the
    line of 200 steps alone. The constants are those of its published code."""
    many = 0.00016927 * tokens + 0.45666666
    if tokens > 4300:
        return many
    few = 8.73809524e-05 * tokens + 1.89833333
    slope = (many - few) / 190.0
    return slope * steps + (many - 200.0 * slope)


FLUX_2_KLEIN = Family(
    encode=encode,
    denoise=denoise,
    decode=decode,
    shift=shift,
    text_parts=("text_encoder",),
    token_limits=(("tokenizer", True),),
    explicit_sigmas=True,
)
