"""Threads for what may hang: order, errors, and a Python that ends although they do not."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from flowgrpo.daemons import DaemonPool


def test_jobs_run_in_order_and_their_results_and_errors_arrive() -> None:
    pool, seen = DaemonPool(1, name="t"), []
    futures = [pool.submit(lambda i=i: seen.append(i) or i * i) for i in range(5)]
    assert [future.result(10) for future in futures] == [0, 1, 4, 9, 16] and seen == list(range(5))
    with pytest.raises(ZeroDivisionError):
        pool.submit(lambda: 1 / 0).result(10)
    assert pool.submit(lambda: "still there").result(10) == "still there"
    pool.stop()


def test_as_many_at_once_as_there_are_workers() -> None:
    pool, together = DaemonPool(3, name="t"), threading.Barrier(3)
    assert sorted(future.result(10) for future in [pool.submit(together.wait, 10) for _ in range(3)]) == [0, 1, 2]
    pool.stop()


def test_a_stopped_pool_cancels_what_has_not_begun_and_takes_no_more() -> None:
    pool, begun, leave = DaemonPool(1, name="t"), threading.Event(), threading.Event()
    running = pool.submit(lambda: begun.set() or leave.wait(10))
    waiting = pool.submit(lambda: None)
    begun.wait(10)
    pool.stop()
    assert waiting.cancelled()
    with pytest.raises(RuntimeError, match="stopped"):
        pool.submit(lambda: None)
    leave.set()
    assert running.result(10) is True
    pool._threads[0].join(10)
    assert not pool._threads[0].is_alive()


def test_python_ends_while_a_job_hangs() -> None:
    code = """
import threading
from flowgrpo.daemons import DaemonPool
begun = threading.Event()
DaemonPool(1, name="t").submit(lambda: begun.set() or threading.Event().wait())
begun.wait()
print("said")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "said\n")
