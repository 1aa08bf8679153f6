"""Trained weights of a language model on disk: a peft adapter, or a model folder for plain transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from flowgrpo.errors import CheckpointError, first_line
from flowgrpo.saving import ADAPTER, copied

LORA_FILE, LORA_CONFIG = "adapter_model.safetensors", "adapter_config.json"
MODEL_FILE = "model.safetensors"
PREFIX = "base_model.model."
"""What peft puts before the names of the network that it wraps."""


def save_lora(config: Any, folder: Path, state: Mapping[str, Tensor]) -> None:
    """Writes adapter weights [name -> tensor] for `PeftModel.from_pretrained(base, folder)`."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    layers = {PREFIX + name.replace(ADAPTER, "."): tensor.contiguous() for name, tensor in copied(state).items()}
    save_file(layers, folder / LORA_FILE, metadata={"format": "pt"})
    config.save_pretrained(folder)


def read_lora(config: Any, folder: Path) -> dict[str, Tensor]:
    """The state that `save_lora` wrote.

    Raises:
        CheckpointError: a file is missing or damaged, or has another rank or strength than `config`.
    """
    stated = _json(folder / LORA_CONFIG)
    if (stated.get("r"), stated.get("lora_alpha")) != (config.r, config.lora_alpha):
        raise CheckpointError(
            f"{folder} was made with rank {stated.get('r')} and alpha {stated.get('lora_alpha')}, "
            f"the recipe has lora_rank {config.r} and lora_alpha {config.lora_alpha}"
        )
    return {_inner_name(name): tensor for name, tensor in _tensors(folder / LORA_FILE).items()}


def save_network(network: Any, tokenizer: Any, folder: Path, state: Mapping[str, Tensor]) -> None:
    """Writes a whole model, its trained weights taken from `state`, for `from_pretrained(folder)`."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    kept = {name: tensor for name, tensor in network.state_dict().items() if name in dict(network.named_buffers())}
    tensors = {name: tensor.contiguous() for name, tensor in copied({**kept, **state}).items()}
    save_file(tensors, folder / MODEL_FILE, metadata={"format": "pt"})
    network.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def read_network(names: Sequence[str], folder: Path) -> dict[str, Tensor]:
    """The state that `save_network` wrote.

    Raises:
        CheckpointError: the folder is missing or damaged.
    """
    return {name: tensor for name, tensor in _tensors(folder / MODEL_FILE).items() if name in names}


def _inner_name(name: str) -> str:
    """base_model.model.X.lora_A.weight -> X.lora_A.default.weight"""
    layer, _, leaf = name.removeprefix(PREFIX).rpartition(".")
    return f"{layer}{ADAPTER}{leaf}"


def _tensors(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not file.is_file():
        raise CheckpointError(f"{file.parent} has no {file.name}, so it holds no saved weights")
    try:
        return load_file(file)
    except (SafetensorError, ValueError, OSError) as error:
        raise CheckpointError(f"{file} is damaged: {first_line(error)}") from error


def _json(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{file} is missing or damaged: {first_line(error)}") from error
