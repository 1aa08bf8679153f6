"""The same prompts and seeds before, during and after training, embedded into the page."""

from __future__ import annotations

import base64
import io
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flowgrpo.report.markup import Html, join, note, tag
from flowgrpo.report.numbers import number, usable
from flowgrpo.report.run_data import Row, RunData, as_mapping

MOST_COLUMNS = 6
EMBEDDED_BYTES = 48_000
THUMBNAIL_PIXELS = 320
PIXELATED_BELOW = 160
KINDS = ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpeg"), (b"RIFF", "webp"))


def picture_section(run: RunData) -> Html | None:
    """One card per prompt with a picture per column of the index, each with its label and score; None for answers."""
    if run.answers:
        return None
    index = as_mapping(run.images)
    prompts, columns = _sequence(index.get("prompts")), _columns(index)
    if not prompts or not columns:
        return note("No pictures were drawn yet.")
    shown = _spread_out(columns, MOST_COLUMNS)
    left_out = len(columns) - len(shown)
    seeds = _sequence(index.get("seeds"))
    cards = (
        _card(run.folder.images, shown, place, prompt, seeds[place] if place < len(seeds) else None)
        for place, prompt in enumerate(prompts)
    )
    return join(
        [
            note("Each card has one prompt and one seed, drawn as in the evaluations then, with its score below."),
            note(f"{left_out} of {len(columns)} columns are left out; all are in the run folder.")
            if left_out
            else None,
            tag("div", *cards, class_="cards"),
        ]
    )


def _columns(index: Row) -> list[Row]:
    """One per iteration: where the pictures of an iteration were drawn again at the end of the run, the last."""
    columns = [as_mapping(column) for column in _sequence(index.get("columns")) if as_mapping(column).get("files")]
    return list({column.get("iteration", f"column {place}"): column for place, column in enumerate(columns)}.values())


def _sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _spread_out(columns: Sequence[Row], most: int) -> list[Row]:
    """At most `most` columns, the first and the last among them, the others evenly between."""
    if len(columns) <= most:
        return list(columns)
    return [columns[round(index * (len(columns) - 1) / (most - 1))] for index in range(most)]


def _card(folder: Path, columns: Sequence[Row], place: int, prompt: object, seed: object) -> Html:
    pictures = (_picture(folder, column, place, prompt) for column in columns)
    caption = tag("p", tag("bdi", prompt), tag("small", f"seed {seed}") if seed is not None else None, class_="prompt")
    return tag("article", caption, tag("div", *pictures, class_="row"), class_="card")


def _picture(folder: Path, column: Row, place: int, prompt: object) -> Html:
    files, scores = _sequence(column.get("files")), _sequence(column.get("scores"))
    label = str(column.get("label", f"iteration {column.get('iteration', '?')}"))
    image = embedded(folder, files[place]) if place < len(files) else None
    score = usable(scores[place]) if place < len(scores) else None
    mark = tag("span", number(score), title="score") if score is not None else None
    if image is None:
        shown: Html = tag("div", "missing", class_="hole")
    else:
        source, small = image
        alt, look = f"{prompt}, {label}", "pixelated" if small else None
        shown = tag("img", src=source, alt=alt, loading="lazy", decoding="async", class_=look)
    return tag("figure", tag("div", shown, class_="frame"), tag("figcaption", tag("span", label), mark))


def embedded(folder: Path, name: object) -> tuple[str, bool] | None:
    """A picture file as a data URI.

    Files over 48 kB are shrunk to 320 pixels where Pillow is installed, and embedded whole where it is not.

    Returns:
        (URI, whether the picture is so small that enlarging it should keep its pixels); None where the file is missing,
        outside `folder`, or no PNG, JPEG or WebP picture.
    """
    path = (folder / str(name)).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        return None
    content = path.read_bytes()
    small = _pixels(content) < PIXELATED_BELOW
    if len(content) > EMBEDDED_BYTES:
        content = _thumbnail(content)
    kind = next((kind for start, kind in KINDS if content.startswith(start)), None)
    if kind is None:
        return None
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}", small


def _pixels(content: bytes) -> float:
    """Longer side of a PNG, from its header; infinite for anything else."""
    if not content.startswith(KINDS[0][0]) or len(content) < 24:
        return float("inf")
    return float(max(struct.unpack(">II", content[16:24])))


def _thumbnail(content: bytes) -> bytes:
    try:
        from PIL import Image

        with Image.open(io.BytesIO(content)) as picture:
            small = picture.convert("RGB")
            small.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
            buffer = io.BytesIO()
            small.save(buffer, "JPEG", quality=88)
    except (ImportError, OSError):
        return content
    return buffer.getvalue()
