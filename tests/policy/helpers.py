"""What several policy tests do."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from flowgrpo.policies.family import pack
from samplers.kernels import euler

KEYS = [(3, 0), (3, 1), (3, 2)]
PROMPTS = ["a red cat", "dog", "z"]


def draw(policy: Any, prompts: list[str], *, steps: int, guidance_scale: float) -> Tensor:
    """Images [n, 3, H, W] by Euler steps over the policy's velocity."""
    x, cond = policy.initial_noise(KEYS[: len(prompts)]), policy.encode(prompts)
    with torch.no_grad():
        for sigma, sigma_next in pairwise(policy.sigmas(steps)):
            x = euler(x, policy.velocity(x, sigma, cond, guidance_scale=guidance_scale), sigma, sigma_next).mean
    return policy.decode(x)


def draw_stock(pipe: Any, policy: Any, prompts: list[str], *, steps: int, guidance_scale: float, **options: Any) -> Any:
    """Images [n, 3, H, W] by the stock pipeline from the policy's initial noise."""
    x = policy.initial_noise(KEYS[: len(prompts)])
    size = policy.latent_shape[1] * pipe.vae_scale_factor
    return pipe(
        prompt=prompts,
        height=size,
        width=size,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        latents=pack(x) if type(pipe).__name__ == "FluxPipeline" else x,
        output_type="pt",
        **options,
    ).images


def shake(policy: Any, scale: float = 0.3) -> None:
    """Moves every trained parameter, so that the policy is no longer its base model."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter += scale * torch.randn(parameter.shape, generator=generator)


def one_velocity(policy: Any, *, guidance_scale: float = 2.0, sigma: float = 0.6) -> Tensor:
    """The velocity [3, C, h, w] of fixed inputs."""
    x = policy.initial_noise(KEYS)
    return policy.velocity(x, sigma, policy.encode(PROMPTS), guidance_scale=guidance_scale)
