"""What models of real size take on one GPU: time, share of the peak, kernels, memory, and what recipes come to.

    python -m scripts.bench_gpu                     all sections, under 8 minutes
    python -m scripts.bench_gpu --sections llada-8b --again
    python -m scripts.bench_gpu --tiny              toy sizes on the CPU, in seconds: does the script work?

Weights are random. Each section is added to the JSON file when it is done, with device, versions and commit; sections
that the file holds for this device are not repeated. A section that cannot run here (a library is missing, memory or
time is short) is printed as missing, with the reason. The language model needs torch alone.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.util
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from scripts.benchmarks import add, held, where
from scripts.gpu_measures import GIB, Missing, Row, Setting, device_name, matmul_ceiling

FLOW_NEEDS = ("diffusers", "peft", "pydantic", "yaml")


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the benchmark.

    Attributes:
        home: "module:function" of Setting -> what was measured; imported when it runs.
        needs: packages beside torch.
        seconds: what it may take on one GPU; it is not begun with less time left.
    """

    home: str
    needs: tuple[str, ...]
    seconds: float


SECTIONS: dict[str, Section] = {
    "sd3.5-medium": Section("scripts.gpu_flow:sd35_medium", FLOW_NEEDS, 110),
    "llada-8b": Section("scripts.gpu_masked:masked", (), 110),
    "flux.1-dev": Section("scripts.gpu_flow:flux_1", FLOW_NEEDS, 140),
    "attention": Section("scripts.gpu_flow:attention", (*FLOW_NEEDS, "xformers"), 60),
}


def main(words: Sequence[str] | None = None) -> None:
    """Run what is missing, then print the table."""
    args = _arguments(words)
    device = "cuda" if torch.cuda.is_available() and not args.tiny else "cpu"
    reasons: dict[str, str] = {}
    if not args.table:
        if device == "cpu" and not args.tiny:
            raise SystemExit("bench_gpu needs a CUDA device; --tiny runs everything at toy size on the CPU")
        reasons = run(args, Setting(device, args.tiny))
    print(table(held(args.out), args.sections, device_name(device), args.tiny, reasons))


def run(args: argparse.Namespace, setting: Setting) -> dict[str, str]:
    """Measure the sections that the file lacks; why others could not be."""
    start, reasons = time.monotonic(), {}
    ceiling = matmul_ceiling(setting)
    setting = replace(setting, ceiling=ceiling["flops"])
    name = device_name(setting.device)
    for key in args.sections:
        if not args.again and find(held(args.out), key, name, setting.tiny) is not None:
            continue
        left = 60 * args.minutes - (time.monotonic() - start)
        began = time.monotonic()
        try:
            measured = measure(SECTIONS[key], setting, left)
        except Missing as reason:
            reasons[key] = str(reason)
            continue
        facts = {"section": key, "device": name, "tiny": setting.tiny, "took": time.monotonic() - began}
        add(args.out, {**facts, "matmul": ceiling, **measured, **where()})
    return reasons


def measure(section: Section, setting: Setting, left: float) -> Row:
    """What a section measures.

    Args:
        section: which one.
        setting: device and size.
        left: seconds until the benchmark must have ended.

    Raises:
        Missing: a package is not there, time or memory is too short.
    """
    absent = [name for name in section.needs if not _installed(name)]
    if absent:
        raise Missing(f"not installed here: {', '.join(absent)}")
    if not setting.tiny and left < section.seconds:
        raise Missing(f"it may take {section.seconds:g} s and {max(0.0, left):.0f} s are left of --minutes")
    module, _, function = section.home.partition(":")
    gc.collect()  # the section before has let go of its networks, some of them in cycles
    try:
        return getattr(importlib.import_module(module), function)(setting)
    except torch.OutOfMemoryError as error:
        total = torch.cuda.get_device_properties(0).total_memory / GIB
        raise Missing(f"out of memory on a device of {total:.0f} GiB") from error
    finally:
        if setting.device == "cuda":
            torch.cuda.empty_cache()


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # a module that was put aside by hand has no spec
        return False


def find(rows: Sequence[Row], section: str, device: str, tiny: bool) -> Row | None:
    """The newest measurement of a section on a device."""
    wanted = (section, device, tiny)
    return next((row for row in reversed(rows) if (row["section"], row["device"], row["tiny"]) == wanted), None)


def table(rows: Sequence[Row], sections: Sequence[str], device: str, tiny: bool, reasons: dict[str, str]) -> str:
    """Every section's phases and recipes; sections without a measurement are missing, with the reason if known."""
    lines = [f"{device}{', toy sizes' if tiny else ''}"]
    for name in sections:
        row = find(rows, name, device, tiny)
        if row is None:
            lines += ["", f"{name}: missing ({reasons.get(name, 'not measured yet')})"]
        else:
            lines += ["", _head(name, row), *_body(row)]
    return "\n".join(lines)


def _head(name: str, row: Row) -> str:
    size = f", {row['parameters'] / 1e9:.2f} B parameters" if "parameters" in row else ""
    return f"{name}{size}, {row['took']:.0f} s; matrix product {row['matmul']['flops'] / 1e12:.3g} TFLOP/s"


def _body(row: Row) -> Iterator[str]:
    phases = row["phases"]
    if "log_ratio_gap" in row:
        verdict = "within" if row["within"] else "BEYOND"
        yield f"  largest |log ratio| {row['log_ratio_gap']:.2e}, {verdict} {row['tolerance']:.0e}"
        phases = [{**phase, "phase": f"{kind}: {phase['phase']}"} for kind, held in phases.items() for phase in held]
    yield f"  {'phase':38s} rows   seconds  samples/s   TFLOP/s     MFU  in kernels  peak GiB"
    for phase in phases:
        yield (
            f"  {phase['phase']:38s} {phase['rows']:4d} {phase['seconds']:9.4f} {phase['rows_per_second']:10.3f} "
            f"{phase['tflops']:9.3g} {_percent(phase['mfu'])}  {_percent(phase['kernel_share']):>10s} "
            f"{_number(phase['peak_gib'])}"
        )
    yield from _recipes(row.get("recipes", []))


def _recipes(recipes: Sequence[Row]) -> Iterator[str]:
    """What was put together from the phases; not run as a whole."""
    for found in recipes:
        forwards = ""
        if "trained_per_sample" in found:
            forwards = (
                f"sampled {found['sampled_per_sample']:6.2f}, trained {found['trained_per_sample']:6.2f}, without "
                f"gradient {found['without_gradient_per_sample']:6.2f} forwards a sample; "
            )
        yield f"  {found['recipe']:22s} {forwards}{found['samples_per_second']:.4g} samples/s, computed from the phases"


def _percent(share: float | None) -> str:
    return "missing" if share is None else f"{100 * share:6.1f}%"


def _number(value: float | None) -> str:
    return f"{'missing':>9s}" if value is None else f"{value:9.2f}"


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("assets/benchmarks/gpu.json"))
    parser.add_argument("--sections", nargs="*", default=list(SECTIONS), choices=list(SECTIONS), metavar="NAME")
    parser.add_argument("--minutes", type=float, default=8.0, help="no section begins that may end later")
    parser.add_argument("--tiny", action="store_true", help="toy sizes on the CPU")
    parser.add_argument("--again", action="store_true", help="measure sections that the file already holds")
    parser.add_argument("--table", action="store_true", help="print what is there and run nothing")
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
