"""What the files of a pipeline say about a model, without loading it: sizes from JSON and safetensors headers."""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from flowgrpo.assets import asset, is_embedded

ADAPTED = re.compile(r"\.attn\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)\.weight$")
"""Weights that an adapter sits on where the recipe names none: the joint attention's projections."""
HEADER_LIMIT = 100_000_000

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A pipeline on disk. `shapes` and `parameters` are by component; `configs` holds each component's JSON."""

    pipeline: str
    parameters: dict[str, int]
    configs: dict[str, dict[str, Any]]
    transformer_shapes: Shapes

    @property
    def negative_branch(self) -> bool:
        """Whether guidance runs a second row; guidance-distilled transformers take the scale as an input."""
        return not self.transformer.get("guidance_embeds", False)

    @property
    def transformer(self) -> dict[str, Any]:
        return self.configs.get("transformer", {})

    @property
    def width(self) -> int:
        """Channels of a token inside the transformer."""
        return int(self.transformer.get("num_attention_heads", 1) * self.transformer.get("attention_head_dim", 1))

    @property
    def layers(self) -> int:
        return int(self.transformer.get("num_layers", 1) + self.transformer.get("num_single_layers", 0))

    @property
    def vae_factor(self) -> int:
        """Pixels per side of one latent pixel."""
        return 2 ** (len(self.configs.get("vae", {}).get("block_out_channels", [0] * 4)) - 1)

    @property
    def token_pixels(self) -> int:
        """Pixels per side of one image token."""
        packed = 2 if self.pipeline.startswith("Flux") else int(self.transformer.get("patch_size", 2))
        return self.vae_factor * packed

    def image_tokens(self, height: int, width: int) -> int:
        return (height // self.token_pixels) * (width // self.token_pixels)

    def adapter_parameters(self, rank: int, targets: tuple[str, ...] | None) -> int:
        """Parameters of a LoRA of `rank`: rank times the sum of both sides of every adapted matrix."""
        return sum(
            rank * sum(shape) for name, shape in self.transformer_shapes.items() if _adapted(name, shape, targets)
        )


def find_model(path: str) -> Path | None:
    """The folder of an embedded model, a local one, or a hub model that was fetched before; None if it is not here."""
    if is_embedded(path) and "/" not in path:
        return asset(path)
    if Path(path).is_dir():
        return Path(path)
    snapshots = _hub_cache() / f"models--{path.replace('/', '--')}" / "snapshots"
    found = sorted(snapshots.glob("*/model_index.json"))
    return found[-1].parent if found else None


def is_hub_name(path: str) -> bool:
    """Whether a path that is not on disk may name a hub model: "owner/name"."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", path) is not None


def read_model(folder: Path) -> ModelFacts:
    """Facts of a pipeline folder.

    Raises: ValueError: no pipeline in the folder, or a damaged file; the message names it.
    """
    index = _json(folder / "model_index.json")
    components = [name for name, entry in index.items() if isinstance(entry, list) and (folder / name).is_dir()]
    shapes = {name: dict(_shapes(folder / name)) for name in components}
    configs = {
        name: _json(folder / name / "config.json") for name in components if (folder / name / "config.json").is_file()
    }
    parameters = {name: sum(prod(shape) for shape in held.values()) for name, held in shapes.items() if held}
    return ModelFacts(str(index.get("_class_name", "")), parameters, configs, shapes.get("transformer", {}))


def _adapted(name: str, shape: tuple[int, ...], targets: tuple[str, ...] | None) -> bool:
    if len(shape) != 2:
        return False
    stem = name.removesuffix(".weight")
    return bool(ADAPTED.search(name)) if targets is None else stem.endswith(targets)


def _hub_cache() -> Path:
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    return Path(os.environ.get("HF_HUB_CACHE", home / "hub"))


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path.parent} is no diffusers pipeline: it has no {path.name}") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: not a JSON object")
    return content


def _shapes(folder: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Tensor shapes of a component; of several variants (fp16) beside the plain files, the plain ones count."""
    files = sorted(folder.glob("*.safetensors"))
    plain = [path for path in files if not re.search(r"\.(fp16|bf16)[.-]", path.name)]
    for path in plain or files:
        yield from _header(path).items()


def _header(path: Path) -> Shapes:
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > HEADER_LIMIT:
                raise ValueError("header too long")
            header = json.loads(file.read(length))
    except (OSError, struct.error, ValueError) as error:
        raise ValueError(f"{path} is no safetensors file: {error}") from error
    return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
