"""Break a run on purpose, again and again, and see whether anything is lost.

    python -m scripts.bench_faults --trials 110 --out assets/benchmarks/faults.json

Every trial forks a run of a small random pipeline from this process, which has imported everything, lets one fault
strike at a random moment, and resumes. The resumed run must equal one that was left alone, bit for bit: metrics,
evaluations, pictures, checkpoint and trained weights. A fault that ends the run by itself must do so with one sentence.
Outcomes go to the JSON file as they come, and trials that it holds are not run again. The exit code is 1 if any trial
lost something.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import multiprocessing
import os
import random
import socket
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from flowgrpo.checkpoint import list_checkpoints
from flowgrpo.errors import FlowgrpoError
from flowgrpo.media import load_medium
from flowgrpo.recipe import Recipe
from flowgrpo.recipe_loading import load_recipe
from flowgrpo.runfolder import read_jsonl, write_atomically
from flowgrpo.trainer import Trainer
from scripts.benchmarks import where
from scripts.faults import FAILED, FAULTS, PATIENCE_S, Fault
from tests.tiny import tiny_sd3_pipeline

FORK = multiprocessing.get_context("fork")
ITERATIONS = 4
PROMPTS = "a red cat\na blue dog\na green bird\na white fish\n"
REWARD = "def red(images, prompts, metadata):\n    return images[:, 0].mean((1, 2))\n"
SETTINGS = {
    **{"model.height": 16, "model.width": 16, "model.max_sequence_length": 20, "model.guidance_scale": 1.0},
    **{"model.lora_rank": 2, "model.lora_alpha": 4, "sampler.steps": 4, "eval.steps": 2},
    **{"objective.clip_low": 1e-3, "objective.clip_high": 1e-3, "eval.every": 2},
    **{"train.prompts_per_iteration": 2, "train.group_size": 2, "train.updates_per_iteration": 2},
    **{"train.micro_batch_size": 4, "train.lr": 1e-2, "train.ema_decay": 0.7, "train.iterations": ITERATIONS},
    **{"run.images": 2, "run.images_every": 2, "run.checkpoint_every": 1, "run.device": "cpu"},
}
"""Four pictures of 16 x 16 in an iteration; both evaluations, and pictures, beside and between."""


@dataclass(frozen=True, slots=True)
class Bench:
    """A folder with a model, prompts and a reward, and what a run of them leaves that nothing disturbs."""

    root: Path
    undisturbed: dict[int, dict[str, bytes]]
    """Processes -> file -> content."""

    def recipe(self, folder: Path, settings: Mapping[str, Any] | None = None) -> Recipe:
        """The same run, in another folder and with settings that do not change where it goes."""
        values = {
            "model.path": str(self.root / "model"),
            "data.prompts": str(self.root / "prompts.txt"),
            "reward.names": f"{self.root / 'rewards.py'}:red",
            "eval.scorers": [f"{self.root / 'rewards.py'}:red"],
            "eval.prompts": {"mine": str(self.root / "prompts.txt")},
            "run.dir": str(folder),
        }
        return load_recipe(None, {**SETTINGS, **values, **(settings or {})}).recipe


def prepare(root: Path) -> Bench:
    """Writes the model and what belongs to it."""
    torch.set_num_threads(1)
    tiny_sd3_pipeline(0, root / "model")
    (root / "prompts.txt").write_text(PROMPTS, encoding="utf-8")
    (root / "rewards.py").write_text(REWARD, encoding="utf-8")
    bench = Bench(root, {})
    load_medium(bench.recipe(root / "unused")).policy.drop_encoders()  # imports what every fork would import by itself
    return bench


def run(bench: Bench, folder: Path, fault: Fault | None, seed: int, *, world: int = 1) -> tuple[list[int], str]:
    """Exit codes of a run in forked processes, and what the first one ended with, if with an error.

    Of several processes the last one meets the fault.
    """
    recipe = bench.recipe(folder, fault and fault.settings)
    said = folder.with_name(f"{folder.name}-said")
    said.unlink(missing_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def body(rank: int) -> None:
        launched = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1"}
        os.environ.update({name: str(value) for name, value in {**launched, "MASTER_PORT": port}.items()})
        if fault is not None and rank == world - 1:
            fault.arm(random.Random(seed), folder)
        try:
            Trainer(recipe).run()
        except FlowgrpoError as error:
            if rank == 0:
                said.write_text(str(error), encoding="utf-8")
            sys.exit(FAILED)

    children = [FORK.Process(target=body, args=(rank,)) for rank in range(world)]
    for child in children:
        child.start()
    return _ends(children), said.read_text(encoding="utf-8") if said.exists() else ""


def _ends(children: Sequence[Any]) -> list[int]:
    until = time.monotonic() + PATIENCE_S
    for child in children:
        child.join(max(0.0, until - time.monotonic()))
    late = [child for child in children if child.exitcode is None]
    for child in late:
        child.kill()
        child.join()
    if late:
        raise TimeoutError(f"a run did not end in {PATIENCE_S} s")
    return [child.exitcode for child in children]


def content(folder: Path) -> dict[str, bytes]:
    """What a run leaves and a resumed one must leave too; seconds of evaluations are left out."""
    newest = list_checkpoints(folder / "checkpoints")[-1]
    files = [folder / "metrics.jsonl", folder / "trees.jsonl", *newest.glob("*.safetensors")]
    for part in ("adapter", "images", "eval"):
        files += [path for path in (folder / part).rglob("*") if path.is_file()]
    found = {str(path.relative_to(folder)): _bytes(path) for path in files if path.exists()}
    rows = [{**row, "seconds": 0} for row in read_jsonl(folder / "eval.jsonl")]
    whole = (folder / "report.html").read_bytes().endswith(b"</html>")
    return {**found, "eval.jsonl": json.dumps(rows).encode(), "report.html": str(whole).encode()}


def _bytes(path: Path) -> bytes:
    """A file's content; of tensors without the order of their header, which the library draws anew for every file."""
    if path.suffix != ".safetensors":
        return path.read_bytes()
    with safe_open(path, framework="pt") as file:
        told = json.dumps(file.metadata(), sort_keys=True).encode()
        held = [(name, file.get_tensor(name)) for name in sorted(file.keys())]
    return told + b"".join(name.encode() + tensor.numpy().tobytes() for name, tensor in held)


def undisturbed(bench: Bench, world: int) -> dict[str, bytes]:
    """What a whole run of so many processes leaves; run once."""
    if world not in bench.undisturbed:
        folder = bench.root / f"whole-{world}"
        ends, said = run(bench, folder, None, 0, world=world)
        if ends != [0] * world:
            raise SystemExit(f"the run without faults ended with {ends}: {said}")
        bench.undisturbed[world] = content(folder)
    return bench.undisturbed[world]


def trial(bench: Bench, name: str, seed: int) -> str | None:
    """Break and resume one run; what was lost, or None."""
    fault, folder = FAULTS[name], bench.root / f"trial-{seed}"
    whole = undisturbed(bench, fault.world)
    ends, said = run(bench, folder, fault, seed, world=fault.world)
    if ends[-1] not in fault.ends or not set(ends[:-1]) <= set(fault.others):
        return f"the broken run ended with {ends}: {said}"
    if FAILED in ends and (not said or "\n" in said or not any(word in said for word in fault.words)):
        return f"not one clear sentence: {said!r}"
    fault.after(folder)
    ends, said = run(bench, folder, None, seed, world=fault.world)
    if ends != [0] * fault.world:
        return f"the run could not be resumed: {ends} {said}"
    resumed = content(folder)
    different = [file for file in sorted({*whole, *resumed}) if whole.get(file) != resumed.get(file)]
    return f"{', '.join(different)} differ" if different else None


def trials(bench: Bench, seeds: Sequence[int], names: Sequence[str], out: Path) -> None:
    """Run the trials of these seeds and enter each outcome in `out` once it is known."""
    for seed in seeds:
        name, start = names[seed % len(names)], _children()
        problem = trial(bench, name, seed)
        outcome = {"seed": seed, "fault": name, "problem": problem, "cpu_s": round(_children() - start, 1)}
        enter(out, outcome)
        print(f"seed {seed}, {name}: {problem or 'equal'}", flush=True)


def at_once(jobs: int, bench: Bench, seeds: Sequence[int], names: Sequence[str], out: Path) -> None:
    """The same by so many forks of this process, each with its share of the seeds."""
    for world in {FAULTS[name].world for name in names}:
        undisturbed(bench, world)
    shares = [seeds[first::jobs] for first in range(jobs)]
    workers = [FORK.Process(target=trials, args=(bench, share, names, out)) for share in shares]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def _children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def known(out: Path) -> list[dict[str, Any]]:
    """Outcomes that a file holds."""
    return json.loads(out.read_text(encoding="utf-8"))["outcomes"] if out.exists() else []


def enter(out: Path, outcome: dict[str, Any]) -> None:
    """Add an outcome to a file; several processes may share one."""
    with open(out.with_name(f".{out.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        write_summary(out, [*known(out), outcome])


def write_summary(out: Path, outcomes: list[dict[str, Any]]) -> None:
    """Counts by fault, then every outcome."""
    lost = [row for row in outcomes if row["problem"] is not None]
    faults = {
        name: {"trials": len(rows), "equal": sum(row["problem"] is None for row in rows)}
        for name in FAULTS
        if (rows := [row for row in outcomes if row["fault"] == name])
    }
    counts = {"trials": len(outcomes), "equal": len(outcomes) - len(lost), "faults": faults}
    ordered = sorted(outcomes, key=lambda row: row["seed"])
    write_atomically(out, json.dumps({**counts, "outcomes": ordered, **where()}, indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the trials; 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=110)
    parser.add_argument("--seed", type=int, default=0, help="of the first trial; the next ones follow")
    parser.add_argument("--faults", nargs="+", choices=list(FAULTS), default=list(FAULTS), metavar="FAULT")
    parser.add_argument("--jobs", type=int, default=1, help="trials at once")
    parser.add_argument("--out", type=Path, help="JSON file; trials that it holds are not run again")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as root:
        out = options.out or Path(root) / "outcomes.json"
        wanted = range(options.seed, options.seed + options.trials)
        waiting = [seed for seed in wanted if seed not in {row["seed"] for row in known(out)}]
        if waiting:
            at_once(options.jobs, prepare(Path(root)), waiting, options.faults, out)
        rows = [row for row in known(out) if row["seed"] in wanted]
    equal = sum(row["problem"] is None for row in rows)
    print(f"{equal} of {options.trials} resumed runs equal the one without faults")
    return 0 if equal == options.trials else 1


if __name__ == "__main__":
    sys.exit(main())
