r"""The process that asks math-verify whether two expressions have the same value.

It is run by path, by `reward_models.tasks.math_library`, and imports nothing of this project. JSON lines: first
{"fault": text}, empty where the library is there; then, for every {"gold", "answer", "seconds"}, {"same": bool}. A
question that takes more processor time than its seconds ends the process, in whatever code it is.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

MEMORY = 2 << 30
"""Bytes of address space: towers of powers ask for more."""


def main() -> None:
    """Answer questions until standard input ends."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # What a library prints must not come between the answers.
    os.dup2(2, 1)
    try:
        same = comparer()
    except Exception as error:
        _say(out, {"fault": f"{type(error).__name__}: {error}"})
        return
    _bound_memory()
    _say(out, {"fault": ""})
    for line in sys.stdin:
        question = json.loads(line)
        _bound_time(question["seconds"])
        verdict = same(question["gold"], question["answer"])
        _bound_time(0)
        _say(out, {"same": verdict})


def comparer() -> Callable[[str, str], bool]:
    """A function (gold, answer) -> whether math-verify finds them the same; False for what it cannot read.

    Only its LaTeX is used: its other grammar evaluates text as Python.
    """
    from math_verify import LatexExtractionConfig, parse, verify

    def read(text: str) -> list[Any]:
        inside = " ".join(text.replace("$", " ").split())
        return parse(f"${inside}$", [LatexExtractionConfig()], fallback_mode="no_fallback", parsing_timeout=None)

    def same(gold: str, answer: str) -> bool:
        try:
            return bool(verify(read(gold), read(answer), timeout_seconds=None))
        except Exception:
            # sympy has an exception of every kind for nonsense, and MemoryError and RecursionError for too much.
            return False

    return same


def _bound_time(seconds: float) -> None:
    """Processor time, so that a busy machine judges as an idle one; 0 takes the bound away."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _bound_memory() -> None:
    try:
        import resource
    except ImportError:
        return
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY if hard < 0 else min(MEMORY, hard), hard))


def _say(out: Any, message: dict[str, Any]) -> None:
    out.write(json.dumps(message) + "\n")
    out.flush()


if __name__ == "__main__":
    main()
