"""Values through math-verify: equal ones are right however written, and what it cannot finish or find stops nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from reward_models import ScorerError, load
from reward_models.tasks import math_library, verify
from reward_models.tasks.expressions import LONGEST
from reward_models.tasks.math_library import Comparer

ENDLESS = r"9^{9^{9^9}}"


@pytest.fixture(scope="module")
def comparer() -> Iterator[Comparer]:
    one = Comparer(seconds=1.0)
    yield one
    one.close()


def strict(answer: str, gold: str) -> float:
    verdict = verify(f"so \\boxed{{{answer}}}", {"task": "math", "answer": gold, "tagged": True})
    assert verdict.partial == (verdict.strict or 0.1)
    return verdict.strict


SAME = [
    ("0.5", "1/2"),
    (r"\frac{2}{4}", "0.5"),
    ("10/2", "5"),
    (r"$\sqrt{8}$", r"2\sqrt 2"),
    ("1+x", "x+1"),
    ("x^2+2x+1", "(x+1)^2"),
    ("2, 1", "1,2"),
    (r"\{2,1\}", r"\{1,2\}"),
    ("(1, 2.0, 3)", "(1,2,3)"),
    (r"[3,\infty)\cup(-\infty,2]", r"(-\infty,2]\cup[3,\infty)"),
    ("3<x", "x>3"),
    ("y=1+2x", "y=2x+1"),
    ("0.333333", "1/3"),
]
DIFFERENT = [
    ("1/3", "1/2"),
    ("(2,1)", "(1,2)"),
    ("(3,2,1)", "(1,2,3)"),
    ("[0,1]", "[0,1)"),
    ("5,6", "5"),
    ("$6$ or $5$", "5"),
    (r"\{1,2,3\}", r"\{1,2\}"),
    ("x+2", "x+1"),
    ("0.33", "1/3"),
    ("}{", "5"),
    ("\udc80\0", "5"),
]


def test_equal_values_are_right_and_others_wrong() -> None:
    assert [pair for pair in SAME if strict(*pair) != 1] == []
    assert [pair for pair in DIFFERENT if strict(*pair) != 0] == []


def test_what_never_ends_is_given_up_and_the_next_question_answered(comparer: Comparer) -> None:
    assert not comparer.same("5", ENDLESS)
    assert comparer.same("5", "10/2")


def test_a_child_that_was_killed_is_replaced(comparer: Comparer) -> None:
    assert comparer.same("5", "10/2") and comparer._child is not None
    os.kill(comparer._child.pid, signal.SIGKILL)
    comparer._child.wait()
    assert comparer.same("5", "15/3")


def test_threads_get_their_own_answers(comparer: Comparer) -> None:
    found: dict[int, bool] = {}

    def ask(i: int) -> None:
        found[i] = comparer.same(str(i // 2), f"{i}/2")

    threads = [Thread(target=ask, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: i % 2 == 0 for i in range(16)}


def test_equal_spellings_and_long_answers_start_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(math_library, "_start", lambda: pytest.fail("a process was started"))
    monkeypatch.setattr(math_library, "COMPARER", Comparer())
    assert strict(r"\dfrac12", "1/2") == 1 and strict("1+" * LONGEST + "1", "2") == 0


def replace_library(monkeypatch: pytest.MonkeyPatch, folder: Path, code: str) -> None:
    """Put a math_verify first on the paths that the child is given."""
    (folder / "math_verify.py").write_text(code)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(math_library, "COMPARER", Comparer())


def test_nothing_of_the_environment_goes_along(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("A_TOKEN", "secret")
    replace_library(monkeypatch, tmp_path, "import os; raise RuntimeError(os.environ.get('A_TOKEN', 'no token'))")
    with pytest.raises(ScorerError, match="RuntimeError: no token"):
        strict("3/21", "1/7")


def test_a_missing_library_is_an_error_that_names_the_extra_and_no_zero(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    replace_library(monkeypatch, tmp_path, "import a_library_that_is_missing as parse")
    row = {"task": "math", "answer": "1/7", "tagged": False}
    with pytest.raises(ScorerError, match=r"No module named 'a_library_.*pip install 'flowgrpo\[math\]'"):
        load("task")(["2/14"], ["p"], [row])
    assert load("task")(["1/7"], ["p"], [row]).scores.tolist() == [1.0]
