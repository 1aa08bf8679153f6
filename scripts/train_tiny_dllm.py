"""Train tiny-dllm, the embedded masked-diffusion language model, on problems of the text tasks.

Run `python -m scripts.train_tiny_dllm --help` from the repository root. The loss is the masked-diffusion bound
(LLaDA, arXiv 2502.09992, equation 5): the prompt is never masked, an answer's end tokens are part of it. The first
cycle learns from right answers, which teach what is true; the last and short one from answers of which many have the
usual mistake of their task, which leaves a model that knows better than it does. The state is saved under --work: a
run that is stopped continues where it was, and ends with the same weights.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import ModernBertForMaskedLM

from scripts.measure_tiny_dllm import accuracy
from scripts.tiny_dllm_data import Shelf, draw_batch, make_shelves
from scripts.tiny_dllm_models import make_model, make_tokenizer, save

WARMUP = 60


def main() -> None:
    """Train and save."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.rate[0], betas=(0.9, 0.98), weight_decay=0.05)
    before = resume(model, optimizer, args)
    shelves = make_shelves(tokenizer, args.seed)
    for step in range(before["step"], sum(args.cycles)):
        update(model, optimizer, shelves, step, args)
        if (step + 1) % args.save_every == 0 or step + 1 == sum(args.cycles):
            remember(model, optimizer, step + 1, before["cpu_minutes"], args)
            print(f"step {step + 1} held out {accuracy(model, tokenizer, limit=64)}", flush=True)
    save(model, tokenizer, args.out)
    facts = _settings(args) | {"parameters": sum(p.numel() for p in model.parameters()), "threads": args.threads}
    facts |= {"cpu_minutes": round(before["cpu_minutes"] + time.process_time() / 60, 1)}
    (args.out / "training.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(facts, indent=2))


def update(
    model: ModernBertForMaskedLM,
    optimizer: torch.optim.Optimizer,
    shelves: list[Shelf],
    step: int,
    args: argparse.Namespace,
) -> None:
    """One step, whose data and masks are drawn from its number alone."""
    cycle, done, length = _position(step, args.cycles)
    for group in optimizer.param_groups:
        group["lr"] = args.rate[cycle] * min((done + 1) / WARMUP, 0.5 * (1 + math.cos(math.pi * done / length)))
    ids, window = draw_batch(shelves, random.Random(f"{args.seed}:{step}"), args.rows, args.mistaken[cycle])
    model.train()
    loss = bound(model, ids, window, torch.Generator().manual_seed(args.seed * 1_000_003 + step))
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    if step % args.log_every == 0:
        print(f"step {step} loss {loss.item():.3f} {time.process_time():.0f} s", flush=True)


def bound(model: ModernBertForMaskedLM, ids: Tensor, window: int, generator: torch.Generator) -> Tensor:
    """Masked-diffusion bound on -log p(answer | prompt), per token.

    The number k of masks is drawn uniformly from 1 ... window, and its positions uniformly: what t ~ U(0, 1] and
    masks of chance t come to in the mean, weights 1/t included, with less noise. The k of a batch are stratified.

    Args:
        model: Logits at the token itself.
        ids: Prompt and answer [B, P + window].
        window: Tokens of the answer.
        generator: Source of the masks.

    Returns:
        Scalar, in nats.
    """
    rows = len(ids)
    uniform = (torch.arange(rows) + torch.rand(rows, generator=generator)) / rows
    count = (uniform * window).long().clamp(max=window - 1) + 1
    rank = torch.rand(rows, window, generator=generator).argsort(1).argsort(1)
    masked = F.pad(rank < count[:, None], (ids.shape[1] - window, 0))
    logits = model(input_ids=ids.masked_fill(masked, model.config.mask_token_id)).logits
    nats = F.cross_entropy(logits[masked], ids[masked], reduction="none")
    weight = (1 / count)[:, None].expand(-1, ids.shape[1])[masked]
    return (nats * weight).sum() / rows


def _position(step: int, cycles: list[int]) -> tuple[int, int, int]:
    """(cycle, steps done in it, its length)."""
    for cycle, length in enumerate(cycles):
        if step < length:
            return cycle, step, length
        step -= length
    raise ValueError("step beyond the last cycle")


def remember(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, step: int, minutes: float, args: argparse.Namespace
) -> None:
    """Save the state, and one that stays at the end of each cycle; a kill while saving keeps the state before."""
    args.work.mkdir(parents=True, exist_ok=True)
    state = {"step": step, "cpu_minutes": minutes + time.process_time() / 60, "settings": _settings(args)}
    state |= {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    for name in ("state.pt", *([f"cycle-{step}.pt"] if step == args.cycles[0] else [])):
        torch.save(state, args.work / "state.partial")
        os.replace(args.work / "state.partial", args.work / name)


def resume(model: torch.nn.Module, optimizer: torch.optim.Optimizer, args: argparse.Namespace) -> dict[str, Any]:
    """Load the state under --work where there is one: "step" and "cpu_minutes" of what is done."""
    path = args.work / "state.pt"
    if not path.exists():
        return {"step": 0, "cpu_minutes": 0.0}
    state = torch.load(path, weights_only=True)
    if _done(state["settings"], state["step"]) != _done(_settings(args), state["step"]):
        raise SystemExit(f"{path} is of a run with {state['settings']}; continue with these, or take another --work")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return {"step": state["step"], "cpu_minutes": state["cpu_minutes"]}


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(args, name) for name in ("seed", "cycles", "mistaken", "rate", "rows")}


def _done(settings: dict[str, Any], step: int) -> dict[str, Any]:
    """Settings that steps so far depended on, but for the length of the cycle under way, which may change."""
    under_way = _position(step - 1, settings["cycles"])[0]
    kept = {"cycles": under_way, "mistaken": under_way + 1, "rate": under_way + 1}
    return {name: value[: kept[name]] if name in kept else value for name, value in settings.items()}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("assets/tiny-dllm"), help="folder of the result")
    parser.add_argument("--work", type=Path, default=Path("runs/tiny-dllm"), help="folder of the state")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cycles", type=int, nargs="+", default=[6500, 500], help="steps of each cycle")
    parser.add_argument("--mistaken", type=float, nargs="+", default=[0.0, 0.6], help="share of mistakes in each")
    parser.add_argument("--rate", type=float, nargs="+", default=[2e-3, 5e-4], help="peak learning rate of each")
    parser.add_argument("--rows", type=int, default=96, help="texts per step")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save-every", type=int, default=500)
    parser.add_argument("--log-every", type=int, default=100)
    return parser.parse_args()


if __name__ == "__main__":
    main()
