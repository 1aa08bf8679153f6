"""Answers on disk: one line per picture, written as they come, so that a judging continues after any interruption.

A line holds a digest of the picture and of what was asked: a picture that is drawn again, or a prompt that changes, is
asked about anew. Pictures without a complete answer are asked about again by the next call; the last line counts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

from flowgrpo.benchmarks.judges import Answer, Judge
from flowgrpo.benchmarks.tasks import Task, Track
from flowgrpo.errors import FlowgrpoError, RunError, first_line
from flowgrpo.runfolder import append_jsonl, read_jsonl
from flowgrpo.scoring import read_picture
from reward_models.cost import Cost, total

FAILURES_IN_A_ROW = 20
"""After so many pictures without a complete answer a judge is taken for dead."""

Place = tuple[int, int]
"""(index of the task, sample)."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One picture that is to be judged."""

    task: Task
    sample: int
    picture: Path
    key: str


def judge_pictures(
    track: Track,
    pictures: Mapping[Place, Path],
    judge: Judge,
    file: Path,
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Ask about every picture that has no complete answer yet.

    Args:
        track: the tasks; those without a picture are left out.
        pictures: (index, sample) -> file.
        judge: who is asked; one that is not thread-safe is asked by one thread.
        file: JSON lines; the answers are appended.
        workers: questions that are under way at once.
        progress: called with (answered, all of this call).

    Raises: RunError: `FAILURES_IN_A_ROW` pictures in a row have got no complete answer; what was answered is kept.
    """
    append_jsonl(file, [])  # drops a line that a crash cut off, which the first answer would drop unseen
    answered = {key for key, answer in _rows(file) if answer.complete}
    todo = [asked for asked in _questions(track, pictures) if asked.key not in answered]
    tracker = _Tracker(judge.name)
    answers = _in_parallel(todo, judge, workers if judge.thread_safe else 1)
    for done, (asked, answer) in enumerate(answers, start=1):
        append_jsonl(file, [_line(asked, answer)])
        tracker.note(answer)
        progress(done, len(todo))


def read_answers(track: Track, pictures: Mapping[Place, Path], files: list[Path]) -> dict[Place, Answer]:
    """What is known about these pictures: (index, sample) -> the last complete answer, or the last of all.

    Args:
        track: the tasks.
        pictures: (index, sample) -> file; answers about other pictures are left out.
        files: of one judge, several where the work was shared out.
    """
    held: dict[str, Answer] = {}
    for file in files:
        _keep(held, _rows(file))
    return {(q.task.index, q.sample): held[q.key] for q in _questions(track, pictures) if q.key in held}


def cost_of(files: Iterable[Path]) -> Cost:
    """What all answers in these files took, those that later ones replaced among them."""
    return total(Cost(**row["cost"]) for file in files for row in read_jsonl(file) if "cost" in row)


def question_key(task: Task, picture: bytes) -> str:
    """Digest of a picture file and of what is asked about it."""
    asked = [task.index, task.prompt, [[point.name, point.cue] for point in task.points]]
    return hashlib.sha256(json.dumps(asked).encode() + b"\0" + picture).hexdigest()[:32]


def _questions(track: Track, pictures: Mapping[Place, Path]) -> Iterator[Asked]:
    tasks = {task.index: task for task in track.tasks}
    for (index, sample), path in sorted(pictures.items()):
        if index in tasks:
            yield Asked(tasks[index], sample, path, question_key(tasks[index], path.read_bytes()))


def _rows(file: Path) -> Iterator[tuple[str, Answer]]:
    for row in read_jsonl(file):
        yield row["key"], Answer(tuple(row["verdicts"]), tuple(row["reasons"]), row["error"])


def _keep(held: dict[str, Answer], answers: Iterable[tuple[str, Answer]]) -> None:
    """Later answers replace earlier ones, but an incomplete one never a complete one."""
    for key, answer in answers:
        if answer.complete or key not in held or not held[key].complete:
            held[key] = answer


def _line(asked: Asked, answer: Answer) -> dict[str, object]:
    return {
        "index": asked.task.index,
        "sample": asked.sample,
        "key": asked.key,
        "verdicts": answer.verdicts,
        "reasons": answer.reasons,
        "error": answer.error,
        **({"cost": asdict(answer.cost)} if answer.cost else {}),
    }


@dataclass(slots=True)
class _Tracker:
    """Counts failures in a row."""

    judge: str
    row: list[str] = field(default_factory=list)

    def note(self, answer: Answer) -> None:
        self.row = [] if answer.complete else [*self.row, answer.error]
        if len(self.row) >= FAILURES_IN_A_ROW:
            raise RunError(
                f"judge {self.judge!r} gave no valid answer on {FAILURES_IN_A_ROW} pictures in a row, the last time: "
                f"{self.row[-1]}; earlier answers are kept, and the same command continues"
            )


def _in_parallel(todo: list[Asked], judge: Judge, workers: int) -> Iterator[tuple[Asked, Answer]]:
    """Answers as they come; hardly more questions are submitted than are asked at once: pictures do not pile up."""
    left = iter(todo)
    pool = ThreadPoolExecutor(max_workers=max(1, workers), thread_name_prefix="judge")
    running: dict[Future[Answer], Asked] = {}
    try:
        while True:
            for asked in islice(left, 2 * workers - len(running)):
                running[pool.submit(_ask, judge, asked)] = asked
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _ask(judge: Judge, asked: Asked) -> Answer:
    """The answer, or what went wrong; errors of ours mean that the judge is used wrongly, and stop everything."""
    try:
        return judge.ask(asked.task, read_picture(asked.picture))
    except FlowgrpoError:
        raise
    except Exception as error:
        text = f"{type(error).__name__}: {first_line(error)}"
        return Answer((None,) * len(asked.task.points), error=text)
