"""Write the prompt sets of the shape world: train, held-out prompts, held-out combinations of colour and shape.

Run `python -m scripts.make_prompts` from the repository root; the same seed writes the same bytes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from reward_models.shapes import Scene, caption, category, combinations, parse, sample_scene

HELD_OUT = ("purple circle", "yellow square", "red triangle", "blue cross")
"""Combinations that occur in `combos.jsonl` only, one per shape."""

HELDOUT_SIZES = {"single": 8, "size": 48, "count": 48, "pair": 60, "relation": 92}
TRAIN_SIZES = {"single": 12, "size": 104, "count": 64, "pair": 128, "relation": 204}
COMBO_SIZES = {"single": 4, "size": 20, "count": 20, "pair": 22, "relation": 30}


def make_sets(seed: int) -> dict[str, list[str]]:
    """The prompts of each set, by file name without its ending.

    Args:
        seed: Seed of the draw.

    Returns:
        Lists of captions, stratified over the categories; no meaning occurs twice, within a set or across sets.
    """
    rng = np.random.default_rng(seed)
    taken: set[Scene] = set()
    return {
        "heldout": _draw(rng, HELDOUT_SIZES, taken, held_out=False),
        "train": _draw(rng, TRAIN_SIZES, taken, held_out=False),
        "combos": _draw(rng, COMBO_SIZES, taken, held_out=True),
    }


def to_row(prompt: str) -> dict[str, object]:
    """The JSONL row of a prompt."""
    scene = parse(prompt)
    return {"prompt": prompt, "category": category(scene), "combinations": list(combinations(scene))}


def main() -> None:
    """Write the three files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("assets/prompts"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name, prompts in make_sets(args.seed).items():
        text = "".join(json.dumps(to_row(prompt)) + "\n" for prompt in prompts)
        (args.out / f"{name}.jsonl").write_text(text, encoding="utf-8")
        print(f"{name}: {len(prompts)} prompts")


def _meaning(scene: Scene) -> Scene:
    """One scene for all captions that say the same: `A below B` is `B above A`, `A and B` is `B and A`."""
    mirrored = {"below": "above", "right of": "left of"}.get(scene.relation or "")
    if mirrored:
        return Scene(scene.items[::-1], mirrored)
    return scene if scene.relation else Scene(tuple(sorted(scene.items, key=str)))


def _draw(rng: np.random.Generator, sizes: dict[str, int], taken: set[Scene], *, held_out: bool) -> list[str]:
    """Distinct new captions in random order; all or none of them with a held-out combination."""
    drawn: list[str] = []
    for kind, size in sizes.items():
        goal = len(drawn) + size
        while len(drawn) < goal:
            scene = sample_scene(rng, kind)
            if _meaning(scene) not in taken and held_out == any(pair in HELD_OUT for pair in combinations(scene)):
                taken.add(_meaning(scene))
                drawn.append(caption(scene))
    return [drawn[i] for i in rng.permutation(len(drawn))]


if __name__ == "__main__":
    main()
