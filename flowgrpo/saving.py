"""Trained weights on disk, in the form that plain diffusers loads.

A LoRA folder holds `pytorch_lora_weights.safetensors`, for `pipe.load_lora_weights(folder)`. Its metadata carries rank
and alpha: without them diffusers takes alpha = rank, and r = 4 with alpha = 8 comes back at half strength. A fully
trained network is the folder `transformer` in the model's own format.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from flowgrpo.errors import CheckpointError, RunError, first_line
from flowgrpo.quiet import quiet_libraries

LORA_FILE = "pytorch_lora_weights.safetensors"
NETWORK_FOLDER = "transformer"
ADAPTER = ".default."


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder that takes the place of `folder` once it is whole.

    Raises:
        RunError: the disk is full or not writable; what was there stays.
    """
    from safetensors import SafetensorError

    part = folder.with_name(f".{folder.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        write(part)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(part, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)
        reason = getattr(error, "strerror", None) or first_line(error)
        raise RunError(f"cannot write {folder}: {reason}; the checkpoints are untouched") from error


def copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors on the CPU, in memory of their own."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}


@torch.no_grad()
def fill(parameters: Mapping[str, Parameter], state: Mapping[str, Tensor], source: str) -> None:
    """Copies `state` into `parameters`, all of it or nothing.

    Args:
        parameters: What is filled, in place.
        state: Name -> tensor, exactly the same names and shapes.
        source: Where the state comes from, for the error.

    Raises:
        CheckpointError: names or shapes differ.
    """
    missing = [name for name in parameters if name not in state]
    surplus = [name for name in state if name not in parameters]
    if missing or surplus:
        what = f"has no {missing[0]!r}" if missing else f"has the unknown {surplus[0]!r}"
        raise CheckpointError(
            f"{source} {what} ({len(missing)} of {len(parameters)} weights missing, {len(surplus)} unknown): "
            "it belongs to another model or another choice of trained layers"
        )
    for name, parameter in parameters.items():
        if state[name].shape != parameter.shape:
            raise CheckpointError(
                f"{source}: {name!r} has shape {tuple(state[name].shape)}, this model needs {tuple(parameter.shape)}"
            )
    for name, parameter in parameters.items():
        parameter.copy_(state[name])


def save_lora(pipeline_class: Any, config: Any, folder: Path, state: Mapping[str, Tensor]) -> None:
    """Writes adapter weights [name -> tensor] of a peft `LoraConfig` for `load_lora_weights`."""
    layers = {name.replace(ADAPTER, "."): tensor for name, tensor in copied(state).items()}
    Path(folder).mkdir(parents=True, exist_ok=True)
    pipeline_class.save_lora_weights(
        folder, transformer_lora_layers=layers, transformer_lora_adapter_metadata=config.to_dict()
    )


def read_lora(config: Any, folder: Path) -> dict[str, Tensor]:
    """The state that `save_lora` wrote.

    Raises:
        CheckpointError: the file is missing or damaged, or has another rank or strength than `config`.
    """
    from safetensors import SafetensorError, safe_open

    file = Path(folder) / LORA_FILE
    if not file.is_file():
        raise CheckpointError(f"{folder} has no {LORA_FILE}, so it is no saved adapter")
    try:
        with safe_open(file, framework="pt") as stored:
            _check_strength(config, stored.metadata() or {}, file)
            names = stored.keys()
            return {_inner_name(name): stored.get_tensor(name) for name in names}
    except (SafetensorError, ValueError, OSError) as error:
        raise CheckpointError(f"{file} is damaged: {first_line(error)}") from error


def save_network(network: Any, folder: Path, state: Mapping[str, Tensor]) -> None:
    """Writes a whole network, its trained weights taken from `state`, for `from_pretrained`."""
    with torch.device("meta"):
        shell = type(network).from_config(network.config)
    buffers = {name: tensor for name, tensor in network.state_dict().items() if name in dict(shell.named_buffers())}
    shell.load_state_dict(copied({**buffers, **state}), assign=True)
    with quiet_libraries():
        shell.save_pretrained(Path(folder) / NETWORK_FOLDER)


def read_network(network: Any, folder: Path) -> dict[str, Tensor]:
    """The state that `save_network` wrote.

    Raises:
        CheckpointError: the folder is missing or damaged or holds another kind of model.
    """
    source = Path(folder) / NETWORK_FOLDER
    if not (source / "config.json").is_file():
        raise CheckpointError(f"{folder} has no {NETWORK_FOLDER}/config.json, so it is no saved network")
    try:
        with quiet_libraries():
            loaded = type(network).from_pretrained(source, dtype=torch.float32)
    except Exception as error:  # diffusers raises a dozen kinds for damaged files
        raise CheckpointError(f"{source} cannot be loaded: {first_line(error)}") from error
    return {name: parameter.detach() for name, parameter in loaded.named_parameters()}


def _inner_name(name: str) -> str:
    """transformer.X.lora_A.weight -> X.lora_A.default.weight"""
    layer, _, leaf = name.removeprefix("transformer.").rpartition(".")
    return f"{layer}{ADAPTER}{leaf}"


def _check_strength(config: Any, metadata: Mapping[str, str], file: Path) -> None:
    stated = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    rank, alpha = (stated.get(f"transformer.{key}") for key in ("r", "lora_alpha"))
    if (rank, alpha) != (config.r, config.lora_alpha):
        raise CheckpointError(
            f"{file} was made with rank {rank} and alpha {alpha}, "
            f"the recipe has lora_rank {config.r} and lora_alpha {config.lora_alpha}"
        )
