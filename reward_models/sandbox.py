"""Running what a model wrote: in a process of its own that can compute and nothing else, and cannot pass its tests
otherwise than by being right.

Each test runs in a fresh pair of processes. The *candidate* has the model's code and answers questions about it; the
*judge* has the test, and no line of the model's code. See `reward_models.sandbox_child`. Both are locked up before
they see either:

- a filter of system calls (seccomp) without network, new processes and threads, signals, tracing, namespaces;
- Landlock: only the standard library can be read, only a temporary folder, removed afterwards, can be written;
- limits on wall time, processor time, memory, file size and open files; an empty environment; closed standard input;
  nothing inherited but the pipes; an own process group, which ends by SIGKILL.

Where the system lacks a part, running is refused. What is left: a candidate may guess at its own test from the
arguments that it is called with, can use its processor time to the limit, and could use faults of the kernel.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from reward_models.sandbox_child import READY, SHOWN

CHILD = Path(__file__).with_name("sandbox_child.py")
MEGABYTE = 1 << 20
Case = str | Mapping[str, str]
"""Statements that end without an exception where the code is right; or an input and the output that it must give."""


class SandboxError(RuntimeError):
    """The sandbox could not do its work; nothing is said about the code."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one test.

    Attributes:
        seconds: wall time from start to verdict; 5 is the source's (coupled-GRPO, arXiv 2506.20639, its code).
        memory_mb: address space of each process, in MiB.
        file_mb: largest file that can be written, the output of a program included, in MiB.
        open_files: at most so many at once.
        confine_files: False also runs on kernels without Landlock, where code can read what the user can read.
    """

    seconds: float = 5.0
    memory_mb: int = 512
    file_mb: int = 1
    open_files: int = 32
    confine_files: bool = True

    def __post_init__(self) -> None:
        """Raises ValueError for a limit that is not positive."""
        for name in ("seconds", "memory_mb", "file_mb", "open_files"):
            if not getattr(self, name) > 0:
                raise ValueError(f"limit {name} must be positive, got {getattr(self, name)}")

    @property
    def resources(self) -> dict[str, int]:
        """Names of resource limits -> values."""
        return {
            "CPU": int(self.seconds) + 1,
            "AS": self.memory_mb * MEGABYTE,
            "FSIZE": self.file_mb * MEGABYTE,
            "NOFILE": self.open_files,
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one test: its verdict and, unless it is passed, a reason."""

    verdict: Literal["passed", "failed", "timeout"]
    reason: str = ""


def run_cases(code: str, cases: Sequence[Case], limits: Limits | None = None, *, workers: int = 2) -> list[Outcome]:
    """Run every test of a piece of code, each in its own processes.

    Args:
        code: Python, with nothing but its standard library.
        cases: statements such as "assert f(2) == 4", or mappings with "input" and "output". In statements, names that
            are neither built in nor modules of the standard library are the code's. Arguments go over by value; of
            what comes back, only plain data (numbers, texts, lists, tuples, dicts, sets) can be compared.
        limits: of each test; defaults as in `Limits`.
        workers: tests at a time.

    Returns:
        One outcome per case.

    Raises:
        SandboxError: the system lacks a part of the sandbox, or a test is no test.
    """
    chosen = limits or Limits()
    with ThreadPoolExecutor(max(1, workers)) as pool:
        return list(pool.map(lambda case: run_case(code, case, chosen), cases))


def run_case(code: str, case: Case, limits: Limits) -> Outcome:
    """Run one test; as `run_cases`."""
    folder = Path(tempfile.mkdtemp(prefix="sandbox-"))
    try:
        for name in ("judge", "candidate"):
            (folder / name).mkdir()
        if isinstance(case, str):
            return _judged(code, case, limits, folder)
        return _compared(code, case["input"], case["output"], limits, folder)
    except OSError as error:
        raise SandboxError(f"the sandbox could not start: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _judged(code: str, test: str, limits: Limits, folder: Path) -> Outcome:
    """Candidate and judge, joined by two pipes, of which this process keeps no end."""
    (to_read, to_write), (back_read, back_write) = os.pipe(), os.pipe()
    started: list[subprocess.Popen[bytes]] = []
    try:
        started.append(_start("candidate", limits, folder, stdin=to_read, stdout=back_write))
        ends = (to_write, back_read)
        piped = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(_start("judge", limits, folder, *ends, keep=ends, **piped))
    finally:
        for end in (to_read, to_write, back_read, back_write):
            os.close(end)
        if len(started) < 2:
            _end(started)
    try:
        job = json.dumps({"code": code, "test": test}).encode()
        said, complaint = started[1].communicate(job, timeout=limits.seconds)
    except subprocess.TimeoutExpired:
        return _too_long(limits)
    finally:
        _end(started)
    return _verdict(said, complaint, started[1].returncode)


def _verdict(said: bytes, complaint: bytes, status: int) -> Outcome:
    """What the judge found; it alone has this pipe, and it ran no line of the candidate."""
    try:
        found = json.loads(said.rpartition(b"\n")[2])
    except ValueError:
        if status >= 0:
            raise SandboxError(f"the sandbox did not come up: {complaint.decode(errors='replace')[-SHOWN:]}") from None
        return Outcome("failed", f"the test ended by signal {-status}")
    if found["verdict"] == "fault":
        raise SandboxError(found["reason"])
    return Outcome(found["verdict"], found["reason"])


def _compared(code: str, given: str, wanted: str, limits: Limits, folder: Path) -> Outcome:
    """A program whose output is compared here; blanks at the ends of lines and of the text do not matter."""
    for name, text in (("code", code), ("input", given)):
        (folder / name).write_text(text, encoding="utf-8")
    with ExitStack() as files:
        source, stdin = (files.enter_context((folder / name).open("rb")) for name in ("code", "input"))
        out, err, report = (files.enter_context((folder / name).open("wb")) for name in ("output", "error", "report"))
        keep = (source.fileno(), report.fileno())
        process = _start("program", limits, folder, *keep, stdin=stdin, stdout=out, stderr=err, keep=keep)
        try:
            process.wait(timeout=limits.seconds)
        except subprocess.TimeoutExpired:
            return _too_long(limits)
        finally:
            _end([process])
    if (folder / "report").read_bytes() != READY:
        complaint = (folder / "error").read_text(errors="replace")
        raise SandboxError(f"the sandbox did not come up: {complaint[-SHOWN:]}")
    written = (folder / "output").read_bytes().decode(errors="replace")
    if _lines(written) == _lines(wanted):
        return Outcome("passed")
    return Outcome("failed", f"the output is {written[:100]!r}, right would be {wanted[:100]!r}")


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]


def _too_long(limits: Limits) -> Outcome:
    return Outcome("timeout", f"no verdict after {limits.seconds:g} s")


def _start(
    part: str,
    limits: Limits,
    folder: Path,
    *words: object,
    stdin: int | IO[bytes],
    stdout: int | IO[bytes],
    stderr: int | IO[bytes] = subprocess.DEVNULL,
    keep: tuple[int, ...] = (),
) -> subprocess.Popen[bytes]:
    """A locked-up Python without site packages, environment or anything inherited; hashes are the same in each."""
    confined = "confined" if limits.confine_files else "open"
    return subprocess.Popen(
        [sys.executable, "-P", "-s", "-S", "-B", CHILD, part, json.dumps(limits.resources), confined, *map(str, words)],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env={"PYTHONHASHSEED": "0"},
        cwd=folder / ("judge" if part == "judge" else "candidate"),
        close_fds=True,
        pass_fds=keep,
        start_new_session=True,
    )


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Kill what is left of each process group, and wait for it; nothing in one can leave it or ignore this."""
    for process in processes:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
