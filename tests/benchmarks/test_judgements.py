"""Asking a judge: what is kept, what is asked again, and that no failure becomes a zero."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from flowgrpo.benchmarks.judgements import FAILURES_IN_A_ROW, judge_pictures, read_answers
from flowgrpo.benchmarks.judges import Answer, Judge, ask_whether_right, checked, load_judge, refuse_scorer, verdict
from flowgrpo.benchmarks.tasks import Point, Task, Track
from flowgrpo.errors import RunError, UsageError
from reward_models.scorer import Scorer
from reward_models.scores import Scores, as_scores
from tests.benchmarks.bench_files import track, write_pictures

HELD = track([["Style", "Attribute - Color"], ["Style"], ["Attribute - Color"]])
SAMPLES = 2


def fake(answer: Callable[[int], Answer], asked: list[int] | None = None, **card: Any) -> Judge:
    """A judge that answers by the index of the task and notes whom it was asked about."""

    def ask(task: Task, picture: Tensor) -> Answer:
        if asked is not None:
            asked.append(task.index)
        return answer(len(task.points))

    return Judge("fake", "1", ask, **card)


def yes(points: int) -> Answer:
    return Answer((True,) * points, ("seen",) * points)


@pytest.fixture
def pictures(tmp_path: Path) -> dict[tuple[int, int], Path]:
    return write_pictures(tmp_path / "images", HELD, SAMPLES)


def test_every_picture_is_asked_about_once_and_answers_come_back(pictures, tmp_path: Path) -> None:
    asked: list[int] = []
    file, seen = tmp_path / "a.jsonl", []
    judge_pictures(HELD, pictures, fake(yes, asked), file, workers=3, progress=lambda *done: seen.append(done))
    assert sorted(asked) == [0, 0, 1, 1, 2, 2] and seen[-1] == (6, 6)
    found = read_answers(HELD, pictures, [file])
    assert found == {place: yes(len(HELD.tasks[place[0]].points)) for place in pictures}
    judge_pictures(HELD, pictures, fake(yes, asked), file)
    assert len(asked) == 6


def test_an_interruption_anywhere_leaves_the_same_table(pictures, tmp_path: Path) -> None:
    """The file is cut inside, before and after lines; the next call asks only about what is lost."""
    whole = tmp_path / "whole.jsonl"
    judge_pictures(HELD, pictures, fake(yes), whole)
    want, content = read_answers(HELD, pictures, [whole]), whole.read_bytes()
    before_line_feed = content.index(b"\n")
    for cut in [*range(0, len(content), 97), before_line_feed, before_line_feed + 1]:
        part, asked = tmp_path / "part.jsonl", []
        part.write_bytes(content[:cut])
        judge_pictures(HELD, pictures, fake(yes, asked), part)
        assert len(asked) == 6 - content[:cut].count(b"\n")
        assert read_answers(HELD, pictures, [part]) == want


def test_failures_are_kept_apart_and_asked_again(pictures, tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"

    def broken(points: int) -> Answer:
        if points == 2:
            raise TimeoutError("the server hangs")
        return yes(points)

    judge_pictures(HELD, pictures, fake(broken), file)
    found = read_answers(HELD, pictures, [file])
    assert [found[0, k].verdicts for k in range(2)] == [(None, None)] * 2
    assert found[0, 0].error == "TimeoutError: the server hangs" and not found[0, 0].complete
    asked: list[int] = []
    judge_pictures(HELD, pictures, fake(yes, asked), file)
    assert asked == [0, 0] and all(answer.complete for answer in read_answers(HELD, pictures, [file]).values())


def test_a_later_failure_never_hides_an_answer(pictures, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    judge_pictures(HELD, pictures, fake(yes), good)
    judge_pictures(HELD, pictures, fake(lambda n: Answer((None,) * n, error="x")), bad)
    for files in ([good, bad], [bad, good]):
        assert all(answer.complete for answer in read_answers(HELD, pictures, files).values())


def test_a_picture_or_prompt_that_changes_is_asked_about_anew(pictures, tmp_path: Path) -> None:
    file, asked = tmp_path / "a.jsonl", []
    judge_pictures(HELD, pictures, fake(yes), file)
    Image.new("RGB", (4, 4), (255, 255, 255)).save(pictures[1, 0])
    tasks = (*HELD.tasks[:2], Task(2, "another prompt", HELD.tasks[2].points))
    changed = Track("en", tasks, HELD.picture)
    assert (1, 0) not in read_answers(changed, pictures, [file])
    judge_pictures(changed, pictures, fake(yes, asked), file)
    assert sorted(asked) == [1, 2, 2]


def test_a_dead_judge_stops_with_one_sentence_and_keeps_what_it_said(tmp_path: Path) -> None:
    held = track([["Style"]] * (FAILURES_IN_A_ROW + 5))
    pictures, file, left = write_pictures(tmp_path / "i", held, 1), tmp_path / "a.jsonl", iter(range(3))

    def dying(points: int) -> Answer:
        if next(left, None) is None:
            raise ConnectionError("refused")
        return yes(points)

    with pytest.raises(RunError, match=f"no valid answer on {FAILURES_IN_A_ROW} pictures in a row.*refused.*continues"):
        judge_pictures(held, pictures, fake(dying), file)
    assert sum(answer.complete for answer in read_answers(held, pictures, [file]).values()) == 3


@pytest.mark.parametrize("safe, most", [(True, 2), (False, 1)])
def test_no_more_questions_at_once_than_asked_for_and_one_where_threads_clash(
    pictures, tmp_path: Path, safe: bool, most: int
) -> None:
    running, high, lock = 0, 0, threading.Lock()

    def count(points: int) -> Answer:
        nonlocal running, high
        with lock:
            running += 1
            high = max(high, running)
        time.sleep(0.02)
        with lock:
            running -= 1
        return yes(points)

    judge_pictures(HELD, pictures, fake(count, thread_safe=safe), tmp_path / "a.jsonl", workers=2)
    assert high == most


@pytest.mark.parametrize("said, means", [(1, True), (0.0, False), (" Yes", True), ("no", False), (True, True)])
def test_verdicts(said: Any, means: bool) -> None:
    assert verdict(said) is means


@pytest.mark.parametrize("said", [None, 0.5, 2, "maybe", "invalid", float("nan"), [1], {}])
def test_anything_else_is_invalid(said: Any) -> None:
    assert verdict(said) is None


def test_a_wrong_number_of_verdicts_is_no_answer() -> None:
    answer = checked(Answer((True,)), HELD.tasks[0])
    assert answer.verdicts == (None, None) and answer.error == "1 verdicts for 2 test points"
    assert checked(Answer((True, None)), HELD.tasks[0]).error == "no valid verdict on Attribute - Color"


def test_a_users_function_is_a_judge(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def judge(prompt, picture, points, low=0):\n    return [p.cue > 'cue B' or low for p in points]\n")
    judge = load_judge(f"{file}:judge", refuse_scorer, device="cpu", options={})
    assert judge.ask(HELD.tasks[0], torch.zeros(3, 4, 4)).verdicts == (True, False)
    other = load_judge(f"{file}:judge", refuse_scorer, device="cpu", options={"low": 1})
    assert other.ask(HELD.tasks[0], torch.zeros(3, 4, 4)).verdicts == (True, True) and other.key != judge.key


def test_wrong_judges_are_refused() -> None:
    with pytest.raises(UsageError, match=r"--judge gould: unknown scorer 'gould' \(did you mean 'gold'\?\)"):
        load_judge("gould", refuse_scorer, device="cpu", options={})
    with pytest.raises(UsageError, match=r"--judge gold: .*unexpected keyword argument 'x'"):
        load_judge("gold", refuse_scorer, device="cpu", options={"x": 1})
    judge = load_judge("gold_strict", refuse_scorer, device="cpu", options={})
    with pytest.raises(UsageError, match="a scorer does not answer test points"):
        judge.ask(HELD.tasks[0], torch.zeros(3, 64, 64))


def scorer(value: float, **components: float) -> Scorer:
    def function(images: Tensor, prompts: list[str], metadata: list[Any]) -> Scores:
        named = {name: torch.tensor([number]) for name, number in components.items()}
        return as_scores(torch.tensor([value]), components=named, errors={0: "no detector"})

    return Scorer(name="s", version="1", function=function, components=tuple(components))


def test_geneval_takes_the_benchmarks_rule_before_the_score() -> None:
    task, picture = Task(0, "p", (Point("colors"),)), torch.zeros(3, 4, 4)
    assert ask_whether_right(scorer(0.3, lenient=1.0), task, picture).verdicts == (True,)
    assert ask_whether_right(scorer(0.0), task, picture).verdicts == (False,)
    assert ask_whether_right(scorer(0.3), task, picture).verdicts == (None,)
    failed = ask_whether_right(scorer(float("nan")), task, picture)
    assert failed.verdicts == (None,) and failed.error == "no detector"
