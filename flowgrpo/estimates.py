"""Memory and time of a run, from sizes alone; every assumption is a constant here and is printed by `check`.

What one row of the network holds and computes comes from the table of rehearsals where that has the model, and from
rules of thumb elsewhere. `scripts/measure_memory.py` holds the memory of tiny-sd3 against a real iteration. Seconds are
good to a factor of two: they tell minutes from days.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import prod
from pathlib import Path

from flowgrpo.geometry import Geometry
from flowgrpo.launches import ALONE, Launch
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
WORKING_VALUES = 16
"""The same of the one block that runs, where no graph is kept."""
DECODED_VALUES = 6
"""Values that a decoder holds at once, per pixel and channel of its finest level."""
ALL_WEIGHTS = {"training": "full", "checkpointed": "full_checkpointed"}
"""Columns of the table for an adapter -> those for all weights, which some rows lack."""
BLOCKS_IN_USE = 2
"""Blocks whose weights are whole at once where processes share them: one works, the next one is on its way."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one process by use.

    Attributes:
        held: what stays from the first update on, once the text encoders are gone.
        stages: what is there beside it in the stages of an iteration, one after the other.
        start: what is there before the first iteration, while prompts are encoded; no gradients and no optimizer yet.
    """

    held: dict[str, float]
    stages: dict[str, float]
    start: dict[str, float]

    @property
    def peak(self) -> float:
        """The most that is there at once."""
        return max(sum(self.held.values()) + max(self.stages.values()), sum(self.start.values()))


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds of one iteration by stage, memory, and the FLOP/s that the seconds assume."""

    seconds: dict[str, float]
    memory: Memory
    flops_per_second: float
    device: str
    trained_parameters: int


def estimate(recipe: Recipe, counts: Geometry, facts: ModelFacts, launch: Launch = ALONE) -> Estimate:
    """Time and memory of one iteration of a recipe on this machine, of the busiest of its processes.

    Args:
        recipe: the recipe.
        counts: its geometry.
        facts: its model's sizes.
        launch: its processes; what they wait for one another is not counted.
    """
    device = device_name(recipe)
    speed = GPU_FLOPS[recipe.model.dtype] if device == "gpu" else CPU_FLOPS_PER_CORE * (os.cpu_count() or 1)
    forward = forward_flops(facts, recipe.model)
    work = {
        "sampling": counts.sampling_rows * forward,
        "decoding": counts.decodes * decode_flops(facts, recipe.model),
        "old and reference": counts.no_grad_rows * forward,
        "training": counts.trained_rows * trained_flops(facts, recipe.model),
    }
    trained = trained_parameters(recipe, facts)
    return Estimate(
        {stage: launch.most(counts.groups) * flops / speed for stage, flops in work.items()},
        memory(recipe, counts, facts, trained, launch),
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
    """Parameters that the recipe trains; buffers among a model's tensors are none."""
    if recipe.model.adapter == "full":
        return facts.network_parameters
    return facts.adapter_parameters(recipe.model.lora_rank, recipe.model.lora_targets)


def forward_flops(facts: ModelFacts, model: Model) -> float:
    """One row: as rehearsed, or two FLOPs per weight and image token, and the attention between all pairs of tokens."""
    tokens = facts.image_tokens(model.height, model.width, model.frames)
    attention = 4 * facts.layers * tokens**2 * facts.width
    by_rule = 2.0 * facts.parameters.get("transformer", 0) * tokens + attention
    return _rehearsed(facts, model, "flops", "sampling") or by_rule


def trained_flops(facts: ModelFacts, model: Model) -> float:
    """One row forwards and backwards, with what checkpointing computes again."""
    forward = forward_flops(facts, model)
    again = forward if model.gradient_checkpointing else 0.0
    seen = _rehearsed(facts, model, "flops", "full" if model.adapter == "full" else "training")
    return (seen or forward * (1 + BACKWARD)) + again


def decode_flops(facts: ModelFacts, model: Model) -> float:
    """One picture or video through the VAE's decoder: as rehearsed, or its 3 x 3 convolutions, level by level."""
    seen = _of_decoder(facts, model, "flops")
    if seen:
        return seen
    config = facts.configs.get("vae", {})
    channels = config.get("block_out_channels", [])
    blocks = config.get("layers_per_block", 1) + 1
    return model.frames * sum(
        blocks * 2 * 2 * 9 * width_of_level**2 * (model.height >> level) * (model.width >> level)
        for level, width_of_level in enumerate(channels)
    )


def memory(recipe: Recipe, counts: Geometry, facts: ModelFacts, trained: int, launch: Launch = ALONE) -> Memory:
    """Bytes of one process, alone or with others."""
    model, train, size = recipe.model, recipe.train, BYTES[recipe.model.dtype]
    full, kept_apart = model.adapter == "full", device_name(recipe) == "gpu"
    network, vae = facts.network_parameters, 4.0 * facts.parameters.get("vae", 0)
    frozen = size * (network if not full or counts.reference else 0)
    gathered = gathered_bytes(facts, model, frozen, trained, launch)
    resting, decoder = (vae, 0.0) if model.offload_decoder and kept_apart else (0.0, vae)
    latents_rest = recipe.sampler.latent_store == "cpu" and kept_apart
    in_rollout = counts.sampling_rows / counts.sampling / model.guidance_passes
    in_training = counts.trained_rows / max(1, counts.trained)
    rows, most = train.most_per_forward * in_training, launch.most(counts.groups)
    decoded = model.decode_batch_size * decoded_bytes(facts, model)
    pictures = 4.0 * most * counts.samples * 3 * model.height * model.width * model.frames
    average = 4.0 * (train.ema_decay is not None)
    copies = launch.bytes_per_trained + average / launch.parts
    copies_before = 4.0 + average + (4.0 / launch.processes if launch.weights == "zero" else 0.0)
    return Memory(
        {
            "frozen weights": frozen / launch.parts + decoder,
            "trained weights, gradients, Adam, copies": trained * copies,
            "weights gathered from all processes": gathered,
            "stored latents": 0 if latents_rest else most * _stored(recipe, counts, facts),
        },
        {
            "sampling": recipe.sampler.batch_size * in_rollout * sampling_bytes(facts, model),
            "decoding, with all pictures": decoded + pictures + resting,
            "training one micro-batch": rows * activations_per_row(facts, model) + _casts(facts, model),
        },
        {
            "weights": (frozen + copies_before * trained) / launch.parts + decoder,
            "text encoders": encoders_bytes(facts, model),
        },
    )


def gathered_bytes(facts: ModelFacts, model: Model, frozen: float, trained: int, launch: Launch) -> float:
    """Whole weights beside a process's own part: all of them, or the blocks in use, and a trained block's gradient.

    Args:
        facts: the model's sizes.
        model: its section of the recipe.
        frozen: bytes of the frozen weights.
        trained: trained parameters.
        launch: the processes.
    """
    if launch.weights not in ("shared", "gathered"):
        return 0.0
    networks = sum(name.startswith("transformer") for name in facts.parameters) or 1
    of_block = 1 / (facts.layers * networks)
    gradient = 4.0 * trained * of_block
    if launch.weights == "gathered":
        return frozen + 4.0 * trained + gradient
    held = max(frozen, 4.0 * trained) if model.adapter == "full" else frozen + 4.0 * trained
    return BLOCKS_IN_USE * held * of_block + gradient


def encoders_bytes(facts: ModelFacts, model: Model) -> float:
    """Bytes of all text encoders, in the recipe's dtype, and of the longest prompt in them where that was rehearsed."""
    weights = sum(count for name, count in facts.parameters.items() if name.startswith("text_encoder"))
    seen = facts.rehearsed or {"bytes": {}}
    scale = BYTES[model.dtype] / BYTES[seen.get("dtype", "bfloat16")]
    return float(weights * BYTES[model.dtype] + seen["bytes"].get("encoding", 0) * scale)


def activations_per_row(facts: ModelFacts, model: Model) -> float:
    """Bytes that one row of a micro-batch keeps for the backward pass.

    Of a model that was rehearsed at its real size, what its backward pass held at most there, by tokens and dtype; of
    others, values per block by rule of thumb. With checkpointing only the input of each block is kept, and one block is
    recomputed at a time.
    """
    by_adapter = "checkpointed" if model.gradient_checkpointing else "training"
    names = [ALL_WEIGHTS[by_adapter], by_adapter] if model.adapter == "full" else [by_adapter]
    blocks = facts.layers * (1 if model.gradient_checkpointing else ACTIVATIONS_PER_TOKEN)
    recomputed = ACTIVATIONS_PER_TOKEN if model.gradient_checkpointing else 0
    by_rule = _block_values(facts, model) * (blocks + recomputed)
    return next(filter(None, (_rehearsed(facts, model, "bytes", name) for name in names)), by_rule)


def sampling_bytes(facts: ModelFacts, model: Model) -> float:
    """Bytes that one row holds at most in a forward pass without a graph."""
    return _rehearsed(facts, model, "bytes", "sampling") or _block_values(facts, model) * WORKING_VALUES


def decoded_bytes(facts: ModelFacts, model: Model) -> float:
    """Bytes that the decoder, in float32, holds at most for one picture or video."""
    pixels = model.height * model.width * model.frames
    by_rule = 4.0 * DECODED_VALUES * pixels * float(facts.configs.get("vae", {}).get("block_out_channels", [128])[0])
    return _of_decoder(facts, model, "bytes") or by_rule


def _of_decoder(facts: ModelFacts, model: Model, what: str) -> float:
    """A number of the table for one decoded picture or video, by its pixels; 0 where it has none."""
    seen = facts.rehearsed
    if seen is None or "decoding" not in seen[what]:
        return 0.0
    size = seen["size"]
    pixels = model.height * model.width * model.frames
    return float(seen[what]["decoding"]) * pixels / (size["height"] * size["width"] * size["frames"])


def _rehearsed(facts: ModelFacts, model: Model, what: str, name: str) -> float:
    """A number of the table, of one row, by the recipe's tokens, bytes also by its dtype; 0 where it has none."""
    seen = facts.rehearsed
    if seen is None or name not in seen[what]:
        return 0.0
    rows = 2 if facts.negative_branch and seen["size"]["guidance_scale"] > 1 else 1
    tokens = facts.image_tokens(model.height, model.width, model.frames) / seen["tokens"]
    scale = BYTES[model.dtype] / BYTES[seen.get("dtype", "bfloat16")] if what == "bytes" else 1.0
    return float(seen[what][name]) / rows * tokens * scale


def _block_values(facts: ModelFacts, model: Model) -> float:
    """Bytes of one value per token and channel."""
    return float(facts.image_tokens(model.height, model.width, model.frames) * facts.width * BYTES[model.dtype])


def _casts(facts: ModelFacts, model: Model) -> float:
    """Weights in the dtype of the forward pass beside their masters: all of them, or a block's with checkpointing."""
    if model.adapter == "lora" or model.dtype == "float32":
        return 0.0
    return facts.network_parameters * BYTES[model.dtype] / (facts.layers if model.gradient_checkpointing else 1)


def _stored(recipe: Recipe, counts: Geometry, facts: ModelFacts) -> float:
    """Latents of an iteration: inputs and draws of the units, final ones, and velocities in float32, old ones too."""
    model, stored = recipe.model, BYTES[recipe.sampler.latent_dtype]
    values = prod(facts.sizes.latent_shape(model.height, model.width, model.frames))
    latents = counts.stored_inputs + counts.edges + counts.samples
    velocities = counts.stored_inputs + (counts.inputs if counts.old else 0)
    return values * (stored * latents + 4.0 * velocities)
