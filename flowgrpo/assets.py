"""Where the files are that ship with the project: recipes, the embedded models and the prompt sets."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from flowgrpo.errors import AssetError

HERE = Path(__file__).resolve().parent
RECIPES = HERE / "recipes"
CANDIDATES = (HERE.parent / "assets", HERE / "embedded")
"""A checkout has the assets beside the packages; a wheel carries them inside this one."""

EMBEDDED_MODELS = ("tiny-sd3", "tiny-dllm")


@cache
def assets_folder() -> Path:
    """The folder of embedded models and prompt sets.

    Raises: AssetError: the installation has none.
    """
    for folder in CANDIDATES:
        if (folder / "prompts").is_dir():
            return folder
    raise AssetError(f"the embedded assets are missing: no folder {CANDIDATES[0]}; reinstall from a full checkout")


def asset(relative: str) -> Path:
    """Path of one embedded file or folder, such as "tiny-sd3" or "prompts/train.jsonl".

    Raises: AssetError: it does not exist.
    """
    path = assets_folder() / relative
    if not path.exists():
        raise AssetError(f"the embedded {relative!r} is missing from {assets_folder()}")
    return path


def is_embedded(relative: str) -> bool:
    """Whether `relative` names an embedded file or folder; never raises."""
    try:
        return asset(relative).exists()
    except AssetError:
        return False


def shipped_recipes() -> dict[str, Path]:
    """Name -> file of every recipe that ships with the project."""
    return {path.stem: path for path in sorted(RECIPES.glob("*.yaml"))}
