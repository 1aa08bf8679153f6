"""Memory that training tiny-sd3 takes, beside what `flowgrpo check` estimates.

    python -m scripts.measure_memory                one process per setting, the table at the end
    python -m scripts.measure_memory --settings demo --again
    python -m scripts.measure_memory --table        print what is there and run nothing

Measured is the peak of the resident memory (`VmHWM`, Linux) over two iterations, prompts encoded and text encoders
gone, above what the process holds after it has imported everything and run two samples of the same recipe once. Two
iterations, since the optimizer's moments are there from the first update on. glibc is told to have one arena and to
give back what is freed, so that the peak is that of living tensors and not of the allocator's reserves.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.benchmarks import add, held, where

TOLERANCE = 0.15
ALLOCATOR = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
SMALL = ("--train.prompts_per_iteration=2", "--train.group_size=8", "--run.device=cpu")
LORA = ("--model.adapter=lora", "--model.guidance_scale=4.5", "--objective.kl=mean_gap", "--objective.beta=0.01")
SETTINGS: dict[str, tuple[str, ...]] = {
    "demo": SMALL,
    "small micro-batches": (*SMALL, "--train.micro_batch_size=16"),
    "checkpointing": (*SMALL, "--model.gradient_checkpointing"),
    "adapter, guidance, reference": (*SMALL, *LORA, "--train.micro_batch_size=16", "--sampler.batch_size=16"),
}
"""Name -> what differs from the recipe `demo`."""
WARM = ("--train.prompts_per_iteration=1", "--train.group_size=2", "--train.micro_batch_size=2")
Row = dict[str, Any]


def main(words: Sequence[str] | None = None) -> int:
    """Measure what is missing and print the table; 1 where a row is beyond the tolerance."""
    args = _arguments(words)
    if args.one is not None:
        print(json.dumps(measured(SETTINGS[args.one])))
        return 0
    for name in () if args.table else args.settings:
        if args.again or not any(row["setting"] == name for row in held(args.out)):
            add(args.out, {"setting": name, "words": list(SETTINGS[name]), **_in_own_process(name), **where()})
    rows = newest(held(args.out), args.settings)
    print(table(rows))
    return int(any(abs(row["estimated"] / row["measured"] - 1) > TOLERANCE for row in rows))


def estimated(words: Sequence[str]) -> float:
    """Bytes that `check` says, of the recipe `demo` with these words; imports no torch."""
    from flowgrpo.estimates import estimate
    from flowgrpo.geometry import geometry
    from flowgrpo.model_facts import find_model, read_model
    from flowgrpo.recipe_loading import load_recipe

    recipe = load_recipe("demo", list(words)).recipe
    folder = find_model(recipe.model.path)
    assert folder is not None
    return estimate(recipe, geometry(recipe), read_model(folder)).memory.peak


def measured(words: Sequence[str]) -> Row:
    """Bytes estimated and measured, in this process, which should be a fresh one."""
    _iterations([*words, *WARM], 1)
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    _iterations(words, 2)
    return {"estimated": estimated(words), "measured": _status("VmHWM") - before}


def newest(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """The last row of each setting that has one."""
    last = {row["setting"]: row for row in rows}
    return [last[name] for name in names if name in last]


def table(rows: Sequence[Row]) -> str:
    """One line per setting."""
    lines = [f"{'setting':30s} {'estimated MiB':>14s} {'measured MiB':>13s} {'estimated / measured':>21s}"]
    for row in rows:
        ratio = row["estimated"] / row["measured"]
        verdict = "" if abs(ratio - 1) <= TOLERANCE else f"  beyond {TOLERANCE:.0%}"
        mib = [row[key] / 2**20 for key in ("estimated", "measured")]
        lines.append(f"{row['setting']:30s} {mib[0]:14.1f} {mib[1]:13.1f} {ratio:21.3f}{verdict}")
    return "\n".join(lines)


def _iterations(words: Sequence[str], count: int) -> None:
    from flowgrpo.recipe_loading import load_recipe
    from flowgrpo.trainer import Trainer

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(load_recipe("demo", [*words, "--run.dir", folder]).recipe)
        wanted = {prompt.text for number in range(1, count + 1) for prompt in trainer._prompts(number)}
        trainer.medium.prepare(sorted(wanted), progress=lambda done, total: None)
        for number in range(1, count + 1):
            trainer.iterate(number)
        trainer.pool.abandon()


def _status(key: str) -> int:
    """Bytes of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def _in_own_process(name: str) -> Row:
    command = [sys.executable, "-m", "scripts.measure_memory", "--one", name]
    environment = {**os.environ, **ALLOCATOR, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    found: Row = json.loads(done.stdout.splitlines()[-1])
    return found


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("assets/benchmarks/memory.json"))
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), choices=list(SETTINGS), metavar="NAME")
    parser.add_argument("--again", action="store_true", help="measure settings that the file already holds")
    parser.add_argument("--table", action="store_true", help="print what is there and run nothing")
    parser.add_argument("--one", choices=list(SETTINGS), help="measure one setting in this process and print JSON")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
