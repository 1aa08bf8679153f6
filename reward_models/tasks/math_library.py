"""math-verify in a process of its own: sympy can compute for ever, and only a process can be stopped anywhere."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from reward_models.tasks.expressions import LONGEST

WORKER = Path(__file__).with_name("math_worker.py")
SECONDS = 5.0
"""Processor time of a question."""
PATIENCE = 4
"""A question may take so many times its seconds on the clock, for machines that do other work."""
START_SECONDS = 120.0
"""For importing the library."""
KEPT = ("PATH", "HOME", "LD_LIBRARY_PATH", "PYTHONHOME", "SYSTEMROOT", "VIRTUAL_ENV")
"""Of the environment, what Python may need to start; no key or token goes along."""


class Comparer:
    """Asks one child process, which is started at the first question and anew after one that it did not survive.

    Safe for threads, which wait for each other. The child ends with this process.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        """Nothing is started yet.

        Args:
            seconds: of processor time, after which a question is given up.
        """
        self._seconds = seconds
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None
        atexit.register(self.close)

    def same(self, gold: str, answer: str) -> bool:
        """Whether the library finds two expressions equal; False where it cannot tell within its bounds.

        Args:
            gold: the right answer, in LaTeX without dollars.
            answer: what is judged; more than `LONGEST` characters are not read.

        Raises:
            ScorerError: the library is not installed or does not start.
        """
        if len(answer) > LONGEST:
            return False
        with self._lock:
            child = self._running()
            question = {"gold": gold, "answer": answer, "seconds": self._seconds}
            said = _exchange(child, question, self._seconds * PATIENCE)
            if said is None:
                self._stop()
            return said is not None and said["same"]

    def close(self) -> None:
        """End the child; a later question starts another."""
        with self._lock:
            self._stop()

    def _running(self) -> subprocess.Popen[str]:
        if self._child is None or self._child.poll() is not None:
            self._stop()
            self._child = _start()
            said = _exchange(self._child, None, START_SECONDS)
            fault = "its process did not start" if said is None else said["fault"]
            if fault:
                self._stop()
                raise _unusable(fault)
        return self._child

    def _stop(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for stream in (child.stdin, child.stdout):
            # What was not yet written to a process that is gone is of no use to anybody.
            with suppress(OSError):
                if stream is not None:
                    stream.close()


def _start() -> subprocess.Popen[str]:
    """Python with this process's paths and little else of it; hashes are the same in each."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        # By path and without its folder on sys.path, where code.py would hide the standard library's.
        [sys.executable, "-P", str(WORKER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
        env={**kept, "PYTHONPATH": paths, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def _exchange(child: subprocess.Popen[str], question: dict[str, Any] | None, seconds: float) -> dict[str, Any] | None:
    """The child's next line, after a question where there is one; None where it died or the time ran out."""
    late = threading.Event()

    def give_up() -> None:
        late.set()
        child.kill()

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        assert child.stdin is not None and child.stdout is not None
        if question is not None:
            child.stdin.write(json.dumps(question) + "\n")
            child.stdin.flush()
        line = child.stdout.readline()
    except OSError:
        return None
    finally:
        timer.cancel()
        timer.join()
    return json.loads(line) if line.endswith("\n") and not late.is_set() else None


def _unusable(fault: str) -> Exception:
    # Scores need torch, which verifiers do without.
    from reward_models.scores import ScorerError

    return ScorerError(
        f"answers of the task 'math' are compared by math-verify, which cannot be used ({fault}); right would be "
        "pip install 'flowgrpo[math]'"
    )


COMPARER = Comparer()


@lru_cache(maxsize=1 << 14)
def same_value(gold: str, answer: str) -> bool:
    """As `Comparer.same`, by the one child of this process; a pair is asked once, for groups repeat their answers."""
    return COMPARER.same(gold, answer)


def library_version() -> str:
    """Of math-verify and what it reads LaTeX with, "none" where it is not installed."""
    try:
        return " ".join(metadata.version(name) for name in ("math-verify", "latex2sympy2-extended", "sympy"))
    except metadata.PackageNotFoundError:
        return "none"
