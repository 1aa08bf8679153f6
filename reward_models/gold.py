"""gold: an exact, programmatic verifier of pictures of coloured shapes.

In the manner of GenEval (Ghosh et al., 2023), with thresholds in the place of a detector: find the objects, name their
colour, shape and size, and check every clause of the caption. Nothing is learned, so nothing can be gamed by textures.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from PIL import Image, ImageFilter

from reward_models.shapes import CANVAS, COLORS, RELATIONS, SHAPES, Item, Placed, Scene, draw, parse

_EDGE = 0.5
_SPECK = 8
_GRID = 12
_SHAPE_GAP = 0.25
_FILL_WEIGHT = 2.0
_COLOR_GAP = 50.0
_PURITY = 0.8
_LARGEST_ASPECT = 1.35
_SMALL_BELOW, _LARGE_ABOVE = 6.2, 9.8
_MOST_OBJECTS = 6
_PALETTE = np.array(list(COLORS.values()), dtype=np.float32)
_NAMES = tuple(COLORS)


@dataclass(frozen=True, slots=True)
class Found:
    """One object in a picture; centre and half extent in pixels, None where colour or shape is not of the world."""

    color: str | None
    shape: str | None
    x: float
    y: float
    radius: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """How far a picture follows a caption.

    Attributes:
        partial: Mean of the clauses (count, colour, shape and, where asked for, size and relation) in [0, 1]; objects
            that nobody asked for lower all of them.
        strict: Whether every clause holds.
    """

    partial: float
    strict: bool


def score_gold(images: torch.Tensor, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor, dict[int, str]]:
    """Score pictures against their captions.

    Args:
        images: Pictures [B, 3, 64, 64] with values in [0, 1].
        prompts: B captions of the world of shapes.

    Returns:
        Partial scores [B] in [0, 1], strict scores [B] of 0 or 1, and by index what was wrong with a sample that could
        not be scored (a caption outside the world, non-finite pixels); both of its scores are NaN.

    Raises:
        ValueError: The shapes do not fit.
    """
    if images.ndim != 4 or tuple(images.shape[1:]) != (3, CANVAS, CANVAS) or len(images) != len(prompts):
        raise ValueError(
            f"gold takes images [B, 3, {CANVAS}, {CANVAS}] and B prompts, "
            f"got {list(images.shape)} and {len(prompts)} prompts"
        )
    pictures = images.detach().float().cpu().permute(0, 2, 3, 1).numpy()
    partial, strict, errors = [], [], {}
    for index, (picture, prompt) in enumerate(zip(pictures, prompts, strict=True)):
        try:
            verdict = judge(parse(prompt), find_objects(picture))
        except ValueError as error:
            verdict, errors[index] = Verdict(math.nan, False), str(error)
        partial.append(verdict.partial)
        strict.append(math.nan if index in errors else float(verdict.strict))
    return torch.tensor(partial), torch.tensor(strict), errors


def find_objects(picture: np.ndarray) -> tuple[Found, ...]:
    """Find every object in a picture.

    Args:
        picture: Float picture [64, 64, 3] in [0, 1].

    Returns:
        The objects from top to bottom; specks under 8 pixels are left out.

    Raises:
        ValueError: The picture has non-finite pixels.
    """
    if not np.isfinite(picture).all():
        raise ValueError("the picture has non-finite pixels; right would be finite values in [0, 1]")
    coverage, color, residual = _segment(255.0 * np.clip(picture, 0, 1))
    boxes = _components(coverage >= _EDGE)
    return tuple(_describe(box, mask, coverage, color, residual) for box, mask in boxes)


def judge(scene: Scene, objects: Sequence[Found]) -> Verdict:
    """Check what was found against what was asked for, under the assignment that favours the picture most."""
    slots = [item for item in scene.items for _ in range(item.count)]
    count = len(objects) / len(slots) if len(objects) < len(slots) else (len(slots) / len(objects)) ** 2
    candidates: list[Found | None] = [*sorted(objects, key=lambda thing: -thing.radius)[:_MOST_OBJECTS]]
    candidates += [None] * (len(slots) - len(candidates))
    marks = [[_attributes(slot, thing) for thing in candidates] for slot in slots]
    totals = [[sum(values) for values in row] for row in marks]

    def worth(order: tuple[int, ...]) -> tuple[float, bool]:
        return sum(totals[i][j] for i, j in enumerate(order)), _relation(scene, candidates, order)

    best = max(itertools.permutations(range(len(candidates)), len(slots)), key=worth)
    chosen = [marks[i][j] for i, j in enumerate(best)]
    # Squared, an object too many costs about as much as one too few, which takes its own clauses with it. With less it
    # pays to draw more than was asked for and have the best ones count: policies find that within ten updates.
    kept = min(1.0, len(slots) / max(len(objects), 1)) ** 2
    clauses = [count, *(kept * sum(column) / len(column) for column in _columns(slots, chosen))]
    if scene.relation:
        clauses.append(kept * _relation(scene, candidates, best))
    return Verdict(sum(clauses) / len(clauses), min(clauses) == 1.0)


def _attributes(slot: Item, thing: Found | None) -> tuple[bool, bool, bool]:
    if thing is None:
        return False, False, False
    return thing.color == slot.color, thing.shape == slot.shape, _size_fits(slot.size, thing.radius)


def _size_fits(size: str | None, radius: float) -> bool:
    if size is None:
        return True
    return radius < _SMALL_BELOW if size == "small" else radius > _LARGE_ABOVE


def _columns(slots: Sequence[Item], chosen: Sequence[tuple[bool, bool, bool]]) -> list[list[bool]]:
    sized = [marks[2] for slot, marks in zip(slots, chosen, strict=True) if slot.size]
    columns = [[marks[0] for marks in chosen], [marks[1] for marks in chosen]]
    return [*columns, sized] if sized else columns


def _relation(scene: Scene, candidates: Sequence[Found | None], order: tuple[int, ...]) -> bool:
    """The first object lies mainly, and clear of the second, in the named direction."""
    if scene.relation is None:
        return True
    first, second = candidates[order[0]], candidates[order[1]]
    if first is None or second is None:
        return False
    ux, uy = RELATIONS[scene.relation]
    dx, dy = first.x - second.x, first.y - second.y
    along, across = ux * dx + uy * dy, abs(uy * dx + ux * dy)
    return along > across and along >= 0.75 * (first.radius + second.radius)


def _segment(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per pixel: how far from the background towards the best colour, which colour, and the distance from that line.

    An antialiased edge lies on the line from the background to the object's colour, so its hue is not misread.
    """
    background = np.median(picture.reshape(-1, 3), axis=0)
    axes = _PALETTE - background
    offset = (picture - background).reshape(-1, 3)
    along = (offset @ axes.T) / (axes**2).sum(1)
    gap = (offset**2).sum(1, keepdims=True) - 2 * np.clip(along, 0, 1) * (offset @ axes.T)
    gap += np.clip(along, 0, 1) ** 2 * (axes**2).sum(1)
    color = gap.argmin(1)
    pick = np.arange(len(color)), color
    size = picture.shape[:2]
    residual = np.sqrt(np.maximum(gap[pick], 0))
    return np.clip(along[pick], 0, 1).reshape(size), color.reshape(size), residual.reshape(size)


def _components(mask: np.ndarray) -> list[tuple[tuple[slice, slice], np.ndarray]]:
    """4-connected components as (box, mask within the box), by union of overlapping runs of pixels."""
    runs, parents = _runs(mask), []
    above: list[int] = []
    current: list[int] = []
    for index, (row, start, stop) in enumerate(runs):
        parents.append(index)
        if index == 0 or row != runs[index - 1][0]:
            above = current if index and runs[index - 1][0] == row - 1 else []
            current = []
        current.append(index)
        for other in above:
            if runs[other][1] < stop and start < runs[other][2]:
                parents[_root(parents, other)] = _root(parents, index)
    groups: dict[int, list[tuple[int, int, int]]] = {}
    for index, run in enumerate(runs):
        groups.setdefault(_root(parents, index), []).append(run)
    large = (group for group in groups.values() if sum(stop - start for _, start, stop in group) >= _SPECK)
    return [_boxed(group) for group in large]


def _runs(mask: np.ndarray) -> list[tuple[int, int, int]]:
    """Runs of set pixels as (row, start, stop), row by row."""
    steps = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(steps == 1)
    stops = np.nonzero(steps == -1)[1]
    return list(zip(rows.tolist(), starts.tolist(), stops.tolist(), strict=True))


def _root(parents: list[int], index: int) -> int:
    while parents[index] != index:
        parents[index] = parents[parents[index]]
        index = parents[index]
    return index


def _boxed(runs: list[tuple[int, int, int]]) -> tuple[tuple[slice, slice], np.ndarray]:
    top, bottom = runs[0][0], runs[-1][0] + 1
    left, right = min(run[1] for run in runs), max(run[2] for run in runs)
    mask = np.zeros((bottom - top, right - left), dtype=bool)
    for row, start, stop in runs:
        mask[row - top, start - left : stop - left] = True
    return (slice(top, bottom), slice(left, right)), mask


def _describe(
    box: tuple[slice, slice], mask: np.ndarray, coverage: np.ndarray, color: np.ndarray, residual: np.ndarray
) -> Found:
    rows, columns = box
    height, width = mask.shape
    votes = np.bincount(color[box][mask], minlength=len(_NAMES))
    pure = votes.max() >= _PURITY * votes.sum() and residual[box][mask].mean() < _COLOR_GAP
    return Found(
        color=_NAMES[int(votes.argmax())] if pure else None,
        shape=_shape(coverage, box),
        x=(columns.start + columns.stop) / 2,
        y=(rows.start + rows.stop) / 2,
        radius=math.sqrt(width * height) / 2,
    )


def _shape(coverage: np.ndarray, box: tuple[slice, slice]) -> str | None:
    """The shape whose template lies nearest, None where none is near."""
    height, width = (part.stop - part.start for part in box)
    if max(height, width) > _LARGEST_ASPECT * min(height, width):
        return None
    templates, labels = _templates()
    gaps = np.abs(templates - _outline(coverage, box)).sum(1)
    best = int(gaps.argmin())
    return SHAPES[labels[best]] if gaps[best] < _SHAPE_GAP else None


def _outline(coverage: np.ndarray, box: tuple[slice, slice]) -> np.ndarray:
    """What tells shapes apart: the silhouette stretched to a common grid, and how much of its box it fills.

    Extents are the longest row and column sums, which blur leaves alone.
    """
    inner = coverage[box]
    height, width = inner.shape
    rows = ((np.arange(_GRID) + 0.5) * height / _GRID).astype(int)
    columns = ((np.arange(_GRID) + 0.5) * width / _GRID).astype(int)
    grid = inner[np.ix_(rows, columns)].ravel() / _GRID**2
    outer = coverage[tuple(slice(max(0, part.start - 1), part.stop + 1) for part in box)]
    extents = outer.sum(0).max() * outer.sum(1).max()
    return np.append(grid, _FILL_WEIGHT * outer.sum() / extents)


@cache
def _templates() -> tuple[np.ndarray, np.ndarray]:
    """Outlines of each shape over sizes, subpixel positions and sharpness [N, 145], and the index of the shape [N]."""
    grid = itertools.product(range(len(SHAPES)), np.linspace(4.5, 13.5, 10), (0.0, 0.25, 0.5, 0.75), (0.0, 0.7))
    labels, outlines = [], []
    for label, radius, shift, blur in grid:
        thing = Placed("white", SHAPES[label], CANVAS / 2 + shift, CANVAS / 2 + (2 * shift) % 1, float(radius))
        sharp = Image.fromarray(draw((thing,), np.random.default_rng(0)))
        picture = np.asarray(sharp.filter(ImageFilter.GaussianBlur(blur)))
        coverage, _, _ = _segment(picture.astype(np.float32))
        labels.append(label)
        outlines.append(_outline(coverage, _components(coverage >= _EDGE)[0][0]))
    return np.stack(outlines), np.array(labels)
