"""The judge behind a server: a vision-language model that answers every test point of a picture in one request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from flowgrpo.benchmarks.judges import Answer, Made
from flowgrpo.benchmarks.tasks import Point
from reward_models import load


def remote_judge(**options: Any) -> Made:
    """The judge `unigenbench_judge`.

    Args:
        **options: of the scorer of the same name: `base_url`, `model`, `concurrency`, `cache` and so on.

    Raises: ValueError: an option is unknown, or one that is needed is missing.
    """
    from reward_models.http.judges import point_judge

    version = load("unigenbench_judge", **options).version  # first: what is wrong is said by the scorer's own name
    judge = point_judge(**options)

    def ask(prompt: str, picture: Tensor, points: Sequence[Point]) -> Answer:
        (told,) = judge([prompt], picture[None], [[_words(point) for point in points]])
        if told.value is None:
            return Answer((None,) * len(points), error=told.error, cost=told.cost)
        return Answer(tuple(told.value.holds), tuple(told.value.explanations), cost=told.cost)

    return ask, version, True


def _words(point: Point) -> str:
    """One line each, as the request numbers them: a cue of the published files may hold a line break (index 383)."""
    return " ".join(f"{point.name} ({point.definition}) In this prompt: {point.cue}".split())
