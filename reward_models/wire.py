"""What goes over the wire between `reward_models.serve` and `reward_models.remote`: JSON, pictures as base64 PNG."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from reward_models.comparisons import Comparison
from reward_models.cost import FREE, Cost
from reward_models.png import decode_png, encode_png, to_bytes
from reward_models.scorer import Card, Kind, Media
from reward_models.scores import Scores, as_scores

PROTOCOL = 1
"""Raised when a field changes its meaning."""

Number = float | None
"""NaN and infinities have no JSON: None stands for them."""


class Message(BaseModel):
    """Closed: an unknown field is an error, not a silence."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Sample(Message):
    """A picture, or a text, with its prompt; which of both is the scorer's `media`."""

    image: Annotated[str | None, Field(description="a PNG file in base64")] = None
    text: Annotated[str | None, Field(description="what a language model wrote")] = None
    prompt: Annotated[str, Field(max_length=100_000)]
    metadata: dict[str, Any] = {}


class ScoreRequest(Message):
    """Samples to score one by one; pictures all of one size."""

    samples: list[Sample]


class CompareRequest(Message):
    """Pictures to compare with those of the same group; all of one size, and one prompt per group."""

    samples: list[Sample]
    group: Annotated[list[int], Field(description="one number per sample, equal for those that are compared")]
    seed: Annotated[
        int | tuple[int, ...], Field(description="key of the draws of opponents and of the order of presentation")
    ] = 0


class Judged(Message):
    """Scores in the order of the samples; null where a sample could not be scored, with the reason in `errors`."""

    version: str
    scores: list[Number]
    components: dict[str, list[Number]] = {}
    errors: dict[int, str] = {}
    comparisons: list[tuple[int, int, Number]] = []
    cost: Cost = FREE


class Limits(Message):
    """What one request may hold."""

    samples: Annotated[int, Field(ge=1)] = 64
    pixels: Annotated[int, Field(ge=1, description="of one picture")] = 4096 * 4096
    bytes: Annotated[int, Field(ge=1, description="of a request's body")] = 256 << 20


class Health(Message):
    """What is served: the scorer's card, the limits, and versions."""

    status: Literal["ok"] = "ok"
    protocol: int = PROTOCOL
    name: str
    version: str
    kind: Kind
    media: Media
    needs: tuple[str, ...]
    range: tuple[Number, Number]
    higher_is_better: bool
    licence: str
    components: tuple[str, ...]
    deterministic: bool
    limits: Limits
    versions: dict[str, str]


def health_of(scorer: Card, limits: Limits, versions: Mapping[str, str]) -> Health:
    """A scorer's card as a message."""
    same = ("name", "version", "kind", "media", "needs", "higher_is_better", "licence", "components", "deterministic")
    low, high = (_number(bound) for bound in scorer.range)
    facts = {name: getattr(scorer, name) for name in same}
    return Health(**facts, range=(low, high), limits=limits, versions=dict(versions))


def range_of(health: Health) -> tuple[float, float]:
    """Lowest and highest score, infinite where the message has none."""
    low, high = health.range
    return -math.inf if low is None else low, math.inf if high is None else high


def pack_image(image: Tensor) -> str:
    """A picture [3, H, W] in [0, 1] as base64 PNG."""
    return base64.b64encode(encode_png(to_bytes(image))).decode()


def unpack_images(samples: Sequence[Sample], limits: Limits) -> Tensor:
    """Pictures of a request.

    Args:
        samples: n samples.
        limits: What they may hold.

    Returns:
        float32 [n, 3, H, W] in [0, 1].

    Raises:
        ValueError: There are too many, or one is no PNG file, too large, or of another size than the first.
    """
    files = _column_of(samples, "image", "text", limits)
    images = [_unpacked(f"samples[{i}].image", file, limits) for i, file in enumerate(files)]
    for i, image in enumerate(images):
        if image.shape != images[0].shape:
            raise ValueError(
                f"samples[{i}].image is {list(image.shape)} and the first {list(images[0].shape)}; "
                "right would be pictures of one size"
            )
    return torch.stack(images) if images else torch.zeros(0, 3, 1, 1)


def unpack_texts(samples: Sequence[Sample], limits: Limits) -> list[str]:
    """Texts of a request, as `unpack_images` takes pictures.

    Raises:
        ValueError: There are too many, or a sample has none.
    """
    return _column_of(samples, "text", "image", limits)


def _column_of(samples: Sequence[Sample], media: Media, other: Media, limits: Limits) -> list[str]:
    if len(samples) > limits.samples:
        raise ValueError(f"the request holds {len(samples)} samples; right would be at most {limits.samples}")
    for i, sample in enumerate(samples):
        if getattr(sample, media) is None or getattr(sample, other) is not None:
            raise ValueError(f"samples[{i}] lacks '{media}' or has '{other}'; right would be '{media}' alone")
    return [getattr(sample, media) for sample in samples]


def judged_of(scores: Scores, version: str) -> Judged:
    """Scores as a message."""
    return Judged(
        version=version,
        scores=[_number(value) for value in scores.scores.tolist()],
        components={name: [_number(value) for value in part.tolist()] for name, part in scores.components.items()},
        errors=scores.errors,
        comparisons=[(a, b, _number(verdict)) for a, b, verdict in scores.comparisons],
        cost=scores.cost,
    )


def scores_of(judged: Judged, count: int) -> Scores:
    """A message as scores.

    Args:
        judged: The message.
        count: Samples that were sent.

    Returns:
        Scores of length `count`.

    Raises:
        ValueError: The message is about another number of samples.
    """
    lengths = {len(judged.scores), *(len(part) for part in judged.components.values())}
    places = [i for a, b, _ in judged.comparisons for i in (a, b)]
    if lengths != {count} or any(not 0 <= i < count for i in places):
        raise ValueError(f"the answer is about {sorted(lengths)} samples; right would be {count}")
    told = as_scores(
        _column(judged.scores),
        components={name: _column(part) for name, part in judged.components.items()},
        errors=judged.errors,
    )
    found = tuple(Comparison(a, b, math.nan if v is None else v) for a, b, v in judged.comparisons)
    return replace(told, comparisons=found, cost=judged.cost)


def _unpacked(place: str, text: str, limits: Limits) -> Tensor:
    try:
        return decode_png(base64.b64decode(text, validate=True), most_pixels=limits.pixels)
    except binascii.Error:
        raise ValueError(f"{place} is not base64; right would be a PNG file in base64") from None
    except ValueError as error:
        raise ValueError(f"{place}: {error}; right would be a PNG file in base64") from error


def _column(values: Sequence[Number]) -> Tensor:
    return torch.tensor([math.nan if value is None else value for value in values], dtype=torch.float64)


def _number(value: float) -> Number:
    return value if math.isfinite(value) else None
