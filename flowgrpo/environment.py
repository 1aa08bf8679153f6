"""What a run depends on outside the repository, found without importing any of it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from flowgrpo import __version__
from flowgrpo.assets import CANDIDATES, is_embedded, shipped_recipes
from flowgrpo.errors import UsageError

SIBLINGS = ("samplers", "reward_models")
DISTRIBUTIONS = (
    *("torch", "torchvision", "diffusers", "transformers", "peft", "accelerate", "safetensors"),
    *("open-clip-torch", "xformers", "numpy", "pillow", "pydantic", "pyyaml"),
)
VARIABLES = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "HF_HOME", "HF_HUB_OFFLINE")
ABSENT = "not installed"


def require_own_packages() -> None:
    """Refuse to run where another package of a generic name would be imported in place of ours.

    Raises: UsageError: naming the package and where it lies.
    """
    home = Path(__file__).resolve().parent.parent
    for name in SIBLINGS:
        found = _location(name)
        if found != home / name:
            where = f"resolves to {found}" if found else "cannot be found"
            raise UsageError(
                f"the package {name!r} {where}, not to flowgrpo's own in {home}; "
                f"install flowgrpo in an environment without another {name!r}, or put {home} first on PYTHONPATH"
            )


def _location(name: str) -> Path | None:
    """Folder of an importable package. Imports nothing."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).resolve()
    return Path(spec.origin).resolve() if spec.origin else None


def facts() -> dict[str, dict[str, str]]:
    """Everything `flowgrpo env` prints: section -> name -> value."""
    return {
        "flowgrpo": dict(_own()),
        "machine": dict(_machine()),
        "packages": {name: _version(name) for name in DISTRIBUTIONS},
        "environment": {name: os.environ.get(name, "not set") for name in VARIABLES},
    }


def _own() -> Iterator[tuple[str, str]]:
    yield "version", __version__
    yield "python", f"{platform.python_version()} ({sys.executable})"
    yield "package", str(Path(__file__).resolve().parent)
    yield "recipes", ", ".join(shipped_recipes())
    found = [str(folder) for folder in CANDIDATES if folder.is_dir()]
    yield "assets", found[0] if found else "missing"
    yield "embedded model", "tiny-sd3" if is_embedded("tiny-sd3/model_index.json") else "missing"


def _machine() -> Iterator[tuple[str, str]]:
    yield "system", platform.platform()
    yield "cores", f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()}"
    yield "memory", _memory()
    yield "gpus", _gpus()


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    except (ValueError, OSError):
        return "unknown"


def _gpus() -> str:
    """Names and driver as the vendor's tool reports them; asking torch would take seconds."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "none found"
    query = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return "none found"
    return "; ".join(line.strip() for line in lines) or "none found"


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ABSENT
