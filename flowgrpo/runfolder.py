"""The run folder: what a run leaves on disk, and the only module that names its files.

    recipe.json  metrics.jsonl  timing.jsonl  eval.jsonl  events.jsonl  trees.jsonl  matrices.jsonl
    images/  answers.json  eval/  checkpoints/  adapter/

`metrics.jsonl`, `trees.jsonl` and `matrices.jsonl` hold deterministic values only, so that a killed and resumed run
leaves the same files as an uninterrupted one; wall times are in `timing.jsonl`.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from flowgrpo.errors import RunError

if TYPE_CHECKING:  # GPU benchmarks run where pydantic is missing
    from flowgrpo.recipe import Recipe


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old or the new content and never a part.

    Raises: RunError: the disk is full or the folder not writable.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file; a last line cut off by a crash is left out, a missing file has no rows."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _cut_partial_line(file: BinaryIO) -> None:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 1))
    if file.read() in (b"", b"\n"):
        return
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)


def append_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append rows to a JSON-lines file, one write for all of them; a line that a crash cut off is removed first.

    Raises: RunError: the disk is full or the folder not writable.
    """
    text = "".join(json.dumps(row, allow_nan=True) + "\n" for row in rows)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+") as file:
            _cut_partial_line(file)
            file.write(text.encode())
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def full_disk_told(folder: Path) -> Iterator[None]:
    """Inside, a library that cannot write a file for want of space or leave ends the run with one sentence.

    Raises: RunError: in place of such an OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO):
            raise
        raise RunError(f"cannot write into {folder}: {error.strerror}; its checkpoints are untouched") from error


def run_folder(recipe: Recipe) -> Path:
    """Where a recipe's run is kept."""
    return Path(recipe.run.dir.format(recipe=recipe.name, seed=recipe.train.seed))


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of one run; `owned` says whether this process writes there, and not another one."""

    path: Path
    owned: bool = True

    def make(self) -> None:
        """Raises: RunError: it cannot be made."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make the run folder {self.path}: {error.strerror or error}") from error

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def timing(self) -> Path:
        return self.path / "timing.jsonl"

    @property
    def evaluations(self) -> Path:
        return self.path / "eval.jsonl"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def trees(self) -> Path:
        """Recorded trees, one row of `flowgrpo.tree_record.tree_row` each."""
        return self.path / "trees.jsonl"

    @property
    def matrices(self) -> Path:
        """Recorded pairwise comparisons of one group each: who won against whom."""
        return self.path / "matrices.jsonl"

    @property
    def images(self) -> Path:
        return self.path / "images"

    @property
    def answers(self) -> Path:
        """Answers to the same prompts before, during and after training."""
        return self.path / "answers.json"

    @property
    def samples(self) -> Path:
        """One file of per-sample scores for each evaluation, which is how an evaluation resumes."""
        return self.path / "eval"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.json"

    def event(self, kind: str, message: str) -> None:
        if not self.owned:
            return
        append_jsonl(self.events, [{"time": datetime.now(UTC).isoformat(), "kind": kind, "message": message}])

    def clear(self) -> None:
        """Drop what another run left, but for its log and its trained weights, which last until there are new ones."""
        for path in (self.metrics, self.timing, self.evaluations, self.trees, self.matrices, self.answers):
            path.unlink(missing_ok=True)
        for path in (self.images, self.samples, self.checkpoints):
            shutil.rmtree(path, ignore_errors=True)

    def flush(self) -> None:
        """Bring the rows so far to the disk, so that no checkpoint outlives them when the machine goes down."""
        for path in (self.metrics, self.timing, self.evaluations, self.trees, self.matrices):
            if path.exists():
                with open(path, "rb") as file:
                    os.fsync(file.fileno())

    def rewind(self, iteration: int) -> None:
        """Drop the rows of iterations after `iteration`: they belong to a part of the run that was lost."""
        for path in (self.metrics, self.timing, self.evaluations, self.trees, self.matrices):
            rows = [row for row in read_jsonl(path) if row["iteration"] <= iteration]
            if path.exists():
                write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows))
