"""Silence for libraries that talk while they load: what a user must know, we say ourselves, once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Inside, diffusers and transformers log errors only and draw no progress bars."""
    import diffusers.utils.logging
    import transformers.utils.logging

    with ExitStack() as stack:
        for log in (diffusers.utils.logging, transformers.utils.logging):
            stack.enter_context(_quiet(log))
        yield


@contextmanager
def _quiet(log: Any) -> Iterator[None]:
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()
