"""What every benchmark is made of: prompts, and the points that a picture of each is tested on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Point:
    """One question about a picture: `name` says what is tested, `cue` which part of the prompt it is about."""

    name: str
    """As the benchmark's file spells it, in the file's language."""
    cue: str = ""
    definition: str = ""
    """What the name means, for the judge."""
    label: str = ""
    """The name in tables, in English: "Attribute - Color"; the part before the first hyphen is the dimension."""

    @property
    def dimension(self) -> str:
        """The primary dimension, without the blank that the published script leaves at its end."""
        return self.label.partition("-")[0].strip()


@dataclass(frozen=True, slots=True)
class Task:
    """One prompt and what pictures of it are tested on."""

    index: int
    """Number in the file's own count; names the pictures."""
    prompt: str
    points: tuple[Point, ...]
    theme: str = ""
    subtheme: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    line: int = 0


@dataclass(frozen=True, slots=True)
class Track:
    """The tasks of one file, in its order.

    Attributes:
        name: "en", "zh_long" and the like; a folder of that name holds the pictures.
        tasks: at least one; no index comes twice.
        picture: name of a picture file without its ending, a format of `index` and `sample`.
        dimensions: primary dimensions in the order of tables; others follow as they appear.
        warnings: what is odd about the file.
    """

    name: str
    tasks: tuple[Task, ...]
    picture: str
    dimensions: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def part(self, shard: tuple[int, int] = (0, 1), limit: int | None = None) -> Track:
        """Every n-th task of the first `limit`, starting at the i-th, for `shard` (i, n): what one of n processes does.

        Shards are disjoint and together they are the whole.
        """
        first, step = shard
        return replace(self, tasks=self.tasks[:limit][first::step])

    def picture_name(self, index: int, sample: int) -> str:
        """Path of a picture below the track's folder, without its ending."""
        return self.picture.format(index=index, sample=sample)
