"""How often the preference judge is right, by what is wrong with the worse picture; goes into its training.json.

Run `python -m scripts.measure_tiny_preference --help` from the repository root.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reward_models import load
from reward_models.preference import Utility, load_utility, utilities
from reward_models.shapes import Scene, caption, render
from scripts.measure_tiny_clip import draw_all
from scripts.tiny_sd3_data import corrupt, make_scenes
from scripts.train_tiny_preference import DAMAGES, TYPICAL, damaged

MISTAKES = ("color", "shape", "count", "size", "relation", "missing")


def main() -> None:
    """Measure and write."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    network = load_utility(args.preference)
    facts = {"pairs": pair_accuracy(network, args.scenes, args.seed)}
    if args.prompts:
        facts["on_generated"] = on_generated(args)
    path = args.preference / "training.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | facts, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(facts, indent=2))


def pair_accuracy(network: Utility, count: int, seed: int) -> dict[str, float]:
    """Share of pairs in which the better picture of a caption wins.

    Args:
        network: The judge's network.
        count: Scenes; each gives one pair per kind of fault that it can have.
        seed: Of scenes and pictures that were never trained on. (Captions are few enough to occur again.)

    Returns:
        Kind of fault -> share in [0, 1]: one wrong attribute, a missing object, or a damage to the right picture; and
        "overall", their mean.
    """
    rng = np.random.default_rng([seed, 12])
    rows = [
        (kind, caption(scene), better, worse)
        for scene in make_scenes(count, seed)
        for kind, better, worse in faulty_pairs(scene, rng)
    ]
    pictures = np.stack([picture for row in rows for picture in row[2:]])
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        utility = utilities(network, images, [row[1] for row in rows for _ in range(2)]).view(-1, 2)
    right = (utility[:, 0] > utility[:, 1]).double()
    kinds = np.array([row[0] for row in rows])
    shares = {kind: right[torch.from_numpy(kinds == kind)].mean().item() for kind in (*MISTAKES, *DAMAGES)}
    return {name: round(share, 3) for name, share in {**shares, "overall": sum(shares.values()) / len(shares)}.items()}


def faulty_pairs(scene: Scene, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(kind of fault, right picture, picture with the fault): one attribute, every damage, a missing object."""
    wrong = corrupt(scene, rng, TYPICAL)
    yield fault(scene, wrong), render(scene, rng), render(wrong, rng)
    for kind in DAMAGES:
        picture = render(scene, rng)
        yield kind, picture, damaged(picture, kind, rng)[0]
    if len(scene.items) == 2:
        left = Scene((scene.items[int(rng.integers(2))],))
        yield "missing", render(scene, rng), render(left, rng)


def fault(scene: Scene, wrong: Scene) -> str:
    """Which attribute of a scene a wrong one changes."""
    if scene.relation != wrong.relation:
        return "relation"
    items = list(zip(scene.items, wrong.items, strict=True))
    return next(name for name in MISTAKES if any(getattr(a, name) != getattr(b, name) for a, b in items))


def on_generated(args: argparse.Namespace) -> dict[str, float | int]:
    """Agreement with gold on pictures that a pipeline draws.

    Args:
        args: The command line.

    Returns:
        "order_in_group": share of the pairs of a prompt with unequal gold that the judge orders alike; "correlation":
        Pearson's of win rate and gold after each group's mean is taken off gold.
    """
    scenes = [scene for scene in make_scenes(args.prompts, args.seed) for _ in range(args.group)]
    captions = [caption(scene) for scene in scenes]
    images = draw_all(args.pipeline, captions, args)
    group = [i // args.group for i in range(len(scenes))]
    gold = load("gold")(images, captions).scores
    scores = load("preference", model=str(args.preference))(images, captions, group=group)
    gaps = [((gold[c.first] - gold[c.second]).item(), c.verdict - 0.5) for c in scores.comparisons]
    alike = [gap * verdict > 0 for gap, verdict in gaps if gap and not math.isnan(verdict)]
    facts = {"prompts": args.prompts, "per_prompt": args.group, "steps": args.steps, "guidance": args.guidance}
    correlation = torch.corrcoef(torch.stack([_centred(gold, args.group), scores.scores - 0.5]))[0, 1].item()
    return {
        **facts,
        "gold": round(gold.mean().item(), 3),
        "order_in_group": round(sum(alike) / len(alike), 3),
        "pairs": len(alike),
        "correlation": round(correlation, 3),
    }


def _centred(values: Tensor, group: int) -> Tensor:
    grouped = values.view(-1, group)
    return (grouped - grouped.mean(1, keepdim=True)).flatten()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--preference", type=Path, default=Path("assets/tiny-preference"), help="folder of the judge")
    parser.add_argument("--scenes", type=int, default=1500, help="held-out scenes")
    parser.add_argument("--pipeline", type=Path, default=Path("assets/tiny-sd3"), help="folder of the pipeline")
    parser.add_argument("--prompts", type=int, default=40, help="prompts to draw; 0 measures on renderings only")
    parser.add_argument("--group", type=int, default=8, help="pictures per prompt")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
