"""Break a run on purpose, again and again, and see whether anything is lost.

    python -m scripts.bench_faults --trials 100 --out assets/benchmarks/faults.json

Every trial forks a run of a small recipe from this process, which has imported everything, lets one fault strike at a
random moment, and resumes. The resumed run must equal one that was left alone, bit for bit: metrics, checkpoint and
trained weights. A fault that ends the run by itself must do so with one sentence. Counts go to the JSON file; the exit
code is 1 if any trial lost something.
"""

from __future__ import annotations

import argparse
import errno
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from flowgrpo import checkpoint, rewarding, rollout
from flowgrpo.checkpoint import list_checkpoints
from flowgrpo.errors import FlowgrpoError
from flowgrpo.recipe import Recipe
from flowgrpo.recipe_loading import load_recipe
from flowgrpo.runfolder import write_atomically
from flowgrpo.trainer import Trainer
from scripts.benchmarks import where

FORK = multiprocessing.get_context("fork")
ITERATIONS = 4
SETTINGS = {
    "data.limit": 4,
    "sampler.steps": 4,
    "sampler.window_low": 0,
    "sampler.window_width": 2,
    "train.prompts_per_iteration": 2,
    "train.group_size": 2,
    "train.updates_per_iteration": 2,
    "train.ema_decay": 0.7,
    "train.iterations": ITERATIONS,
    "train.max_minutes": None,
    "reward.timeout_s": 5.0,
    "eval.prompts": {},
    "run.images": 0,
    "run.images_every": 0,
    "run.checkpoint_every": 1,
}
"""The demo made small: 4 pictures of 64 x 64 in an iteration."""
PATIENCE_S = 600
KILLED = -signal.SIGKILL
FAILED = 1


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to break a run.

    arm: called with the random generator of the trial in the process that shall break, before it trains.
    ends: the exit codes that the broken run may have.
    after: called with the run folder once the run is broken.
    """

    arm: Callable[[random.Random], None]
    ends: tuple[int, ...] = (KILLED,)
    after: Callable[[Path], None] = lambda folder: None


def strike(owner: Any, name: str, moment: int, act: Callable[[Callable[..., Any], Any, Any], Any]) -> None:
    """Let the `moment`-th call of `owner.name` be `act(original, args, kwargs)`."""
    original, calls = getattr(owner, name), [0]

    def broken(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        return act(original, args, kwargs) if calls[0] == moment else original(*args, **kwargs)

    setattr(owner, name, broken)


def kill(original: Callable[..., Any], args: Any, kwargs: Any) -> None:
    """End this process at once, before or after the call."""
    if time.perf_counter_ns() % 2:
        original(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)


def full_disk(original: Callable[..., Any], args: Any, kwargs: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def hang(original: Callable[..., Any], args: Any, kwargs: Any) -> None:
    time.sleep(10 * PATIENCE_S)


def nan_latents(original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    drawn = original(*args, **kwargs)
    return replace(drawn, samples=torch.full_like(drawn.samples, torch.nan))


def nan_gradients(original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    parameters = list(args[0])
    next(p for p in parameters if p.grad is not None).grad.fill_(torch.nan)
    return original(parameters, *args[1:], **kwargs)


def flip_a_byte(folder: Path) -> None:
    """Damage the newest checkpoint, of which there are at least two."""
    weights = list_checkpoints(folder / "checkpoints")[-1] / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(bytes(data))


def at(owner: Any, name: str, calls: range, act: Callable[..., Any] = kill) -> Callable[[random.Random], None]:
    """Strike at one of these calls, drawn for each trial."""
    return lambda rng: strike(owner, name, rng.choice(calls), act)


ANY = range(1, ITERATIONS + 1)
TWICE = range(1, 2 * ITERATIONS + 1)
FAULTS: dict[str, Fault] = {
    "kill while sampling": Fault(at(rollout, "sample_flow", ANY)),
    "kill while scoring": Fault(at(rewarding.RewardPool, "_score", ANY)),
    "kill in backward": Fault(at(torch.Tensor, "backward", TWICE)),
    "kill in the optimizer step": Fault(at(torch.optim.AdamW, "step", TWICE)),
    "kill while a checkpoint is written": Fault(at(checkpoint, "save_file", range(1, 4 * ITERATIONS + 1))),
    "kill before a checkpoint has its name": Fault(at(checkpoint, "_flush_to_disk", range(1, 6 * ITERATIONS + 1))),
    "full disk": Fault(at(checkpoint, "save_file", range(1, 4 * ITERATIONS + 1), full_disk), (FAILED,)),
    "damaged last checkpoint": Fault(at(rollout, "sample_flow", range(3, ITERATIONS + 1)), after=flip_a_byte),
    "hanging reward": Fault(at(rewarding.RewardPool, "_score", ANY, hang), (FAILED,)),
    "NaN latents": Fault(at(rollout, "sample_flow", ANY, nan_latents), (FAILED,)),
    "NaN gradients": Fault(at(torch.nn.utils, "clip_grad_norm_", TWICE, nan_gradients), (FAILED,)),
}


def run(recipe: Recipe, arm: Callable[[random.Random], None] | None, seed: int, said: Path) -> int:
    """Exit code of a forked run; what it ended with, if with an error, is in the file `said`."""

    def body() -> None:
        torch.set_num_threads(1)
        if arm is not None:
            arm(random.Random(seed))
        try:
            Trainer(recipe).run()
        except FlowgrpoError as error:
            said.write_text(str(error))
            os._exit(FAILED)  # a scorer that hangs would hold the interpreter

    child = FORK.Process(target=body)
    child.start()
    child.join(PATIENCE_S)
    if child.exitcode is None:
        child.kill()
        child.join()
        raise TimeoutError(f"a run did not end in {PATIENCE_S} s")
    return child.exitcode


def content(folder: Path) -> dict[str, bytes]:
    """What a run leaves and a resumed one must leave too."""
    newest = list_checkpoints(folder / "checkpoints")[-1]
    tensors = [*newest.glob("*.safetensors"), *(folder / "adapter").rglob("*.safetensors")]
    files = [folder / "metrics.jsonl", folder / "trees.jsonl", *tensors]
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(files)}


def trial(name: str, seed: int, root: Path, whole: dict[str, bytes]) -> str | None:
    """Break and resume one run; what was lost, or None."""
    fault, folder, said = FAULTS[name], root / f"trial-{seed}", root / f"said-{seed}"
    recipe = small_recipe(folder)
    ended = run(recipe, fault.arm, seed, said)
    if ended not in fault.ends:
        return f"the broken run ended with {ended}, expected {fault.ends}: {said.read_text() if said.exists() else ''}"
    if ended == FAILED and (not said.read_text() or "\n" in said.read_text()):
        return f"not one sentence: {said.read_text()!r}"
    fault.after(folder)
    if run(recipe, None, seed, said) != 0:
        return f"the run could not be resumed: {said.read_text() if said.exists() else ''}"
    resumed = content(folder)
    different = [file for file in sorted({*whole, *resumed}) if whole.get(file) != resumed.get(file)]
    return f"{', '.join(different)} differ" if different else None


def small_recipe(folder: Path) -> Recipe:
    return load_recipe("demo", {**SETTINGS, "run.dir": str(folder)}).recipe


def bench(trials: int, seed: int, names: Sequence[str], root: Path) -> dict[str, Any]:
    """Counts by fault, and what was lost in which trial."""
    whole = root / "whole"
    if run(small_recipe(whole), None, seed, root / "said") != 0:
        raise SystemExit(f"the run without faults failed: {(root / 'said').read_text()}")
    expected = content(whole)
    counts = {name: {"trials": 0, "equal": 0} for name in names}
    lost: list[dict[str, Any]] = []
    for number in range(trials):
        name = names[number % len(names)]
        problem = trial(name, seed + number, root, expected)
        counts[name]["trials"] += 1
        counts[name]["equal"] += problem is None
        if problem is not None:
            lost.append({"fault": name, "seed": seed + number, "problem": problem})
        print(f"{number + 1}/{trials} {name}: {problem or 'equal'}", flush=True)
    return {"trials": trials, "equal": trials - len(lost), "seed": seed, "faults": counts, "lost": lost, **where()}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the trials; 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=110)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", nargs="+", choices=list(FAULTS), default=list(FAULTS))
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as root:
        found = bench(options.trials, options.seed, options.faults, Path(root))
    print(f"{found['equal']} of {found['trials']} resumed runs equal the one without faults")
    if options.out is not None:
        write_atomically(options.out, json.dumps(found, indent=1) + "\n")
    return 1 if found["lost"] else 0


if __name__ == "__main__":
    sys.exit(main())
