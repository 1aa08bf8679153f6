"""Measure how well a tiny-sd3 folder follows captions: gold by guidance and category, with the stock pipeline.

Run `python -m scripts.measure_tiny_sd3 --help` from the repository root.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusion3Pipeline
from PIL import Image

from reward_models.gold import score_gold
from reward_models.shapes import CATEGORIES

BATCH = 64


def main() -> None:
    """Print one line per guidance and, on request, write the numbers and contact sheets."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    rows = [json.loads(line) for line in args.prompts.read_text(encoding="utf-8").splitlines()][: args.limit]
    pipe = StableDiffusion3Pipeline.from_pretrained(args.model)
    pipe.set_progress_bar_config(disable=True)
    results = []
    for guidance in args.guidance:
        began = time.monotonic()
        images = sample(pipe, [row["prompt"] for row in rows], guidance, args)
        results.append({"guidance": guidance, "zero_tokens": args.zero_tokens, **summarise(images, rows)})
        print(json.dumps(results[-1]), f"{time.monotonic() - began:.0f} s", flush=True)
        if args.sheets:
            write_sheet(images[: 16 * 8], args.sheets / f"guidance-{guidance:g}.png")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def sample(
    pipe: StableDiffusion3Pipeline, prompts: list[str], guidance: float, args: argparse.Namespace
) -> torch.Tensor:
    """Pictures [N, 3, 64, 64] in [0, 1] from the stock pipeline, one seed per prompt."""
    parts = []
    for start in range(0, len(prompts), BATCH):
        chunk = prompts[start : start + BATCH]
        generators = [torch.Generator().manual_seed(args.seed * 100_003 + start + i) for i in range(len(chunk))]
        output = pipe(
            chunk,
            num_inference_steps=args.steps,
            guidance_scale=guidance,
            generator=generators,
            max_sequence_length=args.zero_tokens,
            output_type="pt",
        )
        parts.append(output.images)
    return torch.cat(parts)


def summarise(images: torch.Tensor, rows: list[dict]) -> dict[str, object]:
    """Mean strict and partial gold, in all and by category."""
    partial, strict, _ = score_gold(images, [row["prompt"] for row in rows])
    kinds = np.array([row["category"] for row in rows])
    table = {
        kind: [round(scores[kinds == kind].mean().item(), 3) for scores in (strict, partial)]
        for kind in CATEGORIES
        if (kinds == kind).any()
    }
    return {"strict": round(strict.mean().item(), 4), "partial": round(partial.mean().item(), 4), "by_category": table}


def write_sheet(images: torch.Tensor, path: Path) -> None:
    """A contact sheet, 16 pictures in a row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [torch.cat(list(row), dim=2) for row in images.split(16) if len(row) == 16]
    pixels = (255 * torch.cat(rows, dim=1)).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(path)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("assets/tiny-sd3"))
    parser.add_argument("--prompts", type=Path, default=Path("assets/prompts/heldout.jsonl"))
    parser.add_argument("--limit", type=int, default=None, help="use the first prompts only")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 1.5, 2.0, 3.0, 4.0, 5.0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--zero-tokens", type=int, default=1, help="max_sequence_length of the pipeline")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, default=None, help="write the numbers to this file")
    parser.add_argument("--sheets", type=Path, default=None, help="write contact sheets to this folder")
    return parser.parse_args()


if __name__ == "__main__":
    main()
