"""Scorers of single pictures whose judge is a vision-language model behind a server.

All take the options of `Server`. A picture that the judge cannot be brought to answer for is invalid, with the reason;
it never counts as a zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from reward_models.http import parsers, templates
from reward_models.http.chat import Answer, Chat, Question, Reply, picture
from reward_models.http.server import (
    LONG,
    SHORT,
    Server,
    card_of,
    check_choice,
    checked_weights,
    column,
    from_answers,
    on_server,
)
from reward_models.http.templates import Template, template
from reward_models.scorer import Metadata, Scorer
from reward_models.scores import ScorerError, Scores

_ONE_TOKEN = 1
_TOP_LOGPROBS = 20
POINTS = "test_points"
"""Key of a prompt's metadata that `unigenbench_judge` reads."""


_EDITIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "2.0": (templates.AXES, parsers.AXES),
    "1.5": (templates.FINAL, ()),
}
"""Edition -> (our words, the axes on which it gives marks; none where it gives one mark in all)."""


@on_server
def unifiedreward(server: Server, *, edition: str = "2.0", axes: Mapping[str, float] | None = None) -> Scorer:
    """A mark between 1 and 5 for each picture, by a UnifiedReward model (arXiv 2503.05236).

    Args:
        server: The model.
        edition: "2.0" marks alignment, coherence and style, "1.5" (and 1) gives one mark.
        axes: Weights of edition 2.0's marks in the score, which is their weighted mean; None weighs them equally.

    Returns:
        The scorer; components of edition 2.0: "alignment", "coherence", "style".

    Raises:
        ScorerError: An option cannot be used.
    """
    edition = str(edition)  # a recipe may hold the number
    check_choice("edition", edition, _EDITIONS)
    text, names = _EDITIONS[edition]
    weights = checked_weights(axes, names or ("score",))
    words = template(text, file=server.template)
    chat = server.chat(words, max_tokens=SHORT if names else LONG)

    def read(reply: Reply) -> dict[str, float]:
        return parsers.marks(reply.text, names) if names else {"score": parsers.final_mark(reply.text)}

    def function(images: Tensor, prompts: list[str], metadata: Metadata) -> Scores:
        answers = chat.ask(_single(images, [words.fill(prompt=prompt) for prompt in prompts]), read)
        marks = {name: column(answers, itemgetter(name)) for name in weights}
        total = sum(weights[name] * mark for name, mark in marks.items()) / sum(weights.values())
        return from_answers(torch.as_tensor(total), answers, {name.lower(): marks[name] for name in names})

    return Scorer(
        name="unifiedreward",
        range=(parsers.LOWEST_MARK, parsers.HIGHEST_MARK),
        components=tuple(name.lower() for name in names),
        function=function,
        **card_of(chat, edition, weights),
    )


@on_server
def vqa(server: Server) -> Scorer:
    """Probability that a model answers Yes when asked whether the picture shows what the prompt says.

    The probability is read from the log-probabilities of the first token, so that one token is a continuous score.

    Args:
        server: The model; the server must give log-probabilities.

    Returns:
        The scorer: p(Yes) / (p(Yes) + p(No)).
    """
    words = template(templates.YES_NO, file=server.template)
    chat = server.chat(words, max_tokens=_ONE_TOKEN, top_logprobs=_TOP_LOGPROBS)

    def function(images: Tensor, prompts: list[str], metadata: Metadata) -> Scores:
        questions = _single(images, [words.fill(prompt=prompt) for prompt in prompts])
        answers = chat.ask(questions, lambda reply: parsers.yes_probability(reply.top))
        return from_answers(column(answers, float), answers)

    return Scorer(name="vqa", range=(0.0, 1.0), function=function, **card_of(chat))


PointJudge = Callable[[Sequence[str], Tensor, Sequence[Sequence[str]]], list[Answer[parsers.Checks]]]
"""(n prompts, images [n, 3, H, W], points of each picture) -> n answers."""


@on_server
def point_judge(server: Server) -> PointJudge:
    """A judge that finds of each picture which of its test points it meets, in one request per picture.

    Args:
        server: The model, such as UniGenBench's evaluation models.

    Returns:
        The judge; a picture that it has no findings on has an error in place of a value. A picture without points is
        one of these.
    """
    words, chat = _checker(server)
    return partial(_judged_points, words, chat)


@on_server
def unigenbench_judge(server: Server) -> Scorer:
    """Share of a prompt's test points that a picture meets, as a UniGenBench judge sees it (arXiv 2508.20751).

    Args:
        server: The model.

    Returns:
        The scorer. It reads "test_points" of the metadata: texts, or mappings with "name" and, if there is one, "cue".
        Components: "points", how many there are, and "met", how many hold.
    """
    words, chat = _checker(server)

    def function(images: Tensor, prompts: list[str], metadata: Metadata) -> Scores:
        points = [[point_text(point) for point in _points_of(row)] for row in metadata]
        answers = _judged_points(words, chat, prompts, images, points)
        met = column(answers, lambda found: float(sum(found.holds)))
        count = torch.tensor([len(texts) for texts in points], dtype=torch.float64)
        return from_answers(met / count, answers, {"points": count, "met": met})

    return Scorer(
        name="unigenbench_judge",
        range=(0.0, 1.0),
        needs=("prompt", "metadata"),
        components=("points", "met"),
        function=function,
        **card_of(chat),
    )


def point_text(point: Any) -> str:
    """A test point in words: itself, or "name: cue" of a mapping.

    Raises:
        ScorerError: It is neither a text nor a mapping with a name.
    """
    if isinstance(point, Mapping) and isinstance(point.get("name"), str):
        return f"{point['name']}: {point['cue']}" if point.get("cue") else point["name"]
    if isinstance(point, str) and point.strip():
        return point
    raise ScorerError(f"a test point is {point!r}; right would be a text, or a mapping with 'name' and 'cue'")


def _single(images: Tensor, texts: Sequence[str]) -> list[Question]:
    return [Question(text, (picture(image),)) for image, text in zip(images, texts, strict=True)]


def _checker(server: Server) -> tuple[Template, Chat]:
    words = template(templates.CHECKS, file=server.template, places=("prompt", "points", "count"))
    return words, server.chat(words, max_tokens=LONG)


def _judged_points(
    words: Template, chat: Chat, prompts: Sequence[str], images: Tensor, points: Sequence[Sequence[str]]
) -> list[Answer[parsers.Checks]]:
    """Pictures with equally many points are asked about together, since a reply is read by that number."""
    answers: list[Answer[parsers.Checks]] = [Answer(None, "the prompt has no test points")] * len(prompts)
    for count in sorted({len(texts) for texts in points} - {0}):
        rows = [i for i, texts in enumerate(points) if len(texts) == count]
        listed = ["\n".join(f"{n}. {text}" for n, text in enumerate(points[i], 1)) for i in rows]
        texts = [
            words.fill(prompt=prompts[i], points=lines, count=str(count)) for i, lines in zip(rows, listed, strict=True)
        ]
        told = chat.ask(_single(images[rows], texts), partial(_read_checks, count))
        for i, answer in zip(rows, told, strict=True):
            answers[i] = answer
    return answers


def _read_checks(count: int, reply: Reply) -> parsers.Checks:
    return parsers.checks(reply.text, count)


def _points_of(row: Mapping[str, Any]) -> Sequence[Any]:
    points = row.get(POINTS, ())
    if isinstance(points, str) or not isinstance(points, Sequence):
        raise ScorerError(f"'{POINTS}' of the metadata is {points!r}; right would be a list of test points")
    return points
