"""Weights from a file or the hub: found, read without unpickling code, loaded strictly, and hashed for versions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reward_models.scores import ScorerError

HUB = "hf-hub:"
_SHOWN = 3
_VERSION_LENGTH = 12

State = Mapping[str, Tensor]


def find_file(source: str, label: str) -> Path:
    """The local path of a file of weights.

    Args:
        source: A path, or ``hf-hub:org/name/path/to/file``, which is fetched into the hub's cache once; after
            ``name@`` a branch, tag or commit.
        label: The scorer's name, for error texts.

    Raises:
        ScorerError: There is no such file, or the hub does not give it.
    """
    if source.startswith(HUB):
        return _from_hub(source, label)
    path = Path(source).expanduser()
    if not path.is_file():
        raise ScorerError(f"scorer '{label}' finds no file '{source}'; right would be a path or {HUB}org/name/file")
    return path


def read_state(source: str, label: str) -> dict[str, Tensor]:
    """Tensors by name from a safetensors file, or from a PyTorch file that holds tensors and plain values only.

    Args:
        source: As `find_file` takes it.
        label: The scorer's name, for error texts.

    Returns:
        The tensors on the CPU; where the file wraps them in "state_dict", what is inside.

    Raises:
        ScorerError: There is no such file, or it is not one of tensors.
    """
    path = find_file(source, label)
    try:
        content = _read(path)
    except Exception as error:
        raise ScorerError(f"scorer '{label}' cannot read weights from '{source}': {short(error)}") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ScorerError(f"scorer '{label}' finds no table of tensors in '{source}'; right would be a state dict")
    return state


def load_strictly(network: nn.Module, state: State, label: str) -> None:
    """Load every tensor of a state dict into a network that has exactly these.

    A network with one layer left at its random start scores without complaint, and wrongly.

    Raises:
        ScorerError: Names or shapes differ; the message counts them and shows the first.
    """
    own = network.state_dict()
    wrong = {
        "missing": sorted(own.keys() - state.keys()),
        "unknown": sorted(state.keys() - own.keys()),
        "of another shape": sorted(n for n in own.keys() & state.keys() if own[n].shape != state[n].shape),
    }
    faults = [f"{len(names)} {what} ({', '.join(names[:_SHOWN])})" for what, names in wrong.items() if names]
    if faults:
        raise ScorerError(f"scorer '{label}' got weights that do not fit its network: tensors {'; '.join(faults)}")
    network.load_state_dict(dict(state))


def fingerprint(state: State, *further: Any) -> str:
    """12 hexadecimal digits that change with any name or byte of the weights and any further value.

    Args:
        state: Tensors by name.
        *further: JSON values, such as settings and revisions of the preprocessing.
    """
    digest = hashlib.sha256(json.dumps(list(further), sort_keys=True, default=str).encode())
    for name, value in state.items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:_VERSION_LENGTH]


def source_version(*modules: Any, further: Any = None) -> str:
    """12 hexadecimal digits of the source files of modules whose rules are the reward, and of further JSON values."""
    digest = hashlib.sha256(json.dumps(further, sort_keys=True, default=str).encode())
    for module in modules:
        digest.update(Path(module.__file__ or "").read_bytes())
    return digest.hexdigest()[:_VERSION_LENGTH]


def pinned(source: str) -> tuple[str, str | None]:
    """The name and the revision of a hub repository "org/name" or "org/name@revision"."""
    name, _, revision = source.partition("@")
    return name, revision or None


def short(error: BaseException) -> str:
    """An exception on one line of at most 300 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _read(path: Path) -> Any:
    """What a file holds; torch explains a file that it does not trust in a paragraph, of which one sentence is ours."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Its class is of a module that nothing here imports, on purpose.
        if type(error).__name__ != "UnpicklingError":
            raise
        raise ValueError("it is damaged, or holds more than tensors and plain values, which is not loaded") from error


def _from_hub(source: str, label: str) -> Path:
    parts = source.removeprefix(HUB).split("/", 2)
    if len(parts) != 3 or not all(parts):
        raise ScorerError(f"scorer '{label}' cannot read '{source}'; right would be {HUB}org/name/file")
    from huggingface_hub import hf_hub_download

    try:
        name, revision = pinned("/".join(parts[:2]))
        return Path(hf_hub_download(name, parts[2], revision=revision))
    except Exception as error:
        raise ScorerError(f"scorer '{label}' cannot fetch '{source}' from the hub: {short(error)}") from error
