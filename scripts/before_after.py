"""One picture of a run: the same prompts and seeds before and after training.

python -m scripts.before_after runs/demo-seed42 --out docs/images/demo.png
"""

from __future__ import annotations

import argparse
import json
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw

SIDE = 128
GAP = 4
MARGIN = 60
CAPTION = 34


def main() -> None:
    """Read the run folder and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder with pictures before and after")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--columns", type=int, default=8)
    args = parser.parse_args()
    images = args.run / "images"
    prompts = json.loads((images / "index.json").read_text(encoding="utf-8"))["prompts"]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    sheet(images, prompts, args.columns).save(args.out, optimize=True)


def sheet(images: Path, prompts: list[str], columns: int) -> Image.Image:
    """Blocks of `columns` prompts, each with a row before, a row after, and the prompts below."""
    blocks, height = -(-len(prompts) // columns), 2 * SIDE + CAPTION
    picture = Image.new("RGB", (MARGIN + columns * SIDE, blocks * height), "white")
    pen = ImageDraw.Draw(picture)
    for index, prompt in enumerate(prompts):
        block, column = divmod(index, columns)
        x, y = MARGIN + column * SIDE, block * height
        for row, label in enumerate(("before", "after")):
            pen.text((6, y + row * SIDE + SIDE // 2 - 6), label, fill="black")
            tile = Image.open(images / label / f"{index:03d}.png").resize(
                (SIDE - GAP, SIDE - GAP), Image.Resampling.NEAREST
            )
            picture.paste(tile, (x + GAP // 2, y + row * SIDE + GAP // 2))
        pen.text((x + GAP, y + 2 * SIDE), "\n".join(textwrap.wrap(prompt, 20)[:2]), fill="black")
    return picture


if __name__ == "__main__":
    main()
