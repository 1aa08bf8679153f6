"""Pictures on disk to scores: what `flowgrpo score` runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowgrpo.devices import resolve_device
from flowgrpo.errors import RunError, first_line
from flowgrpo.evaluation import Row, score_samples, summarise
from flowgrpo.prompts import Prompt
from flowgrpo.recipe import Recipe
from flowgrpo.rewarding import load_scorers


def score_files(
    recipe: Recipe,
    scorers: Sequence[str],
    files: Sequence[Path],
    prompts: Sequence[Prompt],
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[Row], list[Row]]:
    """Score picture files.

    Args:
        recipe: reward options, batch size and device.
        scorers: names or import paths.
        files: one picture each.
        prompts: the prompt of each file; files of one prompt stand together.
        progress: called with (done, total).

    Returns:
        (a line per file: "file", "prompt", "scores"; a row per scorer and component, as evaluations have them).

    Raises: RunError: a file is no picture.
    """
    loaded = load_scorers(scorers, recipe.reward, device=str(resolve_device(recipe.run.device)))
    lines: list[Row] = []
    for batch in _batches(files, recipe.eval.batch_size):
        owners = [prompts[i] for i, _ in batch]
        rows = score_samples(loaded, torch.stack([image for _, image in batch]), owners)
        lines += [
            {"file": files[i].name, "prompt": prompts[i].text, "scores": row}
            for (i, _), row in zip(batch, rows, strict=True)
        ]
        progress(len(lines), len(files))
    return lines, _summary(lines, prompts)


def _batches(files: Sequence[Path], size: int) -> Iterator[list[tuple[int, Tensor]]]:
    """Neighbours of one size together, `size` at most."""
    images = ((i, read_picture(path)) for i, path in enumerate(files))
    for _, run in groupby(images, key=lambda entry: entry[1].shape):
        batch: list[tuple[int, Tensor]] = []
        for entry in run:
            batch.append(entry)
            if len(batch) == size:
                yield batch
                batch = []
        if batch:
            yield batch


def read_picture(path: Path) -> Tensor:
    """[3, H, W] in [0, 1], float32.

    Raises: RunError: the file is no picture.
    """
    import numpy
    from PIL import Image

    try:
        with Image.open(path) as image:
            pixels = numpy.array(image.convert("RGB"))
    except OSError as error:
        raise RunError(f"{path} cannot be read as a picture: {first_line(error)}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def _summary(lines: Sequence[Row], prompts: Sequence[Prompt]) -> list[Row]:
    """One row per scorer; pictures of one prompt count as one observation."""
    first = {id(prompt): index for index, prompt in reversed(list(enumerate(prompts)))}
    samples: dict[tuple[int, int], dict[str, Any]] = {}
    for index, (line, prompt) in enumerate(zip(lines, prompts, strict=True)):
        samples[first[id(prompt)], index] = line["scores"]
    return summarise(samples, prompts)
