"""A benchmark that is killed while it draws and judges, and continued, gives the results of one that was left alone."""

from __future__ import annotations

from pathlib import Path

from scripts.drill_unigenbench import EMBEDDED, drill


def test_killed_and_continued_equals_left_alone(tmp_path: Path) -> None:
    found = drill(tmp_path / "drill", data=EMBEDDED, prompts=10, samples=1, kills=1, steps=2, workers=2, seed=0)
    assert found["moments"] == [13], "ten pictures and three answers"
    assert found["equal"] and found["kills"] == 1, found
    assert found["questions"] == 10 and found["questions_never_asked"] == 0
    assert found["questions_asked_twice"] <= found["most_that_may_be"] == 2
