"""Pictures and captions for tiny-sd3, and what web data do to them: wrong captions, and watermarks."""

from __future__ import annotations

import dataclasses
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np

from reward_models.shapes import (
    COLORS,
    RELATIONS,
    SHAPES,
    Item,
    Scene,
    caption,
    draw,
    layout,
    render,
    sample_scene,
    stamp,
)

SHARES = {"single": 0.12, "size": 0.18, "count": 0.25, "pair": 0.2, "relation": 0.25}
OPPOSITE = {"above": "below", "below": "above", "left of": "right of", "right of": "left of"}
_PARTNER_COUNT = {1: 2, 2: 1, 3: 4, 4: 3}
_PARTNER_SIZE = {"small": "large", "large": "small"}


def corrupt(scene: Scene, rng: np.random.Generator, typical: float) -> Scene:
    """A scene that differs from `scene` in one attribute, for a wrong caption.

    With probability `typical` the mistake is the usual one of its kind: the opposite relation, one object more or
    less, the other size, colours swapped between the two objects. Concentrated mistakes survive guidance, which
    removes the ones that spread over many alternatives.

    Args:
        scene: The true scene.
        rng: Source of the choices.
        typical: Probability of the usual mistake in [0, 1].

    Returns:
        The scene that the wrong caption describes.
    """
    if rng.random() < typical:
        usual = _usual_mistake(scene, rng)
        if usual is not None:
            return usual
    while True:
        wrong = _random_mistake(scene, rng)
        if _legal(wrong) and wrong != scene:
            return wrong


def make_captions(scenes: list[Scene], seed: int, share: float, typical: float) -> list[str]:
    """Captions of which `share` have one attribute wrong."""
    rng = np.random.default_rng([seed, 1])
    return [caption(corrupt(s, rng, typical) if rng.random() < share else s) for s in scenes]


def make_scenes(count: int, seed: int) -> list[Scene]:
    """Random scenes over the whole grammar, in the shares of `SHARES`."""
    rng = np.random.default_rng([seed, 0])
    kinds = rng.choice(list(SHARES), size=count, p=list(SHARES.values()))
    return [sample_scene(rng, str(kind)) for kind in kinds]


def render_all(scenes: list[Scene], seed: int, stamped: bool = False) -> np.ndarray:
    """Render every scene with its own seed, on all cores; uint8 [N, 64, 64, 3].

    A stamped picture carries the watermark of `reward_models.shapes` where there is room for it.
    """
    with multiprocessing.Pool() as pool:
        jobs = ((scene, (seed, 3 if stamped else 2, i)) for i, scene in enumerate(scenes))
        return np.stack(list(pool.imap(_render_stamped if stamped else _render_one, jobs, chunksize=256)))


def load_pictures(work: Path, scenes: list[Scene], seed: int, stamped: bool = False) -> np.ndarray:
    """Pictures of the scenes, rendered once and kept under `work`."""
    path = work / f"pictures-{'stamped-' if stamped else ''}{len(scenes)}-{seed}.npy"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        np.save(path, render_all(scenes, seed, stamped))
    return np.load(path)


def _render_one(job: tuple[Scene, tuple[int, ...]]) -> np.ndarray:
    scene, seed = job
    return render(scene, np.random.default_rng(seed))


def _render_stamped(job: tuple[Scene, tuple[int, ...]]) -> np.ndarray:
    scene, seed = job
    rng = np.random.default_rng(seed)
    return draw(stamp(layout(scene, rng)), rng)


def _replace_item(scene: Scene, index: int, **changes: Any) -> Scene:
    items = list(scene.items)
    items[index] = dataclasses.replace(items[index], **changes)
    return Scene(tuple(items), scene.relation)


def _usual_mistake(scene: Scene, rng: np.random.Generator) -> Scene | None:
    if scene.relation:
        return Scene(scene.items, OPPOSITE[scene.relation])
    first = scene.items[0]
    sized = [i for i, item in enumerate(scene.items) if item.size]
    if sized and first.count == 1:
        index = int(rng.choice(sized))
        return _replace_item(scene, index, size=_PARTNER_SIZE[scene.items[index].size or "small"])
    if len(scene.items) == 1:
        return _replace_item(scene, 0, count=_PARTNER_COUNT[first.count])
    second = scene.items[1]
    if first.color == second.color or first.shape == second.shape:
        return None
    swapped = (dataclasses.replace(first, color=second.color), dataclasses.replace(second, color=first.color))
    return Scene(swapped)


def _random_mistake(scene: Scene, rng: np.random.Generator) -> Scene:
    index = int(rng.integers(len(scene.items)))
    kind = str(rng.choice(["color", "shape", "count" if len(scene.items) == 1 else "relation"]))
    if kind == "color":
        return _replace_item(scene, index, color=str(rng.choice(list(COLORS))))
    if kind == "shape":
        return _replace_item(scene, index, shape=str(rng.choice(SHAPES)))
    if kind == "count":
        return _replace_item(scene, index, count=int(rng.integers(1, 5)))
    return Scene(scene.items, str(rng.choice(list(RELATIONS)))) if scene.relation else scene


def _legal(scene: Scene) -> bool:
    def kind(item: Item) -> tuple[str, str]:
        return item.color, item.shape

    stamped = any(item.size == "large" and item.count > 2 for item in scene.items)
    return not stamped and (len(scene.items) == 1 or kind(scene.items[0]) != kind(scene.items[1]))
