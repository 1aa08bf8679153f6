"""Rough memory and time of a run, from sizes alone; every assumption is a constant here and is printed by `check`.

An estimate like this is good to a factor of two: it tells minutes from days and 10 GB from 80.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import prod
from pathlib import Path

from flowgrpo.geometry import Geometry
from flowgrpo.model_facts import ModelFacts
from flowgrpo.recipe import Model, Recipe

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
CPU_FLOPS_PER_CORE = 20e9
"""Sustained by small networks in float32 on one core."""
GPU_FLOPS = {"float32": 30e12, "bfloat16": 150e12, "float16": 150e12}
"""Sustained by a large accelerator; a third to a half of its peak."""
BACKWARD = 2.0
"""A backward pass costs two forwards; recomputing activations costs one more."""
ACTIVATIONS_PER_TOKEN = 34
"""Values of a transformer block kept for the backward pass, per token and channel (attention weights not stored)."""
REHEARSED_DTYPE = "bfloat16"
"""Dtype of the rows of the table of rehearsals."""
ADAM_STATE = 16
"""Bytes per trained parameter: float32 weight, gradient and two moments."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds of one iteration by stage, bytes by use, and the FLOP/s that the seconds assume."""

    seconds: dict[str, float]
    bytes: dict[str, float]
    flops_per_second: float
    device: str
    trained_parameters: int


def estimate(recipe: Recipe, counts: Geometry, facts: ModelFacts) -> Estimate:
    """Time and memory of one iteration of a recipe on this machine.

    Args:
        recipe: the recipe.
        counts: its geometry.
        facts: its model's sizes.
    """
    device = device_name(recipe)
    speed = GPU_FLOPS[recipe.model.dtype] if device == "gpu" else CPU_FLOPS_PER_CORE * (os.cpu_count() or 1)
    forward = forward_flops(facts, recipe.model)
    backward = BACKWARD + (1 if recipe.model.gradient_checkpointing else 0)
    work = {
        "sampling": counts.sampling_rows * forward,
        "decoding": counts.decodes * decode_flops(facts, recipe.model),
        "old and reference": counts.no_grad_rows * forward,
        "training": counts.trained_rows * forward * (1 + backward),
    }
    trained = trained_parameters(recipe, facts)
    return Estimate(
        {stage: flops / speed for stage, flops in work.items()},
        memory(recipe, counts, facts, trained),
        speed,
        device,
        trained,
    )


def device_name(recipe: Recipe) -> str:
    """ "gpu" or "cpu": what the recipe asks for, and with "auto" what this machine has."""
    if recipe.run.device != "auto":
        return "cpu" if recipe.run.device == "cpu" else "gpu"
    return "gpu" if Path("/dev/nvidia0").exists() else "cpu"


def trained_parameters(recipe: Recipe, facts: ModelFacts) -> int:
    if recipe.model.adapter == "full":
        return facts.network_parameters
    return facts.adapter_parameters(recipe.model.lora_rank, recipe.model.lora_targets)


def forward_flops(facts: ModelFacts, model: Model) -> float:
    """One network input: two FLOPs per weight and image token, and the attention between all pairs of tokens."""
    tokens = facts.image_tokens(model.height, model.width, model.frames)
    attention = 4 * facts.layers * tokens**2 * facts.width
    return 2.0 * facts.parameters.get("transformer", 0) * tokens + attention


def decode_flops(facts: ModelFacts, model: Model) -> float:
    """One picture or video through the VAE's decoder: its 3 x 3 convolutions, level by level, frame by frame."""
    config = facts.configs.get("vae", {})
    channels = config.get("block_out_channels", [])
    blocks = config.get("layers_per_block", 1) + 1
    return model.frames * sum(
        blocks * 2 * 2 * 9 * width_of_level**2 * (model.height >> level) * (model.width >> level)
        for level, width_of_level in enumerate(channels)
    )


def memory(recipe: Recipe, counts: Geometry, facts: ModelFacts, trained: int) -> dict[str, float]:
    """Bytes that are held at the same time while training; text encoders are gone by then."""
    model = recipe.model
    size = BYTES[model.dtype]
    doubled = counts.trained_rows / max(1, counts.trained)
    rows = recipe.train.micro_batch_size * doubled
    full = model.adapter == "full"
    copies = (recipe.train.ema_decay is not None) + (full and counts.reference > 0)
    latents = counts.samples * (recipe.sampler.steps + 1) * _latent_values(recipe, facts)
    return {
        "frozen weights": size * ((0 if full else facts.network_parameters) + facts.parameters.get("vae", 0)),
        "trained weights, gradients, Adam, copies": trained * (ADAM_STATE + 4 * copies),
        "activations of one micro-batch": rows * activations_per_row(facts, model),
        "stored trajectories": latents * BYTES[recipe.sampler.latent_dtype],
    }


def activations_per_row(facts: ModelFacts, model: Model) -> float:
    """Bytes that one row of a micro-batch keeps for the backward pass.

    Of a model that was rehearsed at its real size, what its backward pass held at most there, by tokens and dtype; of
    others, values per block by rule of thumb. With checkpointing only the input of each block is kept, and one block is
    recomputed at a time.
    """
    tokens, size = facts.image_tokens(model.height, model.width, model.frames), BYTES[model.dtype]
    seen = facts.rehearsed
    if seen is not None:
        doubled = 2 if facts.negative_branch and seen["size"]["guidance_scale"] > 1 else 1
        held = seen["bytes"]["checkpointed" if model.gradient_checkpointing else "training"]
        return held / doubled * (tokens / seen["tokens"]) * (size / BYTES[REHEARSED_DTYPE])
    blocks = facts.layers * (1 if model.gradient_checkpointing else ACTIVATIONS_PER_TOKEN)
    recomputed = ACTIVATIONS_PER_TOKEN if model.gradient_checkpointing else 0
    return tokens * facts.width * size * (blocks + recomputed)


def _latent_values(recipe: Recipe, facts: ModelFacts) -> int:
    model = recipe.model
    return prod(facts.sizes.latent_shape(model.height, model.width, model.frames))
