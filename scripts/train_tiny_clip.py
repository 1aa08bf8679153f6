"""Train tiny-clip, the embedded proxy reward: a small CLIP for the world of shapes, in open_clip's own format.

Run `python -m scripts.train_tiny_clip --help` from the repository root. The result is a folder that
`open_clip.create_model_from_pretrained("local-dir:FOLDER")` and `open_clip.get_tokenizer("local-dir:FOLDER")` load
without a network; `training.json` in it states seed, run time and measured quality.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from reward_models.shapes import CANVAS, CATEGORIES, Scene, caption, category
from scripts.tiny_sd3_data import corrupt, make_scenes, render_all
from scripts.tiny_sd3_models import TEXT_LENGTH, make_tokenizer

MEAN, STD = (0.25, 0.25, 0.27), (0.25, 0.25, 0.25)
NEGATIVES = 4
TYPICAL = 0.4
BETAS = (0.9, 0.98)
WEIGHT_DECAY = 0.05
MAX_LOGIT_SCALE = math.log(100)
TEST_PICTURES = 2000
TEST_CHOICES = 8
WEIGHTS = "open_clip_model.safetensors"


def main() -> None:
    """Train, measure and save."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    start = time.perf_counter()
    model, tokenizer = make_model(args.out)
    scenes = make_scenes(args.pictures, args.seed)
    train(model, tokenizer, scenes, render_all(scenes, args.seed), args)
    save_file({name: value.half().contiguous() for name, value in model.state_dict().items()}, args.out / WEIGHTS)
    facts = {"seed": args.seed, "steps": args.steps, "batch": args.batch, "pictures": args.pictures}
    facts |= {"threads": args.threads, "minutes": round((time.perf_counter() - start) / 60, 1)}
    facts |= {"cpu_minutes": round(time.process_time() / 60, 1)}
    facts |= {"parameters": sum(p.numel() for p in model.parameters())}
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{args.out}")
    facts |= measure(model.eval(), tokenizer, args.seed + 1)
    (args.out / "training.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(facts, indent=2))


def make_model(folder: Path) -> tuple[torch.nn.Module, Any]:
    """A fresh model and its tokenizer, their configuration written to `folder`."""
    vocabulary = make_tokenizer(folder)
    vocabulary.save_pretrained(folder)
    text = {"context_length": TEXT_LENGTH, "vocab_size": len(vocabulary), "hf_tokenizer_name": "tiny-clip"}
    config = {
        "model_cfg": {
            "embed_dim": 64,
            "vision_cfg": {"image_size": CANVAS, "layers": 3, "width": 128, "head_width": 32, "patch_size": 8},
            "text_cfg": {**text, "width": 96, "heads": 3, "layers": 2},
        },
        "preprocess_cfg": {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    return model, open_clip.get_tokenizer(f"local-dir:{folder}")


def train(
    model: torch.nn.Module, tokenizer: Any, scenes: list[Scene], pictures: np.ndarray, args: argparse.Namespace
) -> None:
    """Train by the CLIP loss, every picture also against captions with one attribute changed."""
    rng = np.random.default_rng([args.seed, 7])
    generator = torch.Generator().manual_seed(args.seed)
    optimizer = make_optimizer(model, args.rate)
    data = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    start = time.perf_counter()
    for step in range(args.steps):
        for group in optimizer.param_groups:
            group["lr"] = args.rate * schedule(step, args.steps)
        rows = rng.choice(len(scenes), args.batch, replace=False)
        texts, labels = batch_texts([scenes[i] for i in rows], rng)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            images = model.encode_image(augment(data[rows], generator))
            captions = model.encode_text(tokenizer(texts))
        loss = clip_loss(images.float(), captions.float(), model.logit_scale.exp(), labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.logit_scale.data.clamp_(0, MAX_LOGIT_SCALE)
        if step % args.log_every == 0 or step == args.steps - 1:
            seconds = time.perf_counter() - start
            print(f"step {step} loss {loss.item():.3f} {seconds:.0f} s", flush=True)


def batch_texts(scenes: list[Scene], rng: np.random.Generator) -> tuple[list[str], Tensor]:
    """The true captions, then `NEGATIVES` wrong ones per scene.

    Args:
        scenes: B scenes.
        rng: Source of the mistakes.

    Returns:
        B + B·`NEGATIVES` texts, and labels [B]: the first row with the same caption, so that a caption that occurs
        twice in the batch is no mistake.
    """
    true = [caption(scene) for scene in scenes]
    wrong = [caption(corrupt(scene, rng, TYPICAL)) for scene in scenes for _ in range(NEGATIVES)]
    return true + wrong, torch.tensor([true.index(text) for text in true])


def clip_loss(images: Tensor, captions: Tensor, scale: Tensor, labels: Tensor) -> Tensor:
    """The symmetric contrastive loss (CLIP, arXiv 2103.00020) with each picture's own hard negatives.

    Args:
        images: Picture embeddings [B, D], any length.
        captions: Text embeddings [B + B·K, D]: the true ones, then K wrong ones per picture.
        scale: Factor of the cosines.
        labels: [B], equal where two captions are equal.

    Returns:
        The loss, a scalar.
    """
    images, captions = F.normalize(images, dim=-1), F.normalize(captions, dim=-1)
    count = len(images)
    hard = captions[count:].view(count, -1, images.shape[-1])
    pairs = scale * images @ captions[:count].T
    same = (labels[:, None] == labels[None, :]) & ~torch.eye(count, dtype=torch.bool)
    pairs = pairs.masked_fill(same, -torch.inf)
    own = scale * torch.einsum("bd,bkd->bk", images, hard)
    target = torch.arange(count)
    return F.cross_entropy(torch.cat([pairs, own], 1), target) + 0.5 * F.cross_entropy(pairs.T, target)


def augment(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Normalised pictures with a random blur, brightness and noise, as a decoder's mistakes look.

    Args:
        pictures: uint8 [B, 3, H, W].
        generator: Source of the choices.

    Returns:
        float32 [B, 3, H, W], the model's input.
    """
    x = pictures.float() / 255

    def share() -> Tensor:
        return torch.rand(len(x), 1, 1, 1, generator=generator)

    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    mix = (share() * 2 - 1).clamp(min=0)
    x = x + mix * (blurred - x)
    x = x * (0.95 + 0.1 * share())
    noise = (share() * 2 - 1).clamp(min=0) * 0.06
    x = (x + noise * torch.randn(x.shape, generator=generator)).clamp(0, 1)
    return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def make_optimizer(model: torch.nn.Module, rate: float) -> torch.optim.Optimizer:
    """AdamW that decays matrices only."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=BETAS)


def schedule(step: int, steps: int) -> float:
    """Linear warm-up over a twentieth, then half a cosine to 0.01."""
    warmup = max(1, steps // 20)
    if step < warmup:
        return (step + 1) / warmup
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


@torch.no_grad()
def measure(model: torch.nn.Module, tokenizer: Any, seed: int) -> dict[str, Any]:
    """How often the true caption wins against wrong ones, on pictures that were never trained on.

    Args:
        model: The trained model.
        tokenizer: Its tokenizer.
        seed: Seed of the pictures.

    Returns:
        Shares in [0, 1]: "pairs" against one caption with one attribute changed, overall and by category; "best_of_8"
        against seven.
    """
    scenes, rng = make_scenes(TEST_PICTURES, seed), np.random.default_rng([seed, 8])
    pictures = torch.from_numpy(render_all(scenes, seed)).permute(0, 3, 1, 2).float() / 255
    pictures = (pictures - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    images = torch.cat([model.encode_image(part, normalize=True) for part in pictures.split(100)])
    texts = [caption(s if i == 0 else corrupt(s, rng, TYPICAL)) for s in scenes for i in range(TEST_CHOICES)]
    captions = torch.cat([model.encode_text(part, normalize=True) for part in tokenizer(texts).split(1000)])
    cosines = torch.einsum("bd,bkd->bk", images, captions.view(len(scenes), TEST_CHOICES, -1))
    pairs = cosines[:, 0] > cosines[:, 1]
    kinds = np.array([category(scene) for scene in scenes])
    by_category = {kind: round(pairs[torch.from_numpy(kinds == kind)].float().mean().item(), 3) for kind in CATEGORIES}
    best = (cosines[:, :1] > cosines[:, 1:]).all(1).float().mean().item()
    return {
        "pairs": round(pairs.float().mean().item(), 4),
        "best_of_8": round(best, 4),
        "pairs_by_category": by_category,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("assets/tiny-clip"), help="folder of the result")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", type=int, default=40000, help="rendered training pictures")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=False, help="bfloat16 autocast")
    parser.add_argument("--log-every", type=int, default=50)
    return parser.parse_args()


if __name__ == "__main__":
    main()
