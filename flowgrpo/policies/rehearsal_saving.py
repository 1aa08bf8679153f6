"""An adapter of a model of published size on disk: written by a run's own code, read by it and by plain diffusers.

The adapter is real, of a small rank, and drawn at random; the network that it belongs to has no weights. Names and
sizes are those of any rank, but for the rank.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from flowgrpo.policies.experts import HIGH
from flowgrpo.policies.pipeline import PipelinePolicy
from flowgrpo.policies.rehearsal_meter import fake_tensors
from flowgrpo.saving import LORA_FILE

SAVED_RANK = 4
"""Rank of the adapter that is written; alpha is twice as much, so that a lost strength shows."""


def saved_adapter(name: str, real: Mapping[str, Any], policy: PipelinePolicy) -> dict[str, Any]:
    """Writes an adapter with the shapes of `policy`'s, reads it twice, and says what lies on disk.

    Args:
        name: the model.
        real: its published numbers.
        policy: with a LoRA of rank `SAVED_RANK`, built of fake tensors.

    Raises:
        AssertionError: what came back is not what was written.
    """
    drawn = torch.Generator().manual_seed(0)
    state = {key: torch.randn(held.shape, generator=drawn) for key, held in policy.trainable().items()}
    with TemporaryDirectory() as folder:
        policy.save(Path(folder), state)
        _check(name, "a run", state, policy._trained.load(Path(folder)))
        _check(name, "diffusers", state, _by_diffusers(real, policy._pipe, Path(folder)))
        files = [Path(folder) / part / LORA_FILE for part in _folders(real)]
        headers = [_header(file) for file in files]
    keys = {key for header in headers for key in header}
    if not all(key.startswith("transformer.") and key.endswith(("lora_A.weight", "lora_B.weight")) for key in keys):
        raise AssertionError(f"{name}: {sorted(keys)[0]} and others are no names of diffusers' format")
    return {"files": len(files), "tensors": sum(map(len, headers)), "bytes": _bytes(headers)}


def _folders(real: Mapping[str, Any]) -> list[str]:
    return ["" if component == HIGH else component for component in real["networks"]]


def _check(name: str, who: str, wrote: Mapping[str, Tensor], read: Mapping[str, Tensor]) -> None:
    if wrote.keys() != read.keys():
        raise AssertionError(f"{name}: {who} reads {len(read)} tensors, not {len(wrote)}, or others")
    for key, tensor in wrote.items():
        if not torch.equal(tensor, read[key]):
            raise AssertionError(f"{name}: {who} reads {key} {tuple(read[key].shape)} with other values")


def _by_diffusers(real: Mapping[str, Any], pipe: Any, folder: Path) -> dict[str, Tensor]:
    """The weights that `load_lora_weights` gave to fresh networks of a pipeline, by the names of a policy's state."""
    import diffusers

    found: dict[str, Tensor] = {}
    for component, part in zip(real["networks"], _folders(real), strict=True):
        kind, config = real["networks"][component]
        into = {} if component == HIGH else {f"load_into_{component}": True}
        with fake_tensors():
            setattr(pipe, component, getattr(diffusers, kind).from_config(config))
            # Else the values would be copied into tensors that can hold none.
            pipe.load_lora_weights(folder / part, adapter_name="default", low_cpu_mem_usage=True, **into)
        network = getattr(pipe, component)
        _check_strength(network)
        start = "" if component == HIGH else f"{component}."
        found |= {f"{start}{key}": held for key, held in network.named_parameters() if ".lora_" in key}
    return found


def _check_strength(network: Module) -> None:
    layers: list[Any] = [part for part in network.modules() if hasattr(part, "scaling")]
    scales = {scale for layer in layers for scale in layer.scaling.values()}
    if scales != {2.0}:
        raise AssertionError(f"alpha is twice the rank, but diffusers' layers have the strengths {sorted(scales)}")


def _header(file: Path) -> dict[str, Any]:
    with open(file, "rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        header = dict(json.loads(opened.read(length)))
    header.pop("__metadata__", None)
    return header


def _bytes(headers: list[dict[str, Any]]) -> int:
    return sum(entry["data_offsets"][1] - entry["data_offsets"][0] for header in headers for entry in header.values())
