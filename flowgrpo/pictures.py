"""Pictures of the same prompts and seeds before, during and after training, for the eye and the report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from flowgrpo.policy import Policy
from flowgrpo.prompts import Prompt
from flowgrpo.recipe import Recipe
from flowgrpo.runfolder import RunFolder, write_atomically
from flowgrpo.sampling import draw_in_batches, save_png
from flowgrpo.seeding import prompt_key
from reward_models import Scorer


def draw_column(
    policy: Policy,
    recipe: Recipe,
    folder: RunFolder,
    prompts: Sequence[Prompt],
    scorers: Mapping[str, Scorer],
    *,
    label: str,
    iteration: int,
    steps: int,
    guidance_scale: float,
) -> None:
    """Draw every prompt once and enter the files under `label` in `images/index.json`, replacing what it named."""
    section = recipe.eval
    jobs = [(prompt.text, prompt_key(section.seed, prompt.text, 0)) for prompt in prompts]
    name = label.replace(" ", "-")
    files: list[str] = []
    scores: list[float | None] = []
    for rows, images in draw_in_batches(policy, recipe, jobs, steps=steps, guidance_scale=guidance_scale):
        batch = [prompts[row] for row in rows]
        scores += _first_score(scorers, images, batch)
        for row, image in zip(rows, images, strict=True):
            files.append(f"{name}/{row:03d}.png")
            save_png(image, folder.images / files[-1])
    column = {"label": label, "iteration": iteration, "files": files, "scores": scores}
    _enter(folder, [prompt.text for prompt in prompts], section.seed, column)


def _first_score(scorers: Mapping[str, Scorer], images: Any, prompts: Sequence[Prompt]) -> list[float | None]:
    scorer = next(iter(scorers.values()), None)
    if scorer is None:
        return [None] * len(prompts)
    scores = scorer(images, [prompt.text for prompt in prompts], [prompt.metadata for prompt in prompts])
    return [value if ok else None for value, ok in zip(scores.scores.tolist(), scores.valid.tolist(), strict=True)]


def _enter(folder: RunFolder, texts: Sequence[str], seed: int, column: Mapping[str, Any]) -> None:
    path = folder.images / "index.json"
    index: dict[str, Any] = {"prompts": list(texts), "seeds": [seed] * len(texts), "columns": []}
    if path.exists():
        index["columns"] = json.loads(path.read_text(encoding="utf-8"))["columns"]
    others = [other for other in index["columns"] if other["label"] != column["label"]]
    index["columns"] = sorted([*others, column], key=lambda entry: (entry["iteration"], entry["label"] == "after"))
    write_atomically(path, json.dumps(index, indent=1))
