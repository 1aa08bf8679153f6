"""A pool of threads that never keeps the interpreter from ending: what they run may hang for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any

Job = tuple[Future[Any], Callable[[], Any]]


class DaemonPool:
    """Runs jobs in the order in which they come. Threads start when there is something for them to do.

    `concurrent.futures` joins its threads when Python ends, so a run that failed because of a scorer that hangs would
    say so and stay.

    Args:
        workers: jobs at once, at least 1.
        name: of the threads.
    """

    def __init__(self, workers: int, *, name: str) -> None:
        self._workers, self._name = workers, name
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._stopped = False

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """Queue a call; the future has its result or its exception.

        Raises: RuntimeError: the pool was stopped.
        """
        if self._stopped:
            raise RuntimeError("a pool that was stopped takes no jobs")
        future: Future[Any] = Future()
        self._jobs.put((future, lambda: function(*args)))
        if len(self._threads) < self._workers:
            thread = threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        return future

    def stop(self) -> None:
        """Cancel what has not begun and let the threads end after what they are doing; waits for nothing."""
        self._stopped = True
        try:
            while (job := self._jobs.get_nowait()) is not None:
                job[0].cancel()
        except Empty:
            pass
        for _ in self._threads:
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, call = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)
