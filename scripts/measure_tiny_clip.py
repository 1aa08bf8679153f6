"""How well the proxy CLIP follows gold on pictures that a pipeline draws; the numbers go into its training.json.

Run `python -m scripts.measure_tiny_clip --help` from the repository root.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusion3Pipeline
from torch import Tensor

from reward_models import load
from reward_models.shapes import Scene, caption
from scripts.tiny_sd3_data import corrupt, make_scenes
from scripts.train_tiny_clip import TYPICAL


def main() -> None:
    """Draw, score, compare and write."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    scenes = [scene for scene in make_scenes(args.prompts, args.seed) for _ in range(args.group)]
    images = draw_all(args.pipeline, [caption(scene) for scene in scenes], args)
    facts = {"prompts": args.prompts, "per_prompt": args.group, "steps": args.steps, "guidance": args.guidance}
    facts |= compare(images, scenes, args.group, str(args.clip), np.random.default_rng([args.seed, 9]))
    path = args.clip / "training.json"
    record = json.loads(path.read_text(encoding="utf-8")) | {"on_generated": facts}
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(facts, indent=2))


@torch.no_grad()
def draw_all(folder: Path, prompts: list[str], args: argparse.Namespace) -> Tensor:
    """Pictures of the prompts by the stock pipeline, [N, 3, 64, 64] in [0, 1]."""
    pipe = StableDiffusion3Pipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    parts = []
    for start in range(0, len(prompts), args.batch):
        generator = torch.Generator().manual_seed(args.seed + start)
        part = prompts[start : start + args.batch]
        options = {"num_inference_steps": args.steps, "guidance_scale": args.guidance, "generator": generator}
        parts.append(pipe(part, height=64, width=64, output_type="pt", **options).images.float())
    return torch.cat(parts)


def compare(
    images: Tensor, scenes: list[Scene], group: int, clip: str, rng: np.random.Generator
) -> dict[str, float | int]:
    """Agreement of the proxy with gold.

    Args:
        images: [N, 3, 64, 64], N a multiple of `group`, members of a group next to each other.
        scenes: What each picture should show [N].
        group: Pictures per caption.
        clip: Folder of the proxy.
        rng: Source of wrong captions.

    Returns:
        "gold" and "gold_strict": means. "correlation": Pearson's, over all pictures; "correlation_in_group": after
        each group's mean is taken off both, as a group advantage does. "order_in_group": share of the pairs of a group
        with unequal gold that the proxy orders alike. "caption_choice": over pictures that meet their caption, how
        often the proxy prefers it to one with an attribute changed that the picture does not meet, of "choices".
    """
    right = [caption(scene) for scene in scenes]
    wrong = [caption(corrupt(scene, rng, TYPICAL)) for scene in scenes]
    gold, proxy = load("gold"), load("clip", model=clip)
    truth, guess = gold(images, right), proxy(images, right)
    apart = (truth.components["strict"] == 1) & (gold(images, wrong).components["strict"] == 0)
    prefers = guess.scores > proxy(images, wrong).scores
    facts = {
        "gold": truth.scores.mean().item(),
        "gold_strict": truth.components["strict"].mean().item(),
        "correlation": _pearson(truth.scores, guess.scores),
        "correlation_in_group": _pearson(_centred(truth.scores, group), _centred(guess.scores, group)),
        "order_in_group": _order(truth.scores.view(-1, group), guess.scores.view(-1, group)),
        "caption_choice": prefers[apart].double().mean().item(),
    }
    return {**{name: round(value, 3) for name, value in facts.items()}, "choices": int(apart.sum())}


def _centred(values: Tensor, group: int) -> Tensor:
    grouped = values.view(-1, group)
    return (grouped - grouped.mean(1, keepdim=True)).flatten()


def _pearson(a: Tensor, b: Tensor) -> float:
    return torch.corrcoef(torch.stack([a, b]))[0, 1].item()


def _order(truth: Tensor, guess: Tensor) -> float:
    ahead = (truth[:, :, None] - truth[:, None, :]).flatten()
    agrees = ((guess[:, :, None] - guess[:, None, :]).flatten() > 0)[ahead > 0]
    return agrees.double().mean().item()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clip", type=Path, default=Path("assets/tiny-clip"), help="folder of the proxy")
    parser.add_argument("--pipeline", type=Path, default=Path("assets/tiny-sd3"), help="folder of the pipeline")
    parser.add_argument("--prompts", type=int, default=96)
    parser.add_argument("--group", type=int, default=8, help="pictures per prompt")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
