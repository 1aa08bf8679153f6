"""Z-Image: a Qwen3 for the text, one stream of picture and text tokens, time that runs from noise to data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flowgrpo.policies.family import Family, Text, padded, row_lengths


def encode(pipe: Any, prompt: str, max_length: int, device: torch.device, negative: bool) -> dict[str, Tensor]:
    """{"tokens" [1, L, D], "mask" [1, L]}, L = max_length."""
    tokens, _ = pipe.encode_prompt(
        prompt=[prompt], device=device, do_classifier_free_guidance=False, max_sequence_length=max_length
    )
    return padded(tokens[0].unsqueeze(0), max_length)


def denoise(transformer: Any, x: Tensor, timestep: Tensor, text: Text, guidance_scale: float) -> Tensor:
    """Velocity [n, C, h, w]. The network is given 1 - sigma and answers x0 - eps."""
    lengths = row_lengths(text["mask"])
    toward_data = transformer(
        list(x.unsqueeze(2)),
        (1000 - timestep) / 1000,
        [tokens[:length] for tokens, length in zip(text["tokens"], lengths, strict=True)],
        return_dict=False,
    )[0]
    return -torch.stack(list(toward_data)).squeeze(2)


Z_IMAGE = Family(
    encode=encode,
    denoise=denoise,
    text_parts=("text_encoder",),
    token_limits=(("tokenizer", True),),
    explicit_sigmas=True,
)
