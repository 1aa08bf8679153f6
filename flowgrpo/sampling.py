"""Pictures by ODE from a policy: what evaluation, picture grids and `flowgrpo sample` share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from flowgrpo.devices import resolve_device
from flowgrpo.policy import Policy, encode_once, load_policy
from flowgrpo.prompts import Prompt
from flowgrpo.recipe import Recipe
from flowgrpo.seeding import prompt_key
from samplers import sample_flow
from samplers.plans import Plan, Step

SHOWN_FRAMES = 6
"""Frames of a video in its saved picture, at most."""


def ode_plan(sigmas: Sequence[float], solver: str = "euler") -> Plan:
    """No noise at any step."""
    return Plan(tuple(sigmas), tuple(Step(solver=solver) for _ in sigmas[1:]))


@torch.no_grad()
def draw(
    policy: Policy,
    recipe: Recipe,
    texts: Sequence[str],
    keys: Sequence[tuple[int, ...]],
    *,
    steps: int,
    guidance_scale: float,
) -> Tensor:
    """One picture per (text, key), [n, 3, H, W] in [0, 1], or one video each, [n, F, 3, H, W]."""
    conditioning, row_of = encode_once(policy, texts)

    def velocity(x: Tensor, sigma: float, rows: Tensor) -> Tensor:
        return policy.velocity(x, sigma, conditioning.rows(row_of[rows.cpu()]), guidance_scale=guidance_scale)

    sampler = recipe.sampler
    plan = ode_plan(policy.sigmas(steps, grid=sampler.grid, shift=sampler.shift))
    rollout = sample_flow(velocity, policy.initial_noise(list(keys)), plan, kernel="euler", eta=0.0, keys=list(keys))
    return policy.decode(rollout.samples)


def draw_in_batches(
    policy: Policy,
    recipe: Recipe,
    jobs: Sequence[tuple[str, tuple[int, ...]]],
    *,
    steps: int,
    guidance_scale: float,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[tuple[range, Tensor]]:
    """Pictures of (text, key) jobs in batches of `eval.batch_size`: (which jobs, their pictures)."""
    size = recipe.eval.batch_size
    for start in range(0, len(jobs), size):
        batch = jobs[start : start + size]
        texts, keys = [text for text, _ in batch], [key for _, key in batch]
        yield (
            range(start, start + len(batch)),
            draw(policy, recipe, texts, keys, steps=steps, guidance_scale=guidance_scale),
        )
        progress(start + len(batch), len(jobs))


def save_png(image: Tensor, path: Path) -> None:
    """[3, H, W] in [0, 1] -> 8-bit PNG, rounded; of a video [F, 3, H, W], some of its frames side by side."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    if image.ndim == 4:
        image = torch.cat(list(image[:: -(-len(image) // SHOWN_FRAMES)]), dim=-1)
    array = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    Image.fromarray(array).save(path)


def sample_images(
    recipe: Recipe,
    prompts: Sequence[Prompt],
    *,
    adapter: Path | None,
    seeds: Sequence[int],
    steps: int,
    guidance_scale: float,
    out: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Path]:
    """Draw every prompt with every seed and save PNG files; the files, prompt by prompt.

    Args:
        recipe: names the model and the grid.
        prompts: what to draw.
        adapter: trained weights, as a run leaves them in `adapter/`; None draws with the base model.
        seeds: one picture each.
        steps: ODE steps.
        guidance_scale: classifier-free guidance; 1 or less runs without.
        out: folder, made if missing.
        progress: called with (done, total).
    """
    policy = load_policy(recipe.model, device=resolve_device(recipe.run.device), seed=recipe.train.seed)
    if adapter is not None:
        policy.load(adapter)
    names = [(prompt.text, seed) for prompt in prompts for seed in seeds]
    jobs = [(text, prompt_key(seed, text, 0)) for text, seed in names]
    files = []
    batches = draw_in_batches(policy, recipe, jobs, steps=steps, guidance_scale=guidance_scale, progress=progress)
    for rows, images in batches:
        for row, image in zip(rows, images, strict=True):
            files.append(out / f"{row // len(seeds):04d}-seed{names[row][1]}.png")
            save_png(image, files[-1])
    return files
