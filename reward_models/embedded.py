"""Where the models that ship with the project lie. Needs no torch."""

from __future__ import annotations

from pathlib import Path

_PACKAGES = Path(__file__).parent.parent
_PLACES = (_PACKAGES / "assets", _PACKAGES / "flowgrpo" / "embedded")
"""In a checkout, and in an installed wheel."""


def embedded_folder(name: str) -> Path:
    """The folder of an embedded model; where no place has it, the one of a checkout, for the error to name."""
    folders = [place / name for place in _PLACES]
    return next((folder for folder in folders if folder.is_dir()), folders[0])
