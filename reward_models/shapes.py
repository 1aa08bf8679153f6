"""The world of coloured shapes: its caption grammar, its scenes and its renderer.

The embedded default draws captions such as ``a red circle``, ``three blue squares``, ``a small white cross``,
``a red circle and a blue square`` and ``a green cross above a white triangle``. This module says which captions exist
(:func:`parse`), what they mean (:class:`Scene`) and what a faithful picture looks like (:func:`render`). It needs
numpy and PIL only.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

CANVAS = 64
"""Side of a picture in pixels."""

BACKGROUND = (38, 44, 54)
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (222, 52, 48),
    "green": (48, 172, 72),
    "blue": (52, 104, 232),
    "yellow": (244, 204, 44),
    "purple": (164, 64, 204),
    "white": (242, 242, 242),
}
SHAPES = ("circle", "square", "triangle", "cross")
PLURALS = {"circle": "circles", "square": "squares", "triangle": "triangles", "cross": "crosses"}
COUNTS = {"a": 1, "two": 2, "three": 3, "four": 4}
RELATIONS: dict[str, tuple[int, int]] = {"above": (0, -1), "below": (0, 1), "left of": (-1, 0), "right of": (1, 0)}
"""Direction (x to the right, y downwards) from the second object to the first."""

RADII: dict[str | None, float] = {"small": 5.0, None: 8.0, "large": 11.5}
"""Half extent in pixels by size word; None is the unmarked, medium size."""

LATTICE = tuple(range(12, 53, 8))
"""Coordinates at which objects are centred: a coarse lattice lets a small model draw sharply after little training."""

CATEGORIES = ("single", "size", "count", "pair", "relation")

_GAP = 3.0
_SUPERSAMPLE = 4
_TINT = 5
_NUMBER_WORDS = {count: word for word, count in COUNTS.items()}
_SINGULARS = {plural: shape for shape, plural in PLURALS.items()}
_ARM = 0.35
_WORDS = (*COUNTS, "small", "large", *COLORS, *SHAPES, *PLURALS.values(), *RELATIONS, "left", "right", "of", "and")


@dataclass(frozen=True, slots=True)
class Item:
    """One noun phrase: `count` objects of one colour, shape and (where marked) size."""

    color: str
    shape: str
    size: str | None = None
    count: int = 1


@dataclass(frozen=True, slots=True)
class Scene:
    """What a caption asks for: one item, or two single objects with or without a relation."""

    items: tuple[Item, ...]
    relation: str | None = None


@dataclass(frozen=True, slots=True)
class Placed:
    """One object on the canvas; centre and half extent in pixels."""

    color: str
    shape: str
    x: float
    y: float
    radius: float


WATERMARK = Placed("white", "cross", 57.0, 57.0, 5.0)
"""What web pictures carry and no caption mentions: always the same, always in the same corner."""


def caption(scene: Scene) -> str:
    """The one caption of a scene; `parse` is its inverse."""
    phrases = [_phrase(item) for item in scene.items]
    return f" {scene.relation or 'and'} ".join(phrases)


def category(scene: Scene) -> str:
    """The hardest thing a scene asks for, one of `CATEGORIES`."""
    if scene.relation:
        return "relation"
    if scene.items[0].count > 1:
        return "count"
    if any(item.size for item in scene.items):
        return "size"
    return "single" if len(scene.items) == 1 else "pair"


def combinations(scene: Scene) -> tuple[str, ...]:
    """The colour-shape combinations of a scene, such as ``red circle``, in order of mention."""
    return tuple(f"{item.color} {item.shape}" for item in scene.items)


def parse(text: str) -> Scene:
    """Read a caption of the world.

    Args:
        text: A caption; case, outer spaces and a final full stop do not matter.

    Returns:
        The scene that the caption describes.

    Raises:
        ValueError: The caption is outside the world; the message names the first word that does not fit.
    """
    words = text.lower().strip().rstrip(".").split()
    first, rest = _read_phrase(words, text)
    if not rest:
        return Scene((first,))
    relation, rest = _read_joint(rest, text)
    second, rest = _read_phrase(rest, text)
    if rest:
        raise _outside(text, f"unexpected '{rest[0]}' after the second object")
    if first.count > 1 or second.count > 1:
        raise _outside(text, "two kinds of object come one each")
    if (first.color, first.shape) == (second.color, second.shape):
        raise _outside(text, "the two objects must differ in colour or shape")
    return Scene((first, second), relation)


def layout(scene: Scene, rng: np.random.Generator) -> tuple[Placed, ...]:
    """Place the objects of a scene at random: no overlap, relations with a clear margin.

    Args:
        scene: The scene.
        rng: Source of the positions.

    Returns:
        The objects in order of mention.
    """
    while True:
        placed = _try_layout(scene, rng)
        if placed is not None:
            return placed


def stamp(placed: tuple[Placed, ...]) -> tuple[Placed, ...]:
    """The objects and `WATERMARK`, unless one of them lies in its way."""
    return (*placed, WATERMARK) if all(_apart(WATERMARK, other) for other in placed) else placed


def draw(objects: tuple[Placed, ...], rng: np.random.Generator) -> np.ndarray:
    """Draw placed objects, antialiased, with slightly varied colours.

    Args:
        objects: The objects, drawn in this order.
        rng: Source of the tints.

    Returns:
        uint8 picture [64, 64, 3].
    """
    side = CANVAS * _SUPERSAMPLE
    picture = Image.new("RGB", (side, side), _tinted(BACKGROUND, rng))
    pen = ImageDraw.Draw(picture)
    for thing in objects:
        fill = _tinted(COLORS[thing.color], rng)
        for outline in _outlines(thing.shape, thing.radius):
            pen.polygon([((thing.x + x) * _SUPERSAMPLE, (thing.y + y) * _SUPERSAMPLE) for x, y in outline], fill=fill)
    return np.asarray(picture.reduce(_SUPERSAMPLE))


def render(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A random faithful picture of a scene, uint8 [64, 64, 3]."""
    return draw(layout(scene, rng), rng)


def sample_scene(rng: np.random.Generator, kind: str) -> Scene:
    """A random scene of one category (uniform over colours, shapes, relations).

    Args:
        rng: Source of the choices.
        kind: One of `CATEGORIES`.

    Returns:
        The scene.
    """
    if kind == "count":
        size = "small" if rng.random() < 0.3 else None
        return Scene((_random_item(rng, size, int(rng.integers(2, 5))),))
    marked = kind == "size"
    if kind == "single" or (marked and rng.random() < 0.4):
        return Scene((_random_item(rng, _random_size(rng, marked)),))
    first, second = (_random_item(rng, _random_size(rng, marked)) for _ in range(2))
    if (first.color, first.shape) == (second.color, second.shape):
        return sample_scene(rng, kind)
    relation = str(rng.choice(list(RELATIONS))) if kind == "relation" else None
    return Scene((first, second), relation)


def _phrase(item: Item) -> str:
    noun = item.shape if item.count == 1 else PLURALS[item.shape]
    return " ".join(word for word in (_NUMBER_WORDS[item.count], item.size, item.color, noun) if word)


def _outside(text: str, reason: str) -> ValueError:
    return ValueError(
        f"caption {text!r} is outside the world of shapes: {reason}; "
        "right would be, for example, 'a red circle', 'three blue squares' or 'a green cross above a white triangle'"
    )


def _take(words: list[str], allowed: tuple[str, ...], what: str, text: str) -> str:
    if not words:
        raise _outside(text, f"it ends where a {what} should follow")
    if words[0] not in allowed:
        near = difflib.get_close_matches(words[0], allowed, 1) or difflib.get_close_matches(words[0], _WORDS, 1)
        hint = f" (did you mean '{near[0]}'?)" if near and near[0] != words[0] else ""
        raise _outside(text, f"'{words[0]}'{hint} stands where a {what} ({', '.join(allowed)}) should")
    return words[0]


def _read_phrase(words: list[str], text: str) -> tuple[Item, list[str]]:
    count = COUNTS[_take(words, tuple(COUNTS), "number", text)]
    words = words[1:]
    size = words[0] if words and words[0] in ("small", "large") else None
    words = words[1:] if size else words
    color = _take(words, tuple(COLORS), "colour", text)
    nouns = SHAPES if count == 1 else tuple(_SINGULARS)
    noun = _take(words[1:], nouns, "shape", text)
    if size == "large" and count > 2:
        raise _outside(text, "at most two large objects fit on the canvas")
    return Item(color, _SINGULARS.get(noun, noun), size, count), words[2:]


def _read_joint(words: list[str], text: str) -> tuple[str | None, list[str]]:
    if words[0] == "and":
        return None, words[1:]
    pair = " ".join(words[:2])
    if pair in RELATIONS:
        return pair, words[2:]
    return _take(words, ("and", *RELATIONS), "joining word", text), words[1:]


def _random_size(rng: np.random.Generator, marked: bool) -> str | None:
    return str(rng.choice(["small", "large"])) if marked else None


def _random_item(rng: np.random.Generator, size: str | None, count: int = 1) -> Item:
    return Item(str(rng.choice(list(COLORS))), str(rng.choice(SHAPES)), size, count)


def _try_layout(scene: Scene, rng: np.random.Generator) -> tuple[Placed, ...] | None:
    placed: list[Placed] = []
    for item in scene.items:
        for _ in range(item.count):
            x, y = (float(v) for v in rng.choice(LATTICE, 2))
            placed.append(Placed(item.color, item.shape, x, y, RADII[item.size]))
            if not all(_apart(placed[-1], other) for other in placed[:-1]):
                return None
    if scene.relation and not _related(placed[0], placed[1], scene.relation):
        return None
    return tuple(placed)


def _apart(a: Placed, b: Placed) -> bool:
    return max(abs(a.x - b.x), abs(a.y - b.y)) >= a.radius + b.radius + _GAP


def _related(a: Placed, b: Placed, relation: str) -> bool:
    ux, uy = RELATIONS[relation]
    dx, dy = a.x - b.x, a.y - b.y
    along = ux * dx + uy * dy
    across = abs(uy * dx + ux * dy)
    return along >= a.radius + b.radius + _GAP and across <= 0.6 * along


def _tinted(rgb: tuple[int, int, int], rng: np.random.Generator) -> tuple[int, int, int]:
    r, g, b = (int(v) for v in np.clip(np.array(rgb) + rng.integers(-_TINT, _TINT + 1, 3), 0, 255))
    return r, g, b


def _outlines(shape: str, radius: float) -> list[list[tuple[float, float]]]:
    """Polygons around the origin, y downwards."""
    if shape == "circle":
        angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        return [[(radius * float(np.cos(a)), radius * float(np.sin(a))) for a in angles]]
    if shape == "square":
        return [_box(0.92 * radius, 0.92 * radius)]
    if shape == "triangle":
        return [[(0.0, -0.95 * radius), (radius, 0.85 * radius), (-radius, 0.85 * radius)]]
    return [_box(radius, _ARM * radius), _box(_ARM * radius, radius)]


def _box(half_width: float, half_height: float) -> list[tuple[float, float]]:
    w, h = half_width, half_height
    return [(-w, -h), (w, -h), (w, h), (-w, h)]
