"""Who answers the questions: gold on the world of shapes, a scorer by name, or a user's own function."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from flowgrpo.benchmarks.tasks import Point, Task
from flowgrpo.errors import RunError, UsageError
from flowgrpo.importing import resolve
from reward_models import Scorer, load
from reward_models.cost import FREE, Cost
from reward_models.user import source_hash

VERDICTS: Mapping[Any, bool] = {1: True, 0: False, "1": True, "0": False, "yes": True, "no": False}
"""What a judge may say (case aside; True and False are 1 and 0); anything else is invalid."""

CORRECT = ("lenient", "correct")
"""Components that hold GenEval's own rule; the first one that a scorer has counts, else its score."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a judge said about one picture.

    Attributes:
        verdicts: one per test point: met, not met, or None where there is no valid answer.
        reasons: one per test point, or none at all.
        error: why verdicts are missing.
        cost: what asking took.
    """

    verdicts: tuple[bool | None, ...]
    reasons: tuple[str, ...] = ()
    error: str = ""
    cost: Cost = FREE

    @property
    def complete(self) -> bool:
        """Whether every test point has a verdict; only such pictures count, as in the published script."""
        return bool(self.verdicts) and None not in self.verdicts


@dataclass(frozen=True, slots=True)
class Judge:
    """A name, what else the answers depend on, and the function that gives them."""

    name: str
    version: str
    ask: Callable[[Task, Tensor], Answer]
    """(task, picture [3, H, W] in [0, 1]) -> answer; may raise, which leaves the picture without an answer."""
    thread_safe: bool = True

    @property
    def key(self) -> str:
        """A file name: other versions are other judges."""
        digest = hashlib.sha256(f"{self.name}\0{self.version}".encode()).hexdigest()[:10]
        bare = "".join(letter if letter.isalnum() else "_" for letter in Path(self.name).name)
        return f"{bare}-{digest}"


UserJudge = Callable[[str, Tensor, Sequence[Point]], Any]
"""(prompt, picture, test points) -> a verdict of `VERDICTS` or None for each, or an `Answer`."""

Made = tuple[UserJudge, str, bool]
"""A judge, its version, and whether several threads may ask it at once."""

OWN: dict[str, str] = {
    "gold": "flowgrpo.benchmarks.shapes:gold_judge",
    "unigenbench_judge": "flowgrpo.benchmarks.remote:remote_judge",
}
"""Judges that answer test points: name -> "module:factory" of the options, see `Made`."""


def load_judge(
    name: str, ask_scorer: Callable[[Scorer, Task, Tensor], Answer], *, device: str, options: Mapping[str, Any]
) -> Judge:
    """The judge of that name.

    Args:
        name: a key of `OWN`, "package.module:function" or "file.py:function" of a `UserJudge`, or a scorer.
        ask_scorer: how the benchmark asks a scorer.
        device: where a scorer's model runs.
        options: the judge's own, as in `reward.options` of a recipe.

    Raises:
        UsageError: there is no such judge, or it has no such option.
        RecipeError: a user's function cannot be imported.
    """
    if ":" in name:
        known: dict[str, UserJudge] = {}
        function = resolve(name, known, "--judge")
        version = f"{source_hash(function)} {json.dumps(dict(options), sort_keys=True, default=str)}"
        return Judge(name, version, partial(_ask_function, partial(function, **options)), thread_safe=False)
    try:
        if name in OWN:
            function, version, thread_safe = _factory(OWN[name])(**options)
            return Judge(name, version, partial(_ask_function, function), thread_safe)
        scorer = load(name, device=device, **options)
    except (TypeError, ValueError) as error:
        raise UsageError(f"--judge {name}: {error}") from error
    return Judge(name, scorer.version, partial(ask_scorer, scorer), scorer.thread_safe)


def _factory(spec: str) -> Callable[..., Made]:
    module, _, name = spec.partition(":")
    return getattr(importlib.import_module(module), name)


def _ask_function(function: UserJudge, task: Task, picture: Tensor) -> Answer:
    said = function(task.prompt, picture, task.points)
    if isinstance(said, Answer):
        return said
    if isinstance(said, str | bytes) or not isinstance(said, Sequence):
        raise RunError(f"the judge returned {type(said).__name__}; right is a list with one verdict per test point")
    return checked(Answer(tuple(map(verdict, said))), task)


def verdict(value: Any) -> bool | None:
    """True or False for what `VERDICTS` lists, None for anything else."""
    known = value.strip().lower() if isinstance(value, str) else value
    return VERDICTS.get(known) if isinstance(known, str | int | float) else None


def checked(answer: Answer, task: Task) -> Answer:
    """The answer, or one without verdicts where it does not fit the task; its error says what is missing."""
    given, wanted = len(answer.verdicts), len(task.points)
    if given != wanted:
        error = answer.error or f"{given} verdicts for {wanted} test points"
        return Answer((None,) * wanted, error=error, cost=answer.cost)
    if answer.complete or answer.error:
        return answer
    missing = [task.points[i].name for i, value in enumerate(answer.verdicts) if value is None]
    return replace(answer, error=f"no valid verdict on {', '.join(missing)}")


def ask_whether_right(scorer: Scorer, task: Task, picture: Tensor) -> Answer:
    """Ask a scorer that says whether a picture is right as a whole: the first component of `CORRECT`, or its score."""
    scores = scorer(picture[None], [task.prompt], [dict(task.metadata)])
    column = next((scores.components[name] for name in CORRECT if name in scores.components), scores.scores)
    return checked(Answer((verdict(column[0].item()),), error=scores.errors.get(0, ""), cost=scores.cost), task)


def refuse_scorer(scorer: Scorer, task: Task, picture: Tensor) -> Answer:
    """Raises: UsageError: a scorer has one number for a picture and cannot say which test points it meets."""
    raise UsageError(
        f"--judge {scorer.name}: a scorer does not answer test points; right would be one of {', '.join(OWN)}, or your "
        "own function judge(prompt, picture, test_points) as package.module:function or file.py:function"
    )
