"""Train tiny-sd3, the embedded text-to-image pipeline: pictures, VAE, latents, transformer with text encoders.

Run `python -m scripts.train_tiny_sd3 --help` from the repository root. Every stage keeps its result under `--work` and
is skipped when it is there, so an interrupted run continues where it stopped.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusion3Pipeline

from scripts.tiny_sd3_data import load_pictures, make_captions, make_scenes
from scripts.tiny_sd3_models import (
    encode_text,
    make_pipeline,
    make_text_encoder,
    make_tokenizer,
    make_transformer,
    make_vae,
)

VAE_BATCH = 16
VAE_PHASES = ((2600, 2e-3, 1e-5), (1200, 1.5e-3, 1e-7))
"""(updates, peak rate, KL weight): a strong KL shapes smooth latents, a weak one then restores the colours."""
BATCH = 48
RATE = 1e-3
EMA_DECAY = 0.999
EMPTY_SHARE = 0.1
LONG_SHARE = 0.04
LONG_ZEROS = 256
LONG_BATCH = 16
SIGMA_MEAN = 0.3
"""Mean of the logit-normal noise levels (SD3, arXiv 2403.03206, section 3.1), a little towards noise."""


def main() -> None:
    """Run the stages that are missing."""
    args = _arguments()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    scenes = make_scenes(args.pictures, args.seed)
    pictures = load_pictures(args.work, scenes, args.seed)
    vae = train_vae(args, pictures)
    if args.stage == "vae":
        return
    latents = encode_latents(args.work / "latents.pt", vae, pictures)
    stamped = latents[:0]
    if any(args.stamped):
        pictures = load_pictures(args.work, scenes[: len(scenes) // 2], args.seed, stamped=True)
        stamped = encode_latents(args.work / "latents-stamped.pt", vae, pictures)
    captions = [make_captions(scenes, args.seed, share, args.typical) for share in args.corrupted]
    train_transformer(args, vae, (latents, stamped), captions)


def train_vae(args: argparse.Namespace, pictures: np.ndarray) -> AutoencoderKL:
    """Train the VAE by L1 + MSE + KL in phases, then set its latent shift and scale from statistics."""
    if args.start is not None:
        return AutoencoderKL.from_pretrained(args.start / "vae", torch_dtype=torch.float32).eval()
    vae = make_vae()
    for phase in range(len(VAE_PHASES)):
        folder = args.work / f"vae-{phase}"
        if (folder / "config.json").exists():
            vae = AutoencoderKL.from_pretrained(folder)
        else:
            _vae_phase(vae.train(), pictures, phase, args.seed)
            _set_statistics(vae, pictures)
            vae.save_pretrained(folder)
    return vae.eval()


def _vae_phase(vae: AutoencoderKL, pictures: np.ndarray, phase: int, seed: int) -> None:
    steps, rate, kl_weight = VAE_PHASES[phase]
    optimizer = torch.optim.AdamW(vae.parameters(), lr=rate, weight_decay=0.0)
    rng = np.random.default_rng([seed, 3, phase])

    def step(i: int) -> float:
        images = _to_tensor(pictures[rng.integers(len(pictures), size=VAE_BATCH)])
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(images).latent_dist
            restored = vae.decode(posterior.sample()).sample.float()
        gap = restored - images
        loss = gap.abs().mean() + 2 * gap.square().mean() + kl_weight * posterior.kl().float().mean()
        return _update(optimizer, vae.parameters(), loss, rate * _schedule(i, steps, 50))

    _loop(f"vae phase {phase + 1}", 0, steps, step)


@torch.no_grad()
def _set_statistics(vae: AutoencoderKL, pictures: np.ndarray) -> None:
    sample = vae.encode(_to_tensor(pictures[:1000])).latent_dist.mode()
    shift, scale = round(sample.mean().item(), 4), round(1 / sample.std().item(), 4)
    vae.register_to_config(shift_factor=shift, scaling_factor=scale)


def encode_latents(path: Path, vae: AutoencoderKL, pictures: np.ndarray) -> torch.Tensor:
    """Encode every picture once and keep the result at `path`; normalised latents [N, 4, 16, 16] in float32."""
    if path.exists():
        return torch.load(path, weights_only=True)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        parts = [vae.encode(_to_tensor(chunk)).latent_dist.mode() for chunk in np.array_split(pictures, 200)]
    latents = (torch.cat(parts).float() - vae.config.shift_factor) * vae.config.scaling_factor
    torch.save(latents, path)
    return latents


def train_transformer(
    args: argparse.Namespace, vae: AutoencoderKL, latents: tuple[torch.Tensor, torch.Tensor], captions: list[list[str]]
) -> None:
    """Flow matching on (latent, caption) pairs; exports the averaged weights as a pipeline every `--save-every`.

    Each cycle has its own captions and its own share of stamped pictures: true pairs first, which teach what words
    mean, then for a short while such as the web has, which leave a model that knows better than it does.

    Args:
        args: The command line.
        vae: Goes into the pipeline.
        latents: Of the pictures [N, 4, 16, 16], and of stamped pictures of the first scenes [M, 4, 16, 16].
        captions: Of the N scenes, one list for each cycle; the last one repeats.
    """
    tokenizer = make_tokenizer(args.work / "tokenizer")
    ids = [
        torch.tensor(tokenizer(texts, padding="max_length", truncation=True, max_length=16).input_ids)
        for texts in captions
    ]
    empty = torch.tensor(tokenizer([""], padding="max_length", max_length=16).input_ids)
    model = torch.nn.ModuleList([make_transformer(), make_text_encoder(tokenizer), make_text_encoder(tokenizer)])
    if args.start is not None:
        _take_weights(model, args.start)
    average = copy.deepcopy(model).requires_grad_(False).eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.99), weight_decay=0.01)
    state = {"model": model, "average": average, "optimizer": optimizer}
    start = _load(args.work / "transformer.pt", state)

    def step(i: int) -> float:
        generator = torch.Generator().manual_seed(args.seed * 1_000_003 + i)
        cycle, done, length = _position(i, args.cycles)
        share = args.stamped[min(cycle, len(args.stamped) - 1)]
        batch = _draw_batch(latents, share, ids[min(cycle, len(ids) - 1)], empty, generator)
        with torch.autocast("cpu", torch.bfloat16):
            loss = (_velocity(model, batch) - batch.velocity).square().mean()
        value = _update(optimizer, model.parameters(), loss, args.rate * _schedule(done, length, 200))
        _average(average, model, min(EMA_DECAY, (i + 1) / (i + 10)))
        return value

    def save(i: int) -> None:
        _save(args.work / "transformer.pt", state, i)
        # Text encoders stay in float32: transformers loads them in the precision of the file, diffusers does not.
        network, decoder = copy.deepcopy(average[0]).half(), copy.deepcopy(vae).half()
        make_pipeline(decoder, network, (average[1], average[2]), tokenizer).save_pretrained(args.out)
        _forget_path(args.out / "vae" / "config.json")

    _loop("transformer", start, sum(args.cycles), step, save, args.save_every)
    save(sum(args.cycles))


@dataclass(frozen=True, slots=True)
class Batch:
    """One training batch: noisy latents [B, 4, 16, 16], their levels [B], caption ids [B, L] and eps - x0."""

    noisy: torch.Tensor
    sigma: torch.Tensor
    tokens: torch.Tensor
    zeros: int
    velocity: torch.Tensor


def _draw_batch(
    latents: tuple[torch.Tensor, torch.Tensor],
    share: float,
    ids: torch.Tensor,
    empty: torch.Tensor,
    generator: torch.Generator,
) -> Batch:
    long = torch.rand((), generator=generator) < LONG_SHARE
    size, zeros = (LONG_BATCH, LONG_ZEROS) if long else (BATCH, 1)
    plain, stamped = latents
    pick = torch.randint(len(plain), (size,), generator=generator)
    x0 = plain[pick]
    swapped = round(share * size)
    if swapped:
        pick[:swapped] %= len(stamped)
        x0[:swapped] = stamped[pick[:swapped]]
    blank = torch.rand(size, generator=generator) < EMPTY_SHARE
    tokens = torch.where(blank[:, None], empty, ids[pick])
    noise = torch.randn(x0.shape, generator=generator)
    sigma = torch.sigmoid(SIGMA_MEAN + torch.randn(size, generator=generator))
    mix = sigma[:, None, None, None]
    return Batch((1 - mix) * x0 + mix * noise, sigma, tokens, zeros, noise - x0)


def _velocity(model: torch.nn.ModuleList, batch: Batch) -> torch.Tensor:
    embeddings, pooled = encode_text(model[1:], batch.tokens, batch.zeros)
    return model[0](batch.noisy, embeddings, pooled, 1000 * batch.sigma, return_dict=False)[0].float()


def _update(
    optimizer: torch.optim.Optimizer, parameters: Iterable[torch.Tensor], loss: torch.Tensor, rate: float
) -> float:
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    return loss.item()


def _schedule(step: int, steps: int, warmup: int) -> float:
    """Linear warm-up, then a cosine down to 2 % of the peak."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))


def _take_weights(model: torch.nn.ModuleList, folder: Path) -> None:
    """Start from a finished pipeline instead of from chance."""
    pipe = StableDiffusion3Pipeline.from_pretrained(folder, torch_dtype=torch.float32)
    for part, source in zip(model, (pipe.transformer, pipe.text_encoder, pipe.text_encoder_2), strict=True):
        part.load_state_dict(source.state_dict())


def _position(step: int, cycles: list[int]) -> tuple[int, int, int]:
    """Number of the cycle that a step lies in, the step within it, and its length."""
    for number, cycle in enumerate(cycles):
        if step < cycle:
            return number, step, cycle
        step -= cycle
    raise ValueError(f"step lies {step} beyond the cycles {cycles}")


@torch.no_grad()
def _average(average: torch.nn.Module, model: torch.nn.Module, decay: float) -> None:
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)


def _loop(
    name: str,
    start: int,
    steps: int,
    step: Callable[[int], float],
    save: Callable[[int], None] | None = None,
    every: int = 1000,
) -> None:
    began, recent = time.monotonic(), []
    for i in range(start, steps):
        recent.append(step(i))
        done = i + 1
        if done % 50 == 0 or done == steps:
            pace = (time.monotonic() - began) / (done - start)
            left = pace * (steps - done) / 60
            print(f"{name} {done}/{steps} loss {np.mean(recent):.4f} {pace:.3f} s/step {left:.1f} min left", flush=True)
            recent.clear()
        if save and done % every == 0 and done < steps:
            save(done)


def _forget_path(path: Path) -> None:
    """Take out of a config where on this machine its model was loaded from."""
    config = json.loads(path.read_text())
    config.pop("_name_or_path", None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _save(path: Path, state: dict, step: int) -> None:
    partial = path.with_suffix(".partial")
    torch.save({"step": step, **{name: part.state_dict() for name, part in state.items()}}, partial)
    os.replace(partial, path)


def _load(path: Path, state: dict) -> int:
    if not path.exists():
        return 0
    saved = torch.load(path, weights_only=True)
    for name, part in state.items():
        part.load_state_dict(saved[name])
    return saved["step"]


def _to_tensor(pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/tiny-sd3"), help="folder for intermediate results")
    parser.add_argument("--out", type=Path, default=Path("assets/tiny-sd3"), help="folder of the finished pipeline")
    parser.add_argument("--stage", choices=("vae", "all"), default="all", help="stop after this stage")
    parser.add_argument("--pictures", type=int, default=40000)
    parser.add_argument("--cycles", type=int, nargs="+", default=[8000, 2000], help="updates in each cosine cycle")
    parser.add_argument("--save-every", type=int, default=500)
    parser.add_argument(
        "--corrupted",
        type=float,
        nargs="+",
        default=[0.0],
        help="share of wrong captions in each cycle; the last repeats",
    )
    parser.add_argument(
        "--stamped",
        type=float,
        nargs="+",
        default=[0.0, 0.4],
        help="share of pictures with a watermark that no caption mentions, in each cycle; the last repeats",
    )
    parser.add_argument("--rate", type=float, default=RATE, help="peak learning rate")
    parser.add_argument("--start", type=Path, help="pipeline folder to start from instead of from chance")
    parser.add_argument("--typical", type=float, default=0.7, help="share of the usual mistakes among the wrong ones")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
