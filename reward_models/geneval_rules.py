"""The rules of GenEval (Ghosh et al., arXiv 2310.11513) on detected objects, in three readings. Pure Python.

"lenient" is the benchmark's, "strict" and "soft" are those of Flow-GRPO's training (arXiv 2505.05470).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
RELATIONS = ("left of", "right of", "above", "below")

THRESHOLD = 0.3
COUNTING_THRESHOLD = 0.9
MOST_OBJECTS = 16
_MARGIN = 0.1
_TOUCHING = 1e-3
_DIRECTION = 0.5

Position = Literal["published", "once"]


@dataclass(frozen=True, slots=True)
class Detection:
    """An object that a detector found.

    Attributes:
        label: Its class, in GenEval's words.
        score: Confidence in [0, 1].
        box: (left, top, right, bottom) in pixels.
        color: One of `COLORS`, or None where nobody has looked yet.
        mask: Its outline, in the form of the detector, or None.
    """

    label: str
    score: float
    box: tuple[float, float, float, float]
    color: str | None = None
    mask: Any = None


Objects = Mapping[str, Sequence[Detection]]
"""Class -> its detections, most confident first."""


@dataclass(frozen=True, slots=True)
class GenEvalVerdict:
    """What the rules say of a picture.

    Attributes:
        soft: Mean of the partial terms, at most 1; negative where there are more than twice as many objects as asked.
        strict: Whether every wanted clause holds with exact counts.
        lenient: Whether the benchmark counts it: at least as many objects, only the surest looked at, nothing unwanted.
    """

    soft: float
    strict: bool
    lenient: bool


def check_metadata(metadata: Mapping[str, Any]) -> str:
    """What is wrong with the metadata of a prompt, in one sentence, or nothing."""
    include = metadata.get("include")
    if metadata.get("tag") not in TAGS:
        return f"GenEval metadata need a tag, one of {', '.join(TAGS)}; got {metadata.get('tag')!r}"
    if not isinstance(include, Sequence) or isinstance(include, str) or not include:
        return "GenEval metadata need a list include with at least one clause"
    exclude = metadata.get("exclude") or []
    faults = [_clause_fault(clause, i, i) for i, clause in enumerate(include)]
    faults += [_clause_fault(clause, i, 0) for i, clause in enumerate(exclude)]
    return next((fault for fault in faults if fault), "")


def select(detections: Sequence[Detection], tag: str) -> dict[str, list[Detection]]:
    """What counts: above the tag's threshold, the surest 16 of each class, most confident first."""
    least = COUNTING_THRESHOLD if tag == "counting" else THRESHOLD
    ordered = sorted((found for found in detections if found.score > least), key=lambda found: -found.score)
    labels = dict.fromkeys(found.label for found in ordered)
    return {label: [found for found in ordered if found.label == label][:MOST_OBJECTS] for label in labels}


def wanted_colors(metadata: Mapping[str, Any]) -> set[str]:
    """Classes whose colour the metadata ask for."""
    return {clause["class"] for clause in metadata["include"] if "color" in clause}


def judge(objects: Objects, metadata: Mapping[str, Any], *, position: Position = "published") -> GenEvalVerdict:
    """Judge a picture by its objects.

    Args:
        objects: From `select`, with colours where a clause asks for them.
        metadata: With "include" clauses {class, count, color?, position?: (relation, clause)} and "exclude" ones
            {class, count}; `check_metadata` has found nothing wrong with them.
        position: "published" gives a wrong layout a 0 and a 1, as the released reward does, so that it keeps 3/4 of
            the score; "once" gives it the 0 alone.

    Returns:
        The verdict. Unwanted objects concern only the lenient reading, as published.
    """
    terms, strict = _soft_terms(objects, metadata["include"], position)
    return GenEvalVerdict(sum(terms) / len(terms), strict, _is_lenient(objects, metadata))


def relations(a: Sequence[float], b: Sequence[float]) -> set[str]:
    """Where box a lies as seen from box b: some of `RELATIONS`, none where they overlap too much or lie diagonally far.

    The distance of the centres is shortened by a tenth of both sizes on each axis; what is left must be more than half
    of the whole distance.
    """
    offset = [(a[i] + a[i + 2]) / 2 - (b[i] + b[i + 2]) / 2 for i in (0, 1)]
    sizes = [abs(a[i + 2] - a[i]) + abs(b[i + 2] - b[i]) for i in (0, 1)]
    gap = [math.copysign(max(abs(o) - _MARGIN * s, 0), o) for o, s in zip(offset, sizes, strict=True)]
    if all(abs(g) < _TOUCHING for g in gap):
        return set()
    dx, dy = (g / math.hypot(*offset) for g in gap)
    holds = {
        "left of": dx < -_DIRECTION,
        "right of": dx > _DIRECTION,
        "above": dy < -_DIRECTION,
        "below": dy > _DIRECTION,
    }
    return {name for name, is_so in holds.items() if is_so}


def _soft_terms(objects: Objects, include: Sequence[Mapping[str, Any]], position: Position) -> tuple[list[float], bool]:
    terms: list[float] = []
    met: list[Sequence[Detection] | None] = []
    for clause in include:
        found = objects.get(clause["class"], [])
        own, holds = _clause_terms(clause, found, met, position)
        terms += own
        met.append(found if holds else None)
    return terms, None not in met


def _clause_terms(
    clause: Mapping[str, Any], found: Sequence[Detection], met: Sequence[Sequence[Detection] | None], position: Position
) -> tuple[list[float], bool]:
    count = clause["count"]
    terms = [_closeness(len(found), count)]
    if len(found) != count:
        return terms + [0.0] * ("color" in clause or "position" in clause), False
    if "color" in clause:
        right = _of_color(found, clause["color"])
        terms.append(_closeness(right, count))
        if right != count:
            return terms, False
    if "position" not in clause:
        return terms, True
    relation, target = clause["position"]
    if _all_related(found, met[target], relation):
        return [*terms, 1.0], True
    penalty = [0.0] if met[target] is None or position == "once" else [0.0, 1.0]
    return terms + penalty, False


def _is_lenient(objects: Objects, metadata: Mapping[str, Any]) -> bool:
    met: list[Sequence[Detection] | None] = []
    for clause in metadata["include"]:
        found = objects.get(clause["class"], [])[: clause["count"]]
        met.append(found if _holds_leniently(clause, found, met) else None)
    unwanted = (len(objects.get(c["class"], [])) >= c["count"] for c in metadata.get("exclude") or [])
    return None not in met and not any(unwanted)


def _holds_leniently(
    clause: Mapping[str, Any], found: Sequence[Detection], met: Sequence[Sequence[Detection] | None]
) -> bool:
    if len(found) < clause["count"] or ("color" in clause and _of_color(found, clause["color"]) < clause["count"]):
        return False
    if "position" not in clause:
        return True
    relation, target = clause["position"]
    return _all_related(found, met[target], relation)


def _closeness(number: int, count: int) -> float:
    return 1 - abs(number - count) / count


def _of_color(found: Sequence[Detection], color: str) -> int:
    return sum(one.color == color for one in found)


def _all_related(found: Sequence[Detection], targets: Sequence[Detection] | None, relation: str) -> bool:
    return targets is not None and all(relation in relations(a.box, b.box) for a in found for b in targets)


def _clause_fault(clause: Any, number: int, earlier: int) -> str:
    if not isinstance(clause, Mapping) or not isinstance(clause.get("class"), str):
        return f"clause {number} needs a class"
    if not isinstance(clause.get("count"), int) or clause["count"] < 1:
        return f"clause {number} needs a count of at least 1; got {clause.get('count')!r}"
    if "color" in clause and clause["color"] not in COLORS:
        return f"clause {number} asks for the colour {clause['color']!r}; known are {', '.join(COLORS)}"
    if "position" not in clause:
        return ""
    given = clause["position"]
    if not isinstance(given, Sequence) or len(given) != 2 or given[0] not in RELATIONS:
        return f"clause {number} needs a position [relation, clause] with one of {', '.join(RELATIONS)}; got {given!r}"
    if not isinstance(given[1], int) or not 0 <= given[1] < earlier:
        return f"clause {number} is placed beside clause {given[1]!r}; right would be one before it"
    return ""
