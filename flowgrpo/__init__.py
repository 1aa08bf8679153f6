"""Group-relative policy optimisation of diffusion and flow models.

Names are imported on first use, so that the command line can answer `--help` without loading torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowgrpo.evaluation import evaluate
    from flowgrpo.recipe_loading import load_recipe
    from flowgrpo.trainer import Trainer

__version__ = "0.1.0"
__all__ = ["Trainer", "__version__", "evaluate", "load_recipe"]

_HOMES = {
    "Trainer": "flowgrpo.trainer",
    "evaluate": "flowgrpo.evaluation",
    "load_recipe": "flowgrpo.recipe_loading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'flowgrpo' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
