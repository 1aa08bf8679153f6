"""Small benchmark files and pictures, and the folder of the published files where there is one."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from flowgrpo.benchmarks.tasks import Point, Task, Track

PUBLISHED = Path(__file__).resolve().parents[3] / "shared" / "data" / "unigenbench"
needs_published_files = pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published CSV files are not here")

Row = tuple[int, str, Any]


def dimensions(points: Sequence[str], cues: Sequence[str], theme: str = "Art", subtheme: str = "Other") -> str:
    held = {
        "Primary Categories": theme,
        "Secondary Categories": subtheme,
        "Testpoints": list(points),
        "Testpoint Description": list(cues),
    }
    return json.dumps(held)


def write_csv(path: Path, rows: Sequence[Row], header: Sequence[str] = ("index", "prompt_en", "sub_dims_en")) -> Path:
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(header)
    table.writerows(rows)
    path.write_text(out.getvalue(), encoding="utf-8")
    return path


def track(points: Sequence[Sequence[str]], name: str = "en") -> Track:
    """A track of one task per list of test point names."""
    tasks = tuple(
        Task(i, f"prompt {i}", tuple(Point(p, f"cue {p}", "", p) for p in names), "Art", "Other")
        for i, names in enumerate(points)
    )
    return Track(name, tasks, "{index}_{sample}", ("Style", "Attribute"))


def write_pictures(folder: Path, held: Track, samples: int) -> dict[tuple[int, int], Path]:
    """Small pictures, all different."""
    folder.mkdir(parents=True, exist_ok=True)
    places = {}
    for task in held.tasks:
        for k in range(samples):
            places[task.index, k] = folder / f"{held.picture_name(task.index, k)}.png"
            Image.new("RGB", (4, 4), (task.index, k, 7)).save(places[task.index, k])
    return places
