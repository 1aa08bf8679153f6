"""Metrics to the experiment trackers that accelerate knows, if a recipe names any; local files are always written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowgrpo.errors import RecipeError, did_you_mean
from flowgrpo.recipe import Recipe
from flowgrpo.recipe_loading import recipe_values


@dataclass(frozen=True, slots=True)
class Trackers:
    """Open trackers; none is the default."""

    accelerator: Any = None

    @classmethod
    def start(cls, recipe: Recipe, folder: Path) -> Trackers:
        """Open what `run.trackers` names; each needs its own package, which the extra `trackers` brings.

        Raises: RecipeError: accelerate does not know a tracker, or its package is missing.
        """
        names = list(recipe.run.trackers)
        if not names:
            return cls()
        from accelerate import Accelerator
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

        for name in names:
            if name not in LOGGER_TYPE_TO_CLASS:
                known = ", ".join(LOGGER_TYPE_TO_CLASS)
                raise RecipeError(
                    f"run.trackers: {name!r} is no tracker{did_you_mean(name, LOGGER_TYPE_TO_CLASS)} ({known})"
                )
            if name not in [str(installed) for installed in get_available_trackers()]:
                raise RecipeError(f"run.trackers: the package of {name!r} is not installed; flowgrpo[trackers] has it")
        accelerator = Accelerator(log_with=names, project_dir=str(folder), cpu=recipe.run.device == "cpu")
        accelerator.init_trackers("flowgrpo", config=_flat(recipe_values(recipe)))
        return cls(accelerator)

    def log(self, row: Mapping[str, Any]) -> None:
        """The plain numbers of one iteration's row."""
        if self.accelerator is not None:
            values = {key: value for key, value in row.items() if isinstance(value, int | float)}
            self.accelerator.log(values, step=row["iteration"])

    def end(self) -> None:
        """Let every tracker write what it holds."""
        if self.accelerator is not None:
            self.accelerator.end_training()


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Section and key joined by a slash, values that trackers can store."""
    flat: dict[str, Any] = {}
    for section, held in values.items():
        entries = held.items() if isinstance(held, dict) else [("", held)]
        for key, value in entries:
            name = f"{section}/{key}" if key else section
            flat[name] = value if isinstance(value, int | float | str | bool) else str(value)
    return flat
