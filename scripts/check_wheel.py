"""Build the wheel, install it in empty environments outside the repository, and use it there.

    python scripts/check_wheel.py                 packages that the wheel needs are borrowed from this environment
    python scripts/check_wheel.py --install       they are fetched (gigabytes)

First environment: torch and what torch itself needs, where `samplers` must import and draw. Second: everything, where
`flowgrpo train demo` runs two iterations. In both, the repository is on no path. Prints what it did; exit code 1 if
anything failed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OURS = ("samplers", "reward_models", "flowgrpo")
ABSENT = ("diffusers", "transformers", "peft", "accelerate", "open_clip", "PIL", "pydantic", "yaml")
"""What the first environment must not have."""
DRAW = f"""
import importlib.util, sys
assert not [name for name in {ABSENT!r} if importlib.util.find_spec(name)], "more than torch is here"
import torch, samplers
from samplers import plans, sample_flow
sigmas = (1.0, 0.7, 0.4, 0.0)
noise = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
drawn = sample_flow(lambda x, sigma, rows: x, noise, plans.all_steps(sigmas), kernel="cps", eta=0.5, keys=[(0,), (1,)])
assert drawn.samples.shape == (2, 3, 4, 4) and bool(drawn.samples.isfinite().all())
print(samplers.__file__)
"""
TRAIN = (
    *("train", "demo", "--train.iterations", "2", "--train.prompts_per_iteration", "2", "--train.group_size", "2"),
    *("--sampler.steps", "4", "--sampler.window_low", "0", "--sampler.window_width", "2", "--data.limit", "4"),
    *("--eval.prompts", "{}", "--run.images", "2", "--run.dir", "run", "--run.device", "cpu"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Both environments, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--install", action="store_true", help="fetch dependencies in place of borrowing them")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            wheel = build(folder, isolated=options.install)
            report(wheel)
            check_samplers(folder, wheel, install=options.install)
            check_training(folder, wheel, install=options.install)
        except (subprocess.CalledProcessError, AssertionError) as error:
            print(f"failed: {error}\n{getattr(error, 'stdout', '') or ''}{getattr(error, 'stderr', '') or ''}")
            return 1
    print("the wheel is complete")
    return 0


def build(folder: Path, *, isolated: bool) -> Path:
    """The wheel of the tracked files, built from a copy, so that nothing untracked goes in."""
    source = folder / "source"
    for path in said("git", "ls-files", cwd=ROOT).splitlines():
        target = source / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, target)
    plain = () if isolated else ("--no-build-isolation",)
    said(sys.executable, "-m", "pip", "wheel", "--no-deps", *plain, "--wheel-dir", str(folder), str(source))
    shutil.rmtree(source)
    (wheel,) = folder.glob("*.whl")
    return wheel


def report(wheel: Path) -> None:
    """Name and size, and that it holds our packages alone."""
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}
    assert {part for part in top if not part.endswith(".dist-info")} == set(OURS), f"the wheel holds {sorted(top)}"
    print(f"{wheel.name}: {wheel.stat().st_size / 2**20:.1f} MiB, {len(names)} files")


def check_samplers(folder: Path, wheel: Path, *, install: bool) -> None:
    """`samplers` beside torch alone."""
    python = environment(folder / "torch-alone")
    if install:
        said(*pip(python), "install", "torch")
    else:
        for name in sorted(needs("torch")):
            borrow(name, site_of(python))
    said(*pip(python), "install", "--no-deps", "--no-index", str(wheel))
    where = said(str(python), "-c", DRAW, cwd=folder).strip()
    assert Path(where).is_relative_to(site_of(python)), where
    print("samplers imports and draws beside torch alone")


def check_training(folder: Path, wheel: Path, *, install: bool) -> None:
    """The command, from its own folder of the environment."""
    python, start = environment(folder / "whole"), time.monotonic()
    if install:
        said(*pip(python), "install", str(wheel))
    else:
        said(*pip(python), "install", "--no-deps", "--no-index", str(wheel))
        borrowed = {str(Path(str(distribution(name).locate_file("")))) for name in ("torch", "diffusers")}
        (site_of(python) / "borrowed.pth").write_text("\n".join(borrowed) + "\n", encoding="utf-8")
    command = str(python.parent / "flowgrpo")
    for package in OURS:
        found = said(str(python), "-c", f"import {package}; print({package}.__file__)", cwd=folder).strip()
        assert Path(found).is_relative_to(site_of(python)), f"{package} comes from {found}"
    assert "embedded model" in said(command, "env", cwd=folder)
    said(command, *TRAIN, cwd=folder)
    left = {path.name for path in (folder / "run").iterdir()}
    assert {"adapter", "checkpoints", "metrics.jsonl", "report.html"} <= left, f"the run left {sorted(left)}"
    assert len((folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()) == 2
    print(f"flowgrpo train demo runs from the wheel: two iterations, {time.monotonic() - start:.0f} s with everything")


def environment(folder: Path) -> Path:
    """The interpreter of a new environment that holds nothing."""
    said(sys.executable, "-m", "venv", "--without-pip", str(folder))
    return folder / "bin" / "python"


def pip(python: Path) -> tuple[str, ...]:
    return (sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check")


def site_of(python: Path) -> Path:
    return next((python.parent.parent / "lib").glob("python*/site-packages")).resolve()


def needs(name: str) -> set[str]:
    """An installed distribution and everything installed that it requires, extras left out."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        current = waiting.pop()
        try:
            requires = distribution(current).requires or []
        except PackageNotFoundError:  # of another platform
            continue
        if current not in found:
            found.add(current)
            waiting += [re.split(r"[\s<>=!~;\[(]", text)[0] for text in requires if "extra ==" not in text]
    return found


def borrow(name: str, site: Path) -> None:
    """Links to what a distribution of this environment has in its site-packages."""
    held = distribution(name)
    tops = {file.parts[0] for file in held.files or () if file.parts[0] not in ("..", "__pycache__")}
    for top in tops:
        target = site / top
        if not target.exists():
            target.symlink_to(Path(str(held.locate_file(top))))


def said(*words: str, cwd: Path | None = None) -> str:
    """Output of a command that must succeed, in an environment without our paths."""
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    return subprocess.run(words, cwd=cwd, env=clean, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    sys.exit(main())
