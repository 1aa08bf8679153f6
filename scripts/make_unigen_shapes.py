"""Write the embedded benchmark track: held-out prompts of the world of shapes as a UniGenBench file.

Run `python -m scripts.make_unigen_shapes` from the repository root; the same seed writes the same bytes.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import random
from pathlib import Path

from flowgrpo.benchmarks.shapes import points_of
from flowgrpo.prompts import load_prompts
from reward_models.shapes import category, parse

SIZES = {"single": 4, "size": 16, "count": 12, "pair": 12, "relation": 16}
SUBJECT, STRUCTURE = "Other Entity", "Descriptive"


def make_file(seed: int) -> str:
    """The CSV file: `SIZES` prompts of each category from shapes/heldout, with their test points.

    Args:
        seed: Seed of the choice.

    Returns:
        The text of the file.
    """
    rng = random.Random(seed)
    held = [prompt.text for prompt in load_prompts("shapes/heldout").prompts]
    by_category = {name: [text for text in held if category(parse(text)) == name] for name in SIZES}
    chosen = [text for name, size in SIZES.items() for text in rng.sample(by_category[name], size)]
    rng.shuffle(chosen)
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(("index", "prompt_en", "sub_dims_en"))
    table.writerows((index, text, json.dumps(_dimensions(text))) for index, text in enumerate(chosen))
    return out.getvalue()


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("assets/prompts/shapes/unigen.csv"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(make_file(args.seed), encoding="utf-8")
    print(f"{args.out}: {sum(SIZES.values())} prompts")


def _dimensions(text: str) -> dict[str, object]:
    """The JSON object of a row, with the keys of the published English files."""
    scene = parse(text)
    points = points_of(scene)
    return {
        "Primary Categories": "Shapes",
        "Secondary Categories": category(scene).capitalize(),
        "Subjects": SUBJECT,
        "Sentence Structure": STRUCTURE,
        "Testpoints": [name for name, _ in points],
        "Testpoint Description": [cue for _, cue in points],
    }


if __name__ == "__main__":
    main()
