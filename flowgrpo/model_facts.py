"""What the files of a pipeline say about a model, without loading it: sizes from JSON and safetensors headers."""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

from flowgrpo.assets import asset, is_embedded
from flowgrpo.policies.facts import FACTS, FamilyFacts, Sizes

HEADER_LIMIT = 100_000_000
REHEARSALS = "benchmarks/real_dimensions.json"
"""What models of real size cost, as `scripts/check_real_dimensions.py` found it."""

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A pipeline on disk. `parameters` are by component, `configs` holds each component's JSON, `index` the pipeline's;
    `transformer_shapes` are of all its transformers; `rehearsed` is its row of the table `REHEARSALS`, None where that
    has no such model."""

    pipeline: str
    parameters: dict[str, int]
    configs: dict[str, dict[str, Any]]
    transformer_shapes: Shapes
    index: dict[str, Any] = field(default_factory=dict)
    rehearsed: dict[str, Any] | None = None

    @property
    def family(self) -> FamilyFacts:
        """What is known of its family; of an unknown one, what holds for Stable Diffusion 3."""
        return FACTS.get(self.pipeline, FACTS["StableDiffusion3Pipeline"])

    @property
    def sizes(self) -> Sizes:
        return self.family.sizes(self.transformer, self.configs.get("vae", {}))

    @property
    def negative_branch(self) -> bool:
        """Whether guidance runs a second row; guidance-distilled transformers take the scale as an input."""
        return self.family.negative_branch(self.index, self.transformer)

    @property
    def transformer(self) -> dict[str, Any]:
        return self.configs.get("transformer", {})

    @property
    def width(self) -> int:
        """Channels of a token inside the transformer."""
        return self.sizes.width

    @property
    def layers(self) -> int:
        return self.sizes.layers

    @property
    def network_parameters(self) -> int:
        """Parameters of all transformers; a model with two of them holds both.

        Of a model that was not rehearsed, buffers that lie among its weights are counted too.
        """
        counts = self.parameters if self.rehearsed is None else self.rehearsed["parameters"]
        return sum(count for name, count in counts.items() if name.startswith("transformer"))

    @property
    def token_pixels(self) -> int:
        """Pixels per side of one image token."""
        return self.sizes.pixels * self.sizes.patch

    def image_tokens(self, height: int, width: int, frames: int = 1) -> int:
        return self.sizes.tokens(height, width, frames)

    def adapter_parameters(self, rank: int, targets: tuple[str, ...] | None) -> int:
        """Parameters of a LoRA of `rank`: rank times the sum of both sides of every adapted matrix."""
        if self.rehearsed is not None and not self.transformer_shapes:
            return rank * int(self.rehearsed["adapter"]["sides"])
        endings = tuple(f".{target}" for target in targets or self.family.lora_targets)
        return sum(
            rank * sum(shape) for name, shape in self.transformer_shapes.items() if _adapted(name, shape, endings)
        )


def find_model(path: str, *, index: str = "model_index.json", revision: str | None = None) -> Path | None:
    """The folder of an embedded model, a local one, or a hub model that was fetched before; None if it is not here.

    `index` is the file that such a folder has; `revision` the branch, tag or commit of a hub model.
    """
    if is_embedded(path) and "/" not in path:
        return asset(path)
    if Path(path).is_dir():
        return Path(path)
    cached = _hub_cache() / f"models--{path.replace('/', '--')}"
    named = cached / "refs" / (revision or "")
    commit = named.read_text(encoding="utf-8").strip() if revision and named.is_file() else revision
    found = sorted((cached / "snapshots").glob(f"{commit or '*'}/{index}"))
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
    networks = {
        f"{component}.{name}": shape
        for component, held in shapes.items()
        if component.startswith("transformer")
        for name, shape in held.items()
    }
    facts = ModelFacts(str(index.get("_class_name", "")), parameters, configs, networks, index)
    return replace(facts, rehearsed=next((row for row in _rehearsals() if _same(row, facts)), None))


def known_model(path: str) -> ModelFacts | None:
    """Facts of a hub model that is not on this disk, from the table of rehearsals; None where it is not in it."""
    row = next((row for row in _rehearsals() if path in row["hub"]), None)
    if row is None:
        return None
    return ModelFacts(row["pipeline"], row["parameters"], row["configs"], {}, row["options"], row)


def _rehearsals() -> list[dict[str, Any]]:
    """Rows of `scripts/check_real_dimensions.py`, or none where the installation has no such table."""
    return list(_json(asset(REHEARSALS)).values()) if is_embedded(REHEARSALS) else []


def _same(row: dict[str, Any], facts: ModelFacts) -> bool:
    """Whether a folder's networks have the numbers of a row. Files count buffers too, so counts cannot tell."""
    networks = {name: held for name, held in row["configs"].items() if name.startswith("transformer")}
    return row["pipeline"] == facts.pipeline and all(
        name in facts.configs and all(facts.configs[name].get(key) == value for key, value in held.items())
        for name, held in networks.items()
    )


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a language model's folder.

    Raises: ValueError: the folder holds a pipeline or no model at all, or the file is damaged.
    """
    if (folder / "model_index.json").is_file():
        raise ValueError(f"{folder} is a diffusers pipeline, no language model; model.kind flow would be right")
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is no language model: it has no config.json")
    return _json(folder / "config.json")


def _adapted(name: str, shape: tuple[int, ...], endings: tuple[str, ...]) -> bool:
    return len(shape) == 2 and name.removesuffix(".weight").endswith(endings)


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
