"""A scorer that runs elsewhere: the client of `flowgrpo serve`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from reward_models.comparisons import Seed, members_of
from reward_models.http.transport import (
    Channel,
    Patience,
    Refused,
    Unanswered,
    key_from_environment,
    open_channel,
)
from reward_models.scorer import Media, Scorer
from reward_models.scores import NotReached, ScorerError, Scores, concatenate, failed, take
from reward_models.text_scorer import TextScorer
from reward_models.wire import PROTOCOL, Health, Judged, pack_image, range_of, scores_of

_ROOM = 1 << 12
"""Bytes of a request around its samples, and around each of them, at most."""

Packed = dict[str, Any]
Held = Tensor | list[str]
"""Pictures [N, 3, H, W], or N texts."""


@dataclass(frozen=True, slots=True)
class _Request:
    """One request: rows of the batch, and the body that goes out for them."""

    rows: tuple[int, ...]
    path: str
    body: dict[str, Any]


def remote(
    *,
    device: str = "cpu",
    url: str,
    token_env: str | None = None,
    concurrency: int = 4,
    timeout: float = 300.0,
    deadline: float = 900.0,
    retries: int = 8,
) -> Scorer | TextScorer:
    """The scorer behind a `flowgrpo serve`, with the card that it declares.

    Pictures travel with 8 bits per channel. Groups of a pairwise scorer travel whole and with their numbers, so that
    the same pairs meet in the same order as they would here.

    Args:
        device: Ignored; the server has its own.
        url: The server's address, as ``http://127.0.0.1:8765``.
        token_env: Environment variable that holds the server's token; None sends none.
        concurrency: Requests at once, of all ranks together.
        timeout: Seconds for one attempt.
        deadline: Seconds for one request with all attempts.
        retries: Attempts after the first where the server does not answer.

    Returns:
        The scorer. Its version is the served scorer's; an answer of another version stops the run.

    Raises:
        NotReached: No such service answers at the address.
        ScorerError: It speaks another version of the protocol, or an option is wrong.
    """
    patience = Patience(timeout=timeout, deadline=deadline, retries=retries)
    channel = open_channel(url, concurrency=concurrency, patience=patience, key=key_from_environment(token_env))
    health = _health(channel)
    return _SCORERS[health.media](
        name=health.name,
        version=health.version,
        kind=health.kind,
        media=health.media,
        needs=health.needs,
        range=range_of(health),
        higher_is_better=health.higher_is_better,
        licence=health.licence,
        components=health.components,
        deterministic=health.deterministic,
        function=partial(_FUNCTIONS[health.kind], channel, health),
    )


_SCORERS: dict[Media, type[Scorer] | type[TextScorer]] = {"image": Scorer, "text": TextScorer}
_PACK: dict[Media, Callable[[Any], str]] = {"image": pack_image, "text": str}


def _health(channel: Channel) -> Health:
    try:
        protocol = channel.call("/health", read=lambda answer: int(answer["protocol"]))
        if protocol != PROTOCOL:
            raise ScorerError(
                f"the service at {channel.base_url} speaks protocol {protocol}; right would be {PROTOCOL}, the same "
                "version of flowgrpo at both ends"
            )
        return channel.call("/health", read=Health.model_validate)
    except (Refused, Unanswered) as error:
        raise NotReached(f"no scorer can be reached at {channel.base_url}: {error}") from error


def _score(
    channel: Channel, health: Health, held: Held, prompts: list[str], metadata: Sequence[Mapping[str, Any]]
) -> Scores:
    samples = _packed(health.media, held, prompts, metadata)
    requests = [
        _Request(rows, "/score", {"samples": [samples[i] for i in rows]}) for rows in _portions(samples, health)
    ]
    return _collected(channel, health, requests, len(prompts))


def _compare(
    channel: Channel,
    health: Health,
    images: Tensor,
    prompts: list[str],
    metadata: Sequence[Mapping[str, Any]],
    group: list[int],
    seed: Seed,
) -> Scores:
    samples = _packed(health.media, images, prompts, metadata)
    requests = [
        _Request(
            tuple(rows),
            "/compare",
            {"samples": [samples[i] for i in rows], "group": [label] * len(rows), "seed": seed},
        )
        for label, rows in members_of(group).items()
    ]
    return _collected(channel, health, requests, len(prompts))


_FUNCTIONS: dict[str, Callable[..., Scores]] = {"pointwise": _score, "pairwise": _compare, "groupwise": _compare}


def _packed(media: Media, held: Held, prompts: list[str], metadata: Sequence[Mapping[str, Any]]) -> list[Packed]:
    return [
        {media: _PACK[media](sample), "prompt": prompt, "metadata": dict(row)}
        for sample, prompt, row in zip(held, prompts, metadata, strict=True)
    ]


def _portions(samples: Sequence[Packed], health: Health) -> Iterator[tuple[int, ...]]:
    """Neighbours together, as many as the server takes in one request; one alone may be too large for it."""
    rows: list[int] = []
    size = _ROOM
    for i, sample in enumerate(samples):
        words = len(sample["prompt"]) + len(sample.get("text", ""))
        weight = len(sample.get("image", "")) + 6 * words + len(repr(sample["metadata"])) + _ROOM
        if rows and (len(rows) == health.limits.samples or size + weight > health.limits.bytes):
            yield tuple(rows)
            rows, size = [], _ROOM
        rows.append(i)
        size += weight
    if rows:
        yield tuple(rows)


def _collected(channel: Channel, health: Health, requests: Sequence[_Request], count: int) -> Scores:
    """Answers in the order of the batch; the samples of a request without one are invalid."""
    with ThreadPoolExecutor(channel.gate.limit, thread_name_prefix="remote") as pool:
        parts = list(pool.map(partial(_sent, channel, health), requests))
    order = [row for request in requests for row in request.rows]
    place = {row: i for i, row in enumerate(order)}
    return take(concatenate(parts), [place[row] for row in range(count)])


def _sent(channel: Channel, health: Health, request: _Request) -> Scores:
    def read(answer: Any) -> tuple[str, Scores]:
        judged = Judged.model_validate(answer)
        return judged.version, scores_of(judged, len(request.rows))

    try:
        version, scores = channel.call(request.path, request.body, read=read)
    except (Refused, Unanswered) as error:
        return failed(len(request.rows), str(error))
    if version != health.version:
        raise ScorerError(
            f"the service at {channel.base_url} now serves version {version} of '{health.name}', and served "
            f"{health.version} before; right would be one version in a run, because their scores are not comparable"
        )
    return scores
