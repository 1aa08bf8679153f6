"""Time, FLOPs, kernels and memory of a piece of work, and the matrix product that they are held against."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

Row = dict[str, Any]
GIB = 2**30


class Missing(Exception):
    """A section cannot be measured here; the message says why, in one line."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Where and at which size things are measured.

    Attributes:
        device: "cuda" or "cpu".
        tiny: toy sizes in float32, to see that the script works.
        ceiling: FLOP/s of the measured matrix product.
    """

    device: str
    tiny: bool
    ceiling: float = float("nan")

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.tiny else torch.bfloat16


@dataclass(frozen=True, slots=True)
class Phase:
    """A piece of work that can be repeated: its name, how many samples' rows it takes, and how often it is timed."""

    name: str
    run: Callable[[], object]
    rows: int
    repeats: int = 3


def measure(phase: Phase, setting: Setting) -> Row:
    """Run a phase once to warm up and to count, then timed, then once more under the profiler.

    FLOPs are those that were executed, recomputed activations among them; the profiler sees kernels alone and its time
    does not enter `seconds`. What a device does not tell is None.

    Returns:
        Row: phase, rows, seconds (median), rows_per_second, tflops per second, mfu (share of the measured ceiling),
            kernel_share (of the time: the rest is the device waiting), peak_gib (weights included).
    """
    with FlopCounterMode(display=False) as counter:
        phase.run()
    _reset_peak(setting.device)
    seconds = median(seconds_of(phase.run, setting.device) for _ in range(phase.repeats))
    peak = _peak_gib(setting.device)
    kernels = kernel_seconds(phase.run, setting.device)
    rate = counter.get_total_flops() / seconds
    return {
        "phase": phase.name,
        "rows": phase.rows,
        "seconds": seconds,
        "rows_per_second": phase.rows / seconds,
        "tflops": rate / 1e12,
        "mfu": rate / setting.ceiling,
        "kernel_share": None if kernels is None else min(1.0, kernels / seconds),
        "peak_gib": peak,
    }


def seconds_of(run: Callable[[], object], device: str) -> float:
    """Wall time until the device has finished."""
    _wait(device)
    start = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - start


def kernel_seconds(run: Callable[[], object], device: str) -> float | None:
    """Seconds that kernels and copies ran on the device; None on a CPU. One stream is taken for granted."""
    if device != "cuda":
        return None
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        run()
        _wait(device)
    # Named ranges, such as the optimizer's, appear on the device too and would count their kernels twice.
    events = (event for event in profiler.events() if event.device_type == DeviceType.CUDA)
    return sum(event.time_range.elapsed_us() for event in events if not event.is_user_annotation) / 1e6


def matmul_ceiling(setting: Setting) -> Row:
    """FLOP/s of a square matrix product on random data, the mean of ten after three to warm up."""
    size, repeats = (256, 3) if setting.tiny else (8192, 10)
    left, right = (torch.randn(size, size, device=setting.device, dtype=setting.dtype) for _ in range(2))
    seconds_of(lambda: [left @ right for _ in range(3)], setting.device)
    seconds = seconds_of(lambda: [left @ right for _ in range(repeats)], setting.device) / repeats
    return {"size": size, "dtype": str(setting.dtype).removeprefix("torch."), "flops": 2 * size**3 / seconds}


def device_name(device: str) -> str:
    """What the file calls the device."""
    return torch.cuda.get_device_name() if device == "cuda" else "cpu"


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _reset_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def _peak_gib(device: str) -> float | None:
    return torch.cuda.max_memory_allocated() / GIB if device == "cuda" else None
