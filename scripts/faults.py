"""The ways in which `scripts.bench_faults` breaks a run."""

from __future__ import annotations

import errno
import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from flowgrpo import checkpoint, evaluation, flow_work, judging, pictures, rewarding, rollout, saving, trainer
from flowgrpo.checkpoint import list_checkpoints
from flowgrpo.report import page

PATIENCE_S = 600
KILLED = -signal.SIGKILL
FAILED = 1
DONE = 0
Arm = Callable[[random.Random, Path], None]
Act = Callable[[Callable[..., Any], Any, Any], Any]


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to break a run.

    arm: called with the random generator of the trial and the run folder in the process that shall break, before it
        trains.
    ends: the exit codes that this process may have.
    words: one of them is in the sentence that a run ends with which ends with an error.
    after: called with the run folder once the run is broken.
    settings: of the run that breaks, by the keys of a recipe.
    world: processes; others: the exit codes that those which are not broken may have.
    """

    arm: Arm
    ends: tuple[int, ...] = (KILLED,)
    words: tuple[str, ...] = ("",)
    after: Callable[[Path], None] = lambda folder: None
    settings: Mapping[str, Any] = field(default_factory=dict)
    world: int = 1
    others: tuple[int, ...] = ()


def strike(owner: Any, name: str, moment: int, act: Act, *, from_then_on: bool = False) -> None:
    """Let the `moment`-th call of `owner.name`, or each from then on, be `act(original, args, kwargs)`."""
    original, calls = getattr(owner, name), [0]

    def broken(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        struck = calls[0] >= moment if from_then_on else calls[0] == moment
        return act(original, args, kwargs) if struck else original(*args, **kwargs)

    setattr(owner, name, broken)


def at(owner: Any, name: str, calls: int, act: Act, *, first: int = 1, from_then_on: bool = False) -> Arm:
    """Strike at one of the calls `first` ... `calls`, drawn for each trial."""
    return lambda rng, folder: strike(owner, name, rng.randint(first, calls), act, from_then_on=from_then_on)


def kill_at(owner: Any, name: str, calls: int, *, first: int = 1) -> Arm:
    """End the process at once, before or after one of the calls."""

    def arm(rng: random.Random, folder: Path) -> None:
        late = rng.random() < 0.5

        def kill(original: Callable[..., Any], args: Any, kwargs: Any) -> None:
            if late:
                original(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGKILL)

        strike(owner, name, rng.randint(first, calls), kill)

    return arm


def kill_any_time(rng: random.Random, folder: Path) -> None:
    """End the process once it has computed for a random time; a run lasts about two seconds."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, rng.uniform(0.02, 2.0))


def no_space(original: Callable[..., Any], args: Any, kwargs: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def hang(original: Callable[..., Any], args: Any, kwargs: Any) -> None:
    time.sleep(10 * PATIENCE_S)


def nan_latents(original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    drawn = original(*args, **kwargs)
    return replace(drawn, samples=torch.full_like(drawn.samples, torch.nan))


def nan_gradients(original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    answer = original(*args, **kwargs)
    parameters = args[0].policy.trainable().values()
    next(p for p in parameters if p.grad is not None).grad.fill_(torch.nan)
    return answer


def flip_a_byte(folder: Path) -> None:
    """Damage the newest checkpoint, of which there are at least two."""
    newest = list_checkpoints(folder / "checkpoints")[-1]
    weights = newest / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(bytes(data))


def cut_off(folder: Path) -> None:
    """Leave half of a file of the newest checkpoint, and a part of the last row of metrics."""
    optimizer = list_checkpoints(folder / "checkpoints")[-1] / "optimizer.safetensors"
    optimizer.write_bytes(optimizer.read_bytes()[: optimizer.stat().st_size // 2])
    metrics = folder / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-20])


FAULTS: dict[str, Fault] = {
    "kill at any moment": Fault(kill_any_time, (-signal.SIGPROF, DONE)),
    "kill while sampling": Fault(kill_at(rollout, "sample_flow", 4)),
    "kill while scoring": Fault(kill_at(rewarding.RewardPool, "_score", 4)),
    "kill in backward": Fault(kill_at(torch.Tensor, "backward", 8)),
    "kill in the optimizer step": Fault(kill_at(torch.optim.AdamW, "step", 8)),
    "kill while a checkpoint is written": Fault(kill_at(checkpoint, "save_file", 16)),
    "kill before a checkpoint has its name": Fault(kill_at(checkpoint, "_flush_to_disk", 24)),
    "kill while a row is written": Fault(kill_at(trainer, "append_jsonl", 8)),
    "kill while evaluating": Fault(kill_at(evaluation, "append_jsonl", 4)),
    "kill after an evaluation": Fault(kill_at(judging, "append_jsonl", 4)),
    "kill while pictures are saved": Fault(kill_at(pictures, "save_png", 6)),
    "kill while the adapter is saved": Fault(kill_at(saving, "save_lora", 1)),
    "kill while the report is written": Fault(kill_at(page, "write_atomically", 1)),
    "no space for a checkpoint": Fault(at(checkpoint, "save_file", 16, no_space), (FAILED,), ("No space left",)),
    "no space for pictures": Fault(at(pictures, "save_png", 6, no_space), (FAILED,), ("No space left",)),
    "no space for the adapter": Fault(at(saving, "save_lora", 1, no_space), (FAILED,), ("No space left",)),
    "damaged last checkpoint": Fault(kill_at(rollout, "sample_flow", 4, first=4), after=flip_a_byte),
    "last checkpoint cut off": Fault(kill_at(rollout, "sample_flow", 4, first=4), after=cut_off),
    "hanging reward": Fault(
        at(rewarding.RewardPool, "_score", 4, hang),
        (FAILED,),
        ("reward.timeout_s = 2 s",),
        settings={"reward.timeout_s": 2.0},
    ),
    "NaN latents": Fault(at(rollout, "sample_flow", 4, nan_latents), (FAILED,), ("sample 0 of prompt",)),
    "NaN gradients": Fault(
        at(flow_work.FlowWork, "backward", 8, nan_gradients, from_then_on=True), (FAILED,), ("first at step",)
    ),
    "dropped rank": Fault(
        kill_at(rollout, "sample_flow", 4), words=("another of the 2 processes is gone",), world=2, others=(FAILED,)
    ),
}
