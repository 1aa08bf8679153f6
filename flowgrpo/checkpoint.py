"""Full training state on disk: written whole or not at all, verified before it is believed.

A checkpoint is a folder `iteration-000010` with safetensors files of tensors, a `state.json` of numbers, and a
`manifest.json` with the SHA-256 of each. It is built under another name and renamed, so that a kill or a full disk
leaves the earlier ones untouched. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from flowgrpo.errors import RunError

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything that the next iteration depends on.

    iteration: iterations done; tensors: group ("weights", "optimizer", "ema", "rng") -> name -> tensor;
    numbers: update count, seconds of training, recipe hash and the like (JSON values).
    """

    iteration: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    numbers: Mapping[str, Any]


def folder_of(root: Path, iteration: int) -> Path:
    return root / f"iteration-{iteration:06d}"


def save_checkpoint(root: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write a checkpoint atomically and delete all but the `keep` newest.

    Raises: RunError: the disk is full or not writable; earlier checkpoints stay as they were.
    """
    target = folder_of(root, checkpoint.iteration)
    part = target.with_name(f".{target.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        _write_files(part, checkpoint)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(part, target)
        _flush_to_disk(root)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"cannot write checkpoint {target}: {reason}; earlier checkpoints are untouched") from error
    for old in list_checkpoints(root)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def _write_files(folder: Path, checkpoint: Checkpoint) -> None:
    for group, tensors in checkpoint.tensors.items():
        save_file(
            {name: tensor.detach().contiguous() for name, tensor in tensors.items()}, folder / f"{group}.safetensors"
        )
    state = {"iteration": checkpoint.iteration, **checkpoint.numbers}
    (folder / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
    digests = {path.name: _digest(path) for path in sorted(folder.iterdir())}
    (folder / MANIFEST).write_text(json.dumps(digests, indent=1), encoding="utf-8")
    for path in (*folder.iterdir(), folder):
        _flush_to_disk(path)


def _flush_to_disk(path: Path) -> None:
    """A file's bytes, or a folder's names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def list_checkpoints(root: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    return sorted(root.glob("iteration-[0-9]*")) if root.exists() else []


def drop_newer(root: Path, iteration: int) -> None:
    """Delete checkpoints of iterations after `iteration`: damaged ones that were passed over, or another run's.

    Left in place they would count as the newest: retention would keep them in place of good ones.
    """
    for folder in list_checkpoints(root):
        if folder.name > folder_of(root, iteration).name:
            shutil.rmtree(folder, ignore_errors=True)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint and verify every byte of it.

    Raises: RunError: a file is missing, changed or cut off.
    """
    try:
        digests = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        wrong = [name for name, digest in digests.items() if _digest(folder / name) != digest]
        if wrong:
            raise RunError(f"checkpoint {folder} is damaged: {', '.join(wrong)} changed since it was written")
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        tensors = {Path(name).stem: load_file(folder / name) for name in digests if name.endswith(".safetensors")}
    except (OSError, ValueError, SafetensorError) as error:
        raise RunError(f"checkpoint {folder} is damaged: {error}") from error
    return Checkpoint(state.pop("iteration"), tensors, state)


def newest_good(root: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that verifies, and a complaint for each newer one that does not.

    Raises: RunError: there are checkpoints and all of them are damaged.
    """
    complaints: list[str] = []
    for folder in reversed(list_checkpoints(root)):
        try:
            return load_checkpoint(folder), complaints
        except RunError as error:
            complaints.append(str(error))
    if complaints:
        raise RunError(f"no usable checkpoint is left: {'; '.join(complaints)}; delete the folder to start anew")
    return None, complaints


def optimizer_tensors(state: Mapping[str, Any], names: list[str]) -> dict[str, Tensor]:
    """The tensors of `optimizer.state_dict()` under "field/parameter name" (parameters in the optimizer's order)."""
    return {
        f"{field}/{names[index]}": value for index, fields in state["state"].items() for field, value in fields.items()
    }


def optimizer_state(tensors: Mapping[str, Tensor], names: list[str], template: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of `optimizer_tensors`, with the parameter groups of `template` (a fresh `state_dict()`)."""
    index = {name: i for i, name in enumerate(names)}
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        field, name = key.split("/", 1)
        state.setdefault(index[name], {})[field] = value
    return {"state": state, "param_groups": template["param_groups"]}
