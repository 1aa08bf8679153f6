"""Train tiny-preference, the embedded pairwise judge of the world of shapes.

Run `python -m scripts.train_tiny_preference --help` from the repository root. A step costs 0.95 GFLOP (five captions
with four pictures each), about 0.05 s of one idle core, so the 12,000 steps take about ten minutes. The state is saved
every few hundred steps under --work: a run that is stopped continues where it was, and ends with the same weights.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reward_models.gold import Found, judge
from reward_models.preference import Shape, Utility, save_utility
from reward_models.shapes import COLORS, COUNTS, PLURALS, RELATIONS, SHAPES, Scene, caption, draw, layout
from scripts.tiny_sd3_data import corrupt, make_scenes
from scripts.train_tiny_clip import augment, make_optimizer, schedule

PICTURES = 4
"""Per caption; each is compared with each."""
TYPICAL = 0.4
DAMAGED = 0.3
"""Share of pictures that are damaged."""
CLEAR = 0.02
"""Pictures whose worth differs less are not compared."""
BLURS, NOISES, BLOCKS = (5, 7, 9), (0.1, 0.3), (12, 24)
DAMAGES = ("blur", "noise", "broken")


def main() -> None:
    """Train and save."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    network = Utility(Shape(words=vocabulary()))
    optimizer = make_optimizer(network, args.rate)
    before = resume(network, optimizer, args)
    train(network, optimizer, before["step"], args)
    save_utility(network, args.out)
    facts = {"seed": args.seed, "steps": args.steps, "captions": args.captions, "pictures": PICTURES}
    facts |= {"rate": args.rate, "parameters": sum(p.numel() for p in network.parameters())}
    facts |= {"cpu_minutes": round(before["cpu_minutes"] + time.process_time() / 60, 1), "threads": args.threads}
    (args.out / "training.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(facts, indent=2))


def vocabulary() -> tuple[str, ...]:
    """Every word of the world, once."""
    relations = (word for relation in RELATIONS for word in relation.split())
    return tuple(dict.fromkeys(["small", "large", "and", *COUNTS, *COLORS, *SHAPES, *PLURALS.values(), *relations]))


def train(network: Utility, optimizer: torch.optim.Optimizer, first: int, args: argparse.Namespace) -> None:
    """Minimise the Bradley-Terry loss; every step draws its own data from its number, so resuming changes nothing."""
    start = time.perf_counter()
    for step in range(first, args.steps):
        for group in optimizer.param_groups:
            group["lr"] = args.rate * schedule(step, args.steps)
        pictures, captions, worth = batch(args.seed, step, args.captions)
        images = augment(pictures, torch.Generator().manual_seed(args.seed * 1_000_003 + step))
        loss, right = preference_loss(network(images, captions).view(-1, PICTURES), worth)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if step % args.log_every == 0 or step == args.steps - 1:
            seconds = time.perf_counter() - start
            print(f"step {step} loss {loss.item():.3f} right {right.item():.2f} {seconds:.0f} s", flush=True)
        if (step + 1) % args.save_every == 0:
            remember(network, optimizer, step + 1, args)


def preference_loss(utility: Tensor, worth: Tensor) -> tuple[Tensor, Tensor]:
    """Mean -log sigmoid(better - worse) over the clear pairs of each caption, and the share of them that is right.

    Args:
        utility: [captions, PICTURES].
        worth: [captions, PICTURES].

    Returns:
        Two scalars.
    """
    gaps = utility[:, :, None] - utility[:, None, :]
    clear = worth[:, :, None] - worth[:, None, :] > CLEAR
    return F.softplus(-gaps[clear]).mean(), (gaps[clear] > 0).float().mean()


def batch(seed: int, step: int, captions: int) -> tuple[Tensor, list[str], Tensor]:
    """The data of one step.

    Args:
        seed: Of the run.
        step: Number of the step.
        captions: How many.

    Returns:
        Pictures uint8 [captions·PICTURES, 3, 64, 64], their captions, and their worth [captions, PICTURES].
    """
    rng = np.random.default_rng([seed, 11, step])
    scenes = make_scenes(captions, int(rng.integers(2**31)))
    drawn = [picture_of(scene, rank, rng) for scene in scenes for rank in range(PICTURES)]
    pictures = torch.from_numpy(np.stack([picture for picture, _ in drawn])).permute(0, 3, 1, 2)
    worth = torch.tensor([value for _, value in drawn]).view(captions, PICTURES)
    return pictures, [caption(scene) for scene in scenes for _ in range(PICTURES)], worth


def picture_of(scene: Scene, rank: int, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """A picture for a scene's caption, and what it is worth: gold's partial score, less the severity of its damage.

    Args:
        scene: What the caption asks for.
        rank: 0 follows it, 1 has one mistake, others have one or two, or lack an object.
        rng: Source of everything.

    Returns:
        uint8 [64, 64, 3], and at most 1.
    """
    shown = scene if rank == 0 else mistaken(scene, rng)
    if rank > 1 and rng.random() < 0.5:
        shown = mistaken(shown, rng)
    objects = layout(shown, rng)
    worth = judge(scene, [Found(o.color, o.shape, o.x, o.y, o.radius) for o in objects]).partial
    picture = draw(objects, rng)
    if rng.random() < DAMAGED:
        picture, severity = damaged(picture, str(rng.choice(DAMAGES)), rng)
        worth -= severity
    return picture, worth


def mistaken(scene: Scene, rng: np.random.Generator) -> Scene:
    """One attribute wrong, or in one case of five one of two objects missing."""
    if len(scene.items) == 2 and rng.random() < 0.2:
        return Scene((scene.items[int(rng.integers(2))],))
    return corrupt(scene, rng, TYPICAL)


def damaged(picture: np.ndarray, kind: str, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """A picture as a failing sampler would leave it.

    Args:
        picture: uint8 [64, 64, 3].
        kind: One of `DAMAGES`: "blur", "noise", or "broken", where blocks of it stand at the wrong place.
        rng: Source of the choices.

    Returns:
        uint8 [64, 64, 3], and the severity in [0.2, 0.8].
    """
    strength = rng.random()
    changed = {"blur": _blurred, "noise": _noisy, "broken": _broken}[kind](picture, strength, rng)
    return changed.round().clip(0, 255).astype(np.uint8), 0.2 + 0.6 * strength


def _blurred(picture: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    side = BLURS[int(strength * len(BLURS))]
    image = torch.from_numpy(picture.copy()).permute(2, 0, 1).float()
    padded = F.pad(image[None], [side // 2] * 4, mode="replicate")
    return F.avg_pool2d(padded, side, 1)[0].permute(1, 2, 0).numpy()


def _noisy(picture: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    low, high = NOISES
    return picture + 255 * (low + strength * (high - low)) * rng.standard_normal(picture.shape)


def _broken(picture: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    result = picture.astype(np.float64)
    for _ in range(1 + int(3 * strength)):
        side = int(rng.integers(*BLOCKS))
        (y, x), (top, left) = rng.integers(0, len(picture) - side, (2, 2))
        result[y : y + side, x : x + side] = picture[top : top + side, left : left + side]
    return result


def remember(network: Utility, optimizer: torch.optim.Optimizer, step: int, args: argparse.Namespace) -> None:
    """Save the state; a run that is killed while saving keeps the state before."""
    args.work.mkdir(parents=True, exist_ok=True)
    partial = args.work / "state.partial"
    minutes = time.process_time() / 60
    state = {"step": step, "cpu_minutes": minutes, "settings": _settings(args), "network": network.state_dict()}
    torch.save(state | {"optimizer": optimizer.state_dict()}, partial)
    os.replace(partial, args.work / "state.pt")


def resume(network: Utility, optimizer: torch.optim.Optimizer, args: argparse.Namespace) -> dict[str, Any]:
    """Load the state under --work where there is one: "step" and "cpu_minutes" of what is done."""
    path = args.work / "state.pt"
    if not path.exists():
        return {"step": 0, "cpu_minutes": 0.0}
    state = torch.load(path, weights_only=True)
    if state["settings"] != _settings(args):
        raise SystemExit(f"{path} is of a run with {state['settings']}; continue with these, or take another --work")
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    return {"step": state["step"], "cpu_minutes": state["cpu_minutes"]}


def _settings(args: argparse.Namespace) -> dict[str, float]:
    return {name: getattr(args, name) for name in ("seed", "steps", "captions", "rate")}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("assets/tiny-preference"), help="folder of the result")
    parser.add_argument("--work", type=Path, default=Path("runs/tiny-preference"), help="folder of the state")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=12000)
    parser.add_argument("--captions", type=int, default=5, help="per step")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save-every", type=int, default=250)
    parser.add_argument("--log-every", type=int, default=50)
    return parser.parse_args()


if __name__ == "__main__":
    main()
