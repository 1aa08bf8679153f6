"""Pictures of a track: drawn with the published names, or found where somebody else drew them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flowgrpo.benchmarks.judgements import Place
from flowgrpo.benchmarks.tasks import Task, Track
from flowgrpo.errors import UsageError
from flowgrpo.policy import Policy
from flowgrpo.recipe import Recipe
from flowgrpo.runfolder import write_atomically
from flowgrpo.sampling import draw_in_batches, save_png
from flowgrpo.seeding import SAMPLING

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
SETTINGS = "pictures.json"


def draw_missing(
    policy: Policy,
    recipe: Recipe,
    track: Track,
    folder: Path,
    *,
    samples: int,
    seed: int,
    steps: int,
    guidance_scale: float,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Draw the pictures that `folder` lacks, each file whole or not there.

    As published, the k-th picture of every prompt starts from the same noise, that of seed + k. The noise itself is
    keyed by this project's generator, so that it differs from what diffusers draws for the number.

    Args:
        policy: the model with the weights to be judged.
        recipe: grid and batch size.
        track: what to draw.
        folder: of this track.
        samples: pictures per prompt.
        seed: of the first.
        steps: ODE steps.
        guidance_scale: classifier-free guidance.
        progress: called with (drawn, all of this call).
    """
    places = [(task, k) for task in track.tasks for k in range(samples)]
    targets = [(task, k, folder / f"{track.picture_name(task.index, k)}.png") for task, k in places]
    drawn = _blocks_with_gaps(targets, recipe.eval.batch_size)
    jobs = [(task.prompt, (SAMPLING, seed + k)) for task, k, _ in drawn]
    batches = draw_in_batches(policy, recipe, jobs, steps=steps, guidance_scale=guidance_scale, progress=progress)
    for rows, images in batches:
        for row, image in zip(rows, images, strict=True):
            if not drawn[row][2].exists():
                _save(image, drawn[row][2])


def _blocks_with_gaps(targets: list[tuple[Task, int, Path]], size: int) -> list[tuple[Task, int, Path]]:
    """Every batch of which a picture is missing, whole: what a picture shares its batch with may round its last bits,
    and an interrupted drawing is to end with the very files of one that was not."""
    blocks = [targets[start : start + size] for start in range(0, len(targets), size)]
    return [entry for block in blocks if not all(path.exists() for *_, path in block) for entry in block]


def _save(image: Any, target: Path) -> None:
    part = target.with_name(f"part-{target.name}")
    save_png(image, part)
    os.replace(part, target)


def find_pictures(track: Track, folder: Path, samples: int) -> dict[Place, Path]:
    """(index, sample) -> file, of all that there are in `folder`, or below it in a folder of the track's name.

    Raises: UsageError: there is none at all.
    """
    own = folder / track.name
    base = own if own.is_dir() else folder
    found = {}
    for task in track.tasks:
        for sample in range(samples):
            name = track.picture_name(task.index, sample)
            file = next((path for end in SUFFIXES if (path := base / f"{name}{end}").is_file()), None)
            if file is not None:
                found[task.index, sample] = file
    if not found:
        example = track.picture_name(track.tasks[0].index, 0)
        raise UsageError(f"{base}: no picture of track {track.name!r}; they are named like {example}.png")
    return found


def hold_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Note what the pictures of a folder were drawn with, or check that it is the same as before.

    Raises: UsageError: they were drawn with something else.
    """
    file = folder / SETTINGS
    if not file.exists():
        write_atomically(file, json.dumps(dict(settings), indent=1))
        return
    before = json.loads(file.read_text(encoding="utf-8"))
    differs = {key: now for key, now in settings.items() if before.get(key) != now}
    changed = [f"{key} {before.get(key)!r}, now {now!r}" for key, now in differs.items()]
    if changed:
        raise UsageError(
            f"{folder} holds pictures of other settings ({'; '.join(changed)}); choose another --out, "
            "or the settings from before to continue"
        )
