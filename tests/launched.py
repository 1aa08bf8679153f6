"""Processes as a launcher starts them, and what two runs must have in common."""

from __future__ import annotations

import math
import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import load_file

from flowgrpo.recipe import Recipe
from flowgrpo.runfolder import read_jsonl
from flowgrpo.trainer import Trainer

FORK = multiprocessing.get_context("fork")
PATIENCE_S = 300


def start(world: int, target: Callable[[int], None], more: Mapping[str, str] = MappingProxyType({})) -> list[Any]:
    """Forked processes as a launcher starts them, with more of its variables."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def body(rank: int) -> None:
        launched = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1"}
        os.environ.update({name: str(value) for name, value in {**launched, **more, "MASTER_PORT": port}.items()})
        torch.set_num_threads(
            1
        )  # A forked pool of threads is renewed at the first call, which must not be two at once.
        target(rank)

    children = [FORK.Process(target=body, args=(rank,)) for rank in range(world)]
    for child in children:
        child.start()
    return children


def ended(children: list[Any]) -> list[int | None]:
    """Exit codes; a process that hangs is killed and has -9."""
    until = time.monotonic() + PATIENCE_S
    for child in children:
        child.join(max(0.0, until - time.monotonic()))
        if child.exitcode is None:
            child.kill()
            child.join()
    return [child.exitcode for child in children]


def trained(world: int, recipe: Recipe, more: Mapping[str, str] = MappingProxyType({})) -> None:
    assert ended(start(world, lambda rank: Trainer(recipe).run() and None, more)) == [0] * world


def residual(one: Path, two: Path) -> float:
    """Mean difference of two runs' trained weights, in standard errors of that mean."""
    a, b = (load_file(next((run / "adapter").rglob("*.safetensors"))) for run in (one, two))
    gap = torch.cat([(a[name] - b[name]).double().flatten() for name in a])
    return float(gap.mean().abs() / (gap.std() / len(gap) ** 0.5).clamp(min=1e-30))


def assert_close(one: Any, two: Any, where: str = "", rel: float = 1e-5) -> None:
    """Equal in structure, numbers to `rel` of their size (or 1e-6, where they are differences of nearly equal ones)."""
    assert type(one) is type(two), where
    if isinstance(one, dict):
        assert list(one) == list(two), where
        for key in one:
            assert_close(one[key], two[key], f"{where}/{key}", rel)
    elif isinstance(one, list):
        assert len(one) == len(two), where
        for i, (a, b) in enumerate(zip(one, two, strict=True)):
            assert_close(a, b, f"{where}[{i}]", rel)
    elif isinstance(one, float):
        assert math.isclose(one, two, rel_tol=rel, abs_tol=1e-6), (where, one, two)
    else:
        assert one == two, (where, one, two)


def assert_same_run(one: Path, two: Path, rel: float = 1e-5) -> None:
    """Metrics (to `rel`), trees, evaluations and trained weights of two run folders."""
    assert_close(read_jsonl(one / "metrics.jsonl"), read_jsonl(two / "metrics.jsonl"), rel=rel)
    # Advantages of trees are z-scores of rewards that agree in three digits, which brings rounding forward.
    assert_close(read_jsonl(one / "trees.jsonl"), read_jsonl(two / "trees.jsonl"), rel=1e-4)
    rows = [[{**row, "seconds": 0} for row in read_jsonl(run / "eval.jsonl")] for run in (one, two)]
    assert_close(*rows)
    a, b = (load_file(next((run / "adapter").rglob("*.safetensors"))) for run in (one, two))
    assert a.keys() == b.keys()
    assert max((a[name] - b[name]).abs().max().item() for name in a) < 1e-6
    assert max(tensor.abs().max().item() for tensor in a.values()) > 1e-4


def launcher_environment(config: Path) -> dict[str, str]:
    """What `accelerate launch --config_file` sets for the processes that it starts."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import (
        prepare_deepspeed_cmd_env,
        prepare_multi_gpu_env,
        prepare_simple_launcher_cmd_env,
    )

    arguments = ["--config_file", str(config), "--main_process_ip", "127.0.0.1", "-m", "flowgrpo", "train", "RECIPE"]
    chosen, defaults, _ = _validate_launch_command(launch_command_parser().parse_args(arguments))
    if chosen.use_deepspeed:
        chosen.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
        return dict(prepare_deepspeed_cmd_env(chosen)[1])
    if chosen.use_fsdp or chosen.multi_gpu:
        return dict(prepare_multi_gpu_env(chosen))
    return dict(prepare_simple_launcher_cmd_env(chosen)[1])
