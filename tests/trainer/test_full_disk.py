"""A disk that is really full: a small file system of its own, filled to the last block at random moments."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowgrpo import evaluation, rollout
from flowgrpo.errors import RunError
from flowgrpo.recipe import Recipe
from flowgrpo.trainer import Trainer
from scripts.bench_faults import content

FORK = multiprocessing.get_context("fork")
NEW_MOUNTS, NEW_USER = 0x00020000, 0x10000000
DISK_KIB = 4096
NOT_PERMITTED = 77
MOMENTS = 2


def mount_small_disk(folder: Path) -> None:
    """For this process and its children alone, as any user may who may make namespaces."""
    libc, user, group = ctypes.CDLL(None, use_errno=True), os.getuid(), os.getgid()
    if libc.unshare(NEW_USER | NEW_MOUNTS):
        os._exit(NOT_PERMITTED)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    if libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, f"size={DISK_KIB}k".encode()):
        os._exit(NOT_PERMITTED)


def fill(folder: Path, left_kib: int) -> None:
    """Leave so much of the disk."""
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    (folder / "ballast").write_bytes(bytes(max(0, free - 1024 * left_kib)))


def filled_once(rng: random.Random, disk: Path) -> Callable[[], None]:
    """A function that fills the disk at one of its first calls."""
    left, moment = rng.choice([0, 4, 16, 40]), rng.randint(1, 4)
    calls = [0]

    def look() -> None:
        calls[0] += 1
        if calls[0] == moment:
            fill(disk, left)

    return look


def before(owner: Any, name: str, look: Callable[[], None]) -> Callable[[], None]:
    """Call `look` before every call of `owner.name`; returns what takes it off again."""
    original = getattr(owner, name)

    def looked(*args: Any, **kwargs: Any) -> Any:
        look()
        return original(*args, **kwargs)

    setattr(owner, name, looked)
    return lambda: setattr(owner, name, original)


def fill_and_resume(disk: Path, seed: int, make: Callable[[Path], Recipe]) -> dict[str, bytes]:
    """What is left by a run that met a full disk, was resumed on the full disk, and again when there was room."""
    folder = disk / f"run-{seed}"
    look = filled_once(random.Random(seed), disk)
    undo = [before(owner, name, look) for owner, name in ((rollout, "sample_flow"), (evaluation, "summarise"))]
    for _ in range(2):
        with pytest.raises(RunError, match="No space left on device") as caught:
            Trainer(make(folder)).run()
        assert "\n" not in str(caught.value)
    for take_off in undo:
        take_off()
    (disk / "ballast").unlink()
    Trainer(make(folder)).run()
    return content(folder)


def test_a_full_disk_is_one_sentence_and_nothing_is_lost(
    make_recipe: Callable[..., Recipe], files: Path, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()

    def make(folder: Path) -> Recipe:
        return make_recipe(
            run__dir=str(folder),
            train__iterations=3,
            run__images=2,
            eval__prompts={"mine": str(files / "prompts.txt")},
        )

    Trainer(make(tmp_path / "whole")).run()
    whole = content(tmp_path / "whole")

    def body() -> None:
        mount_small_disk(disk)
        for seed in range(MOMENTS):
            assert fill_and_resume(disk, seed, make) == whole, seed

    child = FORK.Process(target=body)
    child.start()
    child.join()
    if child.exitcode == NOT_PERMITTED:
        pytest.skip("this system gives no namespaces")
    assert child.exitcode == 0
