"""The embedded judge: test points of the world of shapes, answered exactly by gold's object finder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from flowgrpo.benchmarks.judges import Made
from flowgrpo.benchmarks.tasks import Point
from reward_models import load
from reward_models.gold import Found, find_objects, judge
from reward_models.shapes import Item, Scene, parse

CLEARLY = 0.9
"""Smaller means at most this share of the other's extent."""

Objects = Sequence[Found]


def _quantity(scene: Scene, objects: Objects, cue: str) -> bool:
    """The picture holds exactly as many objects as the prompt names."""
    return len(objects) == sum(item.count for item in scene.items)


def _color(scene: Scene, objects: Objects, cue: str) -> bool:
    """As many objects have the colour as the prompt gives it to."""
    wanted = sum(item.count for item in scene.items if item.color == cue)
    return wanted == sum(thing.color == cue for thing in objects)


def _shape(scene: Scene, objects: Objects, cue: str) -> bool:
    """As many objects have the shape as the prompt gives it to."""
    wanted = sum(item.count for item in scene.items if item.shape == cue)
    return wanted == sum(thing.shape == cue for thing in objects)


def _size(scene: Scene, objects: Objects, cue: str) -> bool:
    """Every object of the colour and shape that the cue names has its size, and there is one."""
    (item,) = parse(f"a {cue}").items
    same = _such(objects, item)
    return bool(same) and all(judge(Scene((item,)), (thing,)).strict for thing in same)


def _matching(scene: Scene, objects: Objects, cue: str) -> bool:
    """Each thing that is named has a counterpart with both its colour and its shape, and nothing mixes the two."""
    named = {(item.color, item.shape) for item in scene.items}
    return named == {(thing.color, thing.shape) for thing in objects}


def _layout(scene: Scene, objects: Objects, cue: str) -> bool:
    """Some object like the first stands in the named direction from some object like the second."""
    bare = Scene(tuple(Item(item.color, item.shape) for item in scene.items), cue)
    first, second = (_such(objects, item) for item in bare.items)
    return any(judge(bare, (a, b)).strict for a in first for b in second)


def _comparison(scene: Scene, objects: Objects, cue: str) -> bool:
    """The thing that the prompt calls small is clearly smaller than the one that it calls large."""
    by_size = {item.size: item for item in scene.items}
    small, large = (_such(objects, by_size[size]) for size in ("small", "large"))
    return any(a.radius <= CLEARLY * b.radius for a in small for b in large)


CHECKS: dict[str, Callable[[Scene, Objects, str], bool]] = {
    "Attribute - Quantity": _quantity,
    "Attribute - Color": _color,
    "Attribute - Shape": _shape,
    "Attribute - Size": _size,
    "Compound - Feature Matching": _matching,
    "Entity Layout - Two-Dimensional Space": _layout,
    "Relationship - Comparison": _comparison,
}
"""Test point -> whether the objects of a picture meet it, given the scene that the prompt describes and the cue."""


def points_of(scene: Scene) -> list[tuple[str, str]]:
    """The test points of a scene, as (name, cue), in the order of `CHECKS`; each kind of point only where it says more
    than that one thing is there.
    """
    items = scene.items
    several = len(items) == 2
    sizes = {item.size for item in items}
    found = [("Attribute - Quantity", _NUMBERS[sum(item.count for item in items)])]
    found += [("Attribute - Color", color) for color in dict.fromkeys(item.color for item in items)]
    found += [("Attribute - Shape", shape) for shape in dict.fromkeys(item.shape for item in items)]
    found += [("Attribute - Size", f"{item.size} {item.color} {item.shape}") for item in items if item.size]
    if several:
        found.append(("Compound - Feature Matching", " and ".join(f"{item.color} {item.shape}" for item in items)))
    if scene.relation:
        found.append(("Entity Layout - Two-Dimensional Space", scene.relation))
    if sizes == {"small", "large"}:
        found.append(("Relationship - Comparison", "one is smaller than the other"))
    return found


_NUMBERS = {1: "one object", 2: "two objects", 3: "three objects", 4: "four objects"}


def gold_judge() -> Made:
    """The judge `gold`; it has no options, and threads would only wait for each other."""
    own = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    return meets, f"{load('gold').version} {own}", False


def meets(prompt: str, picture: Tensor, points: Sequence[Point]) -> list[bool]:
    """Answer the test points of a caption of the world of shapes.

    Args:
        prompt: the caption.
        picture: [3, 64, 64] in [0, 1].
        points: labels are keys of `CHECKS`, cues as `points_of` writes them.

    Returns: whether each is met.

    Raises: ValueError: the caption is outside the world of shapes, or a point is not one of `CHECKS`.
    """
    scene = parse(prompt)
    unknown = [point.label for point in points if point.label not in CHECKS]
    if unknown:
        raise ValueError(f"gold cannot judge the test point {unknown[0]!r}; it judges {', '.join(CHECKS)}")
    objects = find_objects(picture.permute(1, 2, 0).cpu().numpy())
    return [CHECKS[point.label](scene, objects, point.cue) for point in points]


def _such(objects: Objects, item: Item) -> list[Found]:
    return [thing for thing in objects if (thing.color, thing.shape) == (item.color, item.shape)]
