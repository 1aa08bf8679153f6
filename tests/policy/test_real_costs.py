"""Real sizes against what is worked out by hand: adapted layers by name, FLOPs, bytes, units of recipes."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import diffusers
import pytest
import torch
from torch.nn import Linear

from flowgrpo.assets import CANDIDATES
from flowgrpo.geometry import geometry
from flowgrpo.policies.adapters import check_targets
from flowgrpo.policies.facts import FACTS
from flowgrpo.policies.rehearsal import read_real, real_names
from flowgrpo.policies.rehearsal_saving import SAVED_RANK
from flowgrpo.quiet import quiet_libraries
from flowgrpo.recipe_loading import load_recipe

PUBLISHED = [name for name in real_names() if name != "tiny-sd3"]
TABLE = CANDIDATES[0] / "benchmarks" / "real_dimensions.json"
IMAGE = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0")
TEXT = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out")


def layers(place: str, names: tuple[str, ...], count: int) -> dict[str, int]:
    return {f"{place}.*.{name}": count for name in names}


def feed_forward(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}.net.{end}" for name in names for end in ("0.proj", "2"))


CROSS = tuple(f"attn{i}.{name.removeprefix('attn.')}" for i in (1, 2) for name in IMAGE)
ADAPTED: dict[str, dict[str, int]] = {
    # The last block has no output for the text.
    "sd3.5-medium": {
        **layers("transformer_blocks", (*IMAGE, *TEXT), 24),
        "transformer_blocks.*.attn.to_add_out": 23,
    },
    "flux.1-dev": {
        **layers("transformer_blocks", (*IMAGE, *TEXT, *feed_forward("ff", "ff_context")), 19),
        **layers("single_transformer_blocks", IMAGE[:3], 38),
    },
    "flux.2-klein-base-4b": {
        **layers("transformer_blocks", (*IMAGE, *TEXT), 5),
        **layers("single_transformer_blocks", ("attn.to_qkv_mlp_proj",), 20),
    },
    "qwen-image": layers("transformer_blocks", (*IMAGE, *TEXT, *feed_forward("img_mlp", "txt_mlp")), 60),
    "z-image-turbo": {
        key: count
        for place, count in (("layers", 30), ("noise_refiner", 2), ("context_refiner", 2))
        for key, count in layers(place, tuple(name.replace("attn", "attention") for name in IMAGE), count).items()
    },
    "sana-1600m": layers("transformer_blocks", CROSS, 20),
    "wan2.1-t2v-1.3b": layers("blocks", CROSS, 30),
    "wan2.2-t2v-a14b": layers("blocks", CROSS, 40),
    "wan2.2-ti2v-5b": layers("blocks", CROSS, 30),
}


def table() -> Mapping[str, Any]:
    return json.loads(TABLE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_adapter_sits_on_the_published_layers_by_name(name: str) -> None:
    """On the networks themselves, which take no memory here."""
    real = read_real(name)
    for kind, config in real["networks"].values():
        with torch.device("meta"), quiet_libraries():
            network = getattr(diffusers, kind).from_config(config)
        targets = check_targets(network, FACTS[real["pipeline"]].lora_targets if kind else ())
        found = [
            re.sub(r"\.\d+\.", ".*.", module, count=1)
            for module, held in network.named_modules()
            if isinstance(held, Linear) and any(module.endswith(f".{target}") for target in targets)
        ]
        assert dict(Counter(found)) == ADAPTED[name]
    networks = len(real["networks"])
    assert networks * sum(ADAPTED[name].values()) == real["expected"]["adapted_layers"]


def dense(width: int, image: int, text: int, per_image: float, per_text: float, blocks: int) -> float:
    """Two FLOPs for each of `per_...` width x width weights, token and block."""
    return 2 * blocks * (image * per_image + text * per_text) * width**2


def attention(queries: int, keys: int, width: int, blocks: int) -> float:
    """Scores and weighted sums."""
    return 4 * queries * keys * width * blocks


def joint(width: int, image: int, text: int, weights: float, blocks: int) -> float:
    """Blocks in which picture and text attend to each other, each with so many width x width weights."""
    both = image + text
    return dense(width, image, text, weights, weights, blocks) + attention(both, both, width, blocks)


def wan(width: int, hidden: int, blocks: int, image: int = 3510, text: int = 512) -> float:
    """Self-attention (4), cross-attention (2 on the picture, 2 on the text) and a feed-forward pair."""
    own = dense(width, image, text, 6 + 2 * hidden / width, 2, blocks)
    return own + attention(image, image, width, blocks) + attention(image, text, width, blocks)


def sd_3() -> float:
    """12 = 4 of attention + 8 of feed-forward; 13 blocks have a second attention; the last one reads the text alone."""
    image, text, width = 1024, 205, 1536
    whole = joint(width, image, text, 12, 23)
    last = dense(width, image, text, 12, 3, 1) + attention(image + text, image + text, width, 1)
    return whole + last + dense(width, image, 0, 4, 0, 13) + attention(image, image, width, 13)


def z_image() -> float:
    """4 of attention and three of 10240 / 3840; two refiners on the picture alone, two on the text alone."""
    image, text, width, weights = 1024, 128, 3840, 4 + 3 * 10240 / 3840
    refiners = dense(width, image, text, weights, weights, 2)
    return joint(width, image, text, weights, 30) + refiners + attention(image, image, width, 2)


def sana() -> float:
    """Linear attention (4), cross-attention, and a gated pair of 2.5 x the width with 3 x 3 by channel."""
    width, image, text, hidden = 2240, 1024, 300, 5600
    own = dense(width, image, text, 6 + 3 * hidden / width, 2, 20) + 2 * 20 * image * 9 * 2 * hidden
    return own + attention(image, text, width, 20)


FLOPS: dict[str, Callable[[], float]] = {
    "sd3.5-medium": lambda: 2 * sd_3(),
    "flux.1-dev": lambda: joint(3072, 1024, 512, 12, 19 + 38),
    "flux.2-klein-base-4b": lambda: 2 * joint(3072, 1024, 512, 13, 5 + 20),
    "qwen-image": lambda: 2 * joint(3072, 1024, 128, 12, 60),
    "z-image-turbo": lambda: 2 * z_image(),
    "sana-1600m": lambda: 2 * sana(),
    "wan2.1-t2v-1.3b": lambda: 2 * wan(1536, 8960, 30),
    "wan2.2-t2v-a14b": lambda: 2 * wan(5120, 13824, 40),
    "wan2.2-ti2v-5b": lambda: 2 * wan(3072, 14336, 30),
}
"""FLOPs of one step with guidance (two rows, but one in FLUX.1) without embeddings, modulations and the last layer."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_flops_are_those_of_the_blocks_worked_out_by_hand(name: str) -> None:
    row = table()[name]
    assert 1 < row["flops"]["sampling"] / FLOPS[name]() < 1.02
    # The backward pass of an adapter: gradients of inputs, few of weights, none before the first block.
    assert 1.95 < row["flops"]["training"] / row["flops"]["sampling"] < 2.4


def t5(tokens: int) -> float:
    """24 blocks of 4096: attention, and a gated pair of 10240."""
    return 24 * (2 * tokens * (4 * 4096**2 + 3 * 4096 * 10240) + 4 * tokens**2 * 4096)


def clip(width: int, blocks: int, tokens: int = 77) -> float:
    """Attention and a pair of 4 x the width."""
    return blocks * (2 * tokens * 12 * width**2 + 4 * tokens**2 * width)


def qwen_3(tokens: int) -> float:
    """36 blocks of 2560: 32 heads of 128, 8 of keys and values, a gated pair of 9728."""
    weights = 2560 * 128 * (2 * 32 + 2 * 8) + 3 * 2560 * 9728
    return 36 * (2 * tokens * weights + 4 * tokens**2 * 32 * 128)


ENCODING: dict[str, Callable[[], float]] = {
    "sd3.5-medium": lambda: 2 * (t5(128) + clip(768, 12) + clip(1280, 32)),
    "flux.1-dev": lambda: t5(512) + clip(768, 12),
    # It asks for logits too, and takes none.
    "flux.2-klein-base-4b": lambda: 2 * (qwen_3(512) + 2 * 512 * 2560 * 151936),
    "z-image-turbo": lambda: 2 * qwen_3(128),
    "wan2.1-t2v-1.3b": lambda: 2 * t5(512),
    "wan2.2-t2v-a14b": lambda: 2 * t5(512),
    "wan2.2-ti2v-5b": lambda: 2 * t5(512),
}
"""FLOPs of a prompt and, but for FLUX.1, its negative prompt; not of a length that a stand-in's tokens decide."""


@pytest.mark.parametrize("name", ENCODING)
def test_flops_of_encoding_are_those_of_the_encoders_worked_out_by_hand(name: str) -> None:
    assert 0.999 < table()[name]["flops"]["encoding"] / ENCODING[name]() < 1.01


SIDES = {
    "sd3.5-medium": 191 * 2 * 1536,
    "flux.1-dev": (152 + 114) * 2 * 3072 + 76 * (3072 + 12288),
    "flux.2-klein-base-4b": 40 * 2 * 3072 + 20 * (3072 + 3 * 3072 + 2 * 9216),
    "qwen-image": 480 * 2 * 3072 + 240 * (3072 + 12288),
    "z-image-turbo": 136 * 2 * 3840,
    "sana-1600m": 160 * 2 * 2240,
    "wan2.1-t2v-1.3b": 240 * 2 * 1536,
    "wan2.2-t2v-a14b": 640 * 2 * 5120,
    "wan2.2-ti2v-5b": 240 * 2 * 3072,
}
"""Rows and columns of all adapted matrices: parameters of an adapter of rank 1."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_size_of_an_adapter_on_disk(name: str) -> None:
    file = table()[name]["file"]
    assert file["bytes"] == 4 * SAVED_RANK * SIDES[name]
    assert file["tensors"] == 2 * read_real(name)["expected"]["adapted_layers"]
    assert file["files"] == (2 if name == "wan2.2-t2v-a14b" else 1)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_row_has_all_columns_and_they_are_in_order(name: str) -> None:
    """All weights cost more than an adapter, and a picture that is decoded is held at least once."""
    row = table()[name]
    held, flops = row["bytes"], row["flops"]
    assert set(flops) == {"encoding", "sampling", "training", "full", "decoding"}
    assert flops["full"] > flops["training"] and held["full"] > held["training"] > held["checkpointed"]
    assert held["full_checkpointed"] < held["full"] / 3
    assert held["decoding"] > 4 * prod(row["media"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_bytes_lie_between_what_must_and_what_can_be_held(name: str) -> None:
    """Checkpointing holds at least the input of every block of every row; training a few dozen of them per block."""
    real, row = read_real(name), table()[name]
    config = next(iter(real["networks"].values()))[1]
    sizes = FACTS[real["pipeline"]].sizes(config, real["vae"][1])
    rows = 1 if real["pipeline"] == "FluxPipeline" else 2
    stored = 2 * rows * row["tokens"] * sizes.width * sizes.layers
    held = row["bytes"]
    assert stored < held["checkpointed"] < 6 * stored
    assert 15 * stored < held["training"] < 60 * stored
    assert held["sampling"] < held["checkpointed"] < held["training"] / 6


@pytest.mark.parametrize(("recipe", "steps"), [("flow_grpo", 9), ("mix_grpo", 4), ("flow_grpo_fast", 3)])
@pytest.mark.parametrize("name", real_names())
def test_units_of_a_recipe_are_samples_by_stochastic_steps(name: str, recipe: str, steps: int) -> None:
    """Whatever the model: what is trained, and forwards with guidance, follow from the plan."""
    real = read_real(name)
    size = {f"model.{key}": real[key] for key in ("height", "width", "frames", "guidance_scale")}
    loaded = load_recipe(recipe, {"model.path": real["hub"][0], **size}).recipe
    facts = geometry(loaded, negative_branch=real["pipeline"] != "FluxPipeline")
    assert len(facts.trained_steps) == steps
    assert (
        facts.trained_edges
        == facts.samples * steps
        == loaded.train.prompts_per_iteration * loaded.train.group_size * steps
    )
