"""Questions about pictures to a chat model: asked at once, each until a reply can be read, and remembered on disk."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from torch import Tensor

from reward_models.cost import FREE, Cost, total
from reward_models.http import cache
from reward_models.http.parsers import Unreadable
from reward_models.http.transport import Channel, Refused, Unanswered
from reward_models.png import encode_png, to_bytes

_Value = TypeVar("_Value")

GIVE_UP_AFTER = 4
"""Questions in a row that a server left unanswered, each with all its attempts, before a batch asks no more."""
_TEMPERATURE_AGAIN = 0.3
"""A reply at temperature 0 that could not be read would only come again."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as it travels.

    Attributes:
        png: The file.
        digest: Hash of size and pixels, whatever the encoder makes of them.
    """

    png: bytes = field(repr=False)
    digest: str


@dataclass(frozen=True, slots=True)
class Question:
    """One request.

    Attributes:
        text: The words, after the pictures.
        pictures: What is shown, in order.
    """

    text: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How the model writes its reply.

    Attributes:
        max_tokens: Longest reply.
        seed: Sent with the first attempt; each attempt to get a readable reply adds 1.
        temperature: 0 is the likeliest token each time.
        top_logprobs: Log-probabilities that are asked for with each token.
        extra: Further fields of the request, such as ``chat_template_kwargs``.
    """

    max_tokens: int
    seed: int = 0
    temperature: float = 0.0
    top_logprobs: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)

    def fields(self) -> dict[str, Any]:
        """The request's fields."""
        plain = {"max_tokens": self.max_tokens, "temperature": self.temperature, "seed": self.seed}
        likely = {"logprobs": True, "top_logprobs": self.top_logprobs} if self.top_logprobs else {}
        return {**plain, **likely, **self.extra}


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model wrote.

    Attributes:
        text: The words.
        top: (token, log-probability) of the likeliest first tokens, where they were asked for.
        cut: Whether the longest length ended it.
        tokens: Of request and reply, as the server counts them.
    """

    text: str
    top: tuple[tuple[str, float], ...] = ()
    cut: bool = False
    tokens: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Answer(Generic[_Value]):
    """What came of a question: a value, or the reason why there is none; and what asking took."""

    value: _Value | None
    error: str = ""
    cost: Cost = FREE


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """A model behind a server.

    Attributes:
        channel: The way to the server.
        model: Its name there.
        template: Digest of the words of all questions.
        decoding: How replies are written.
        revision: What the name does not tell of the model.
        parse_retries: Further replies asked for after one that cannot be read.
        store: Where replies are kept; None keeps none.
        prices: Of a million tokens of requests and of replies, in any unit.
    """

    channel: Channel
    model: str
    template: str
    decoding: Decoding
    revision: str = ""
    parse_retries: int = 2
    store: cache.Store | None = None
    prices: tuple[float, float] = (0.0, 0.0)

    def facts(self) -> dict[str, Any]:
        """What decides a reply beside the question, as JSON."""
        fields = self.decoding.fields()
        return {"model": self.model, "revision": self.revision, "template": self.template, "decoding": fields}

    def ask(self, questions: Sequence[Question], read: Callable[[Reply], _Value]) -> list[Answer[_Value]]:
        """Ask many questions, as many at once as the server's gate lets in. Equal ones are asked once.

        Where `GIVE_UP_AFTER` questions in a row go unanswered, those not yet asked fail at once: a dead server costs a
        batch a few deadlines, not one for each picture.

        Args:
            questions: n questions.
            read: Reply -> what the caller wants of it; raises `Unreadable` where the reply does not say it.

        Returns:
            n answers in order. None of the server's or the model's faults raises. Of equal questions the first bears
            the cost.
        """
        keys = [cache.key_of(_facts_of(self, question)) for question in questions]
        unique = dict(zip(keys, questions, strict=True))
        streak = _Streak()
        with ThreadPoolExecutor(self.channel.gate.limit, thread_name_prefix="judge") as pool:
            told = pool.map(lambda item: _answer(self, item[0], item[1], read, streak), unique.items())
            answers = dict(zip(unique, told, strict=True))
        bearers = {key: i for i, key in reversed(list(enumerate(keys)))}
        return [answers[key] if bearers[key] == i else replace(answers[key], cost=FREE) for i, key in enumerate(keys)]


class _Streak:
    """How many questions in a row have gone unanswered."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._length = 0

    def note(self, answered: bool) -> None:
        with self._lock:
            self._length = 0 if answered else self._length + 1

    @property
    def broken(self) -> bool:
        return self._length >= GIVE_UP_AFTER


def picture(image: Tensor) -> Picture:
    """A picture [3, H, W] in [0, 1] as it travels, at 8 bits per channel."""
    pixels = to_bytes(image)
    digest = hashlib.sha256(repr(tuple(pixels.shape)).encode() + pixels.numpy().tobytes()).hexdigest()
    return Picture(encode_png(pixels), digest)


def _facts_of(chat: Chat, question: Question) -> dict[str, Any]:
    return {**chat.facts(), "text": question.text, "pictures": [shown.digest for shown in question.pictures]}


def _answer(
    chat: Chat, key: str, question: Question, read: Callable[[Reply], _Value], streak: _Streak
) -> Answer[_Value]:
    remembered = _remembered(chat, key, read)
    if remembered is not None:
        return remembered
    if streak.broken:
        return Answer(None, f"{chat.channel.base_url} left the {GIVE_UP_AFTER} questions before unanswered")
    replies: list[Reply] = []
    try:
        answer = _readable(chat, question, read, replies)
    except (Unanswered, Refused) as error:
        streak.note(answered=isinstance(error, Refused))
        return Answer(None, str(error), _cost_of(chat, replies))
    streak.note(answered=True)
    if chat.store is not None and not answer.error:
        entry = {"text": replies[-1].text, "top": replies[-1].top}
        with suppress(OSError):  # an answer that cannot be kept is an answer all the same
            chat.store.put(key, entry, _facts_of(chat, question))
    return replace(answer, cost=_cost_of(chat, replies))


def _cost_of(chat: Chat, replies: Sequence[Reply]) -> Cost:
    asked, written = (sum(reply.tokens[side] for reply in replies) for side in (0, 1))
    price = (asked * chat.prices[0] + written * chat.prices[1]) / 1e6
    return Cost(requests=len(replies), prompt_tokens=asked, reply_tokens=written, price=price)


def _remembered(chat: Chat, key: str, read: Callable[[Reply], _Value]) -> Answer[_Value] | None:
    """The reply on disk, read anew; None where there is none, or one that a newer parser refuses."""
    entry = None if chat.store is None else chat.store.get(key)
    try:
        top = tuple((str(token), float(value)) for token, value in entry["top"]) if entry else ()
        return Answer(read(Reply(entry["text"], top)), cost=Cost(remembered=1)) if entry else None
    except (Unreadable, LookupError, TypeError, ValueError):
        return None


def _readable(chat: Chat, question: Question, read: Callable[[Reply], _Value], replies: list[Reply]) -> Answer[_Value]:
    """What the first readable reply says, or the reason why the last one cannot be read; `replies` gets them all."""
    reason = ""
    for attempt in range(chat.parse_retries + 1):
        reply = chat.channel.call("/chat/completions", _body(chat, question, attempt), read=_reply)
        replies.append(reply)
        try:
            return Answer(read(reply))
        except Unreadable as error:
            tail = f"; it was cut at {chat.decoding.max_tokens} tokens" if reply.cut else ""
            reason = f"{error}{tail}"
    asked = chat.parse_retries + 1
    return Answer(None, f"no reply of {asked} could be read; the last: {reason}")


def _body(chat: Chat, question: Question, attempt: int) -> dict[str, Any]:
    first = chat.decoding
    warmer = max(first.temperature, _TEMPERATURE_AGAIN)
    decoding = replace(first, seed=first.seed + attempt, temperature=warmer) if attempt else first
    content: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(shown.png).decode()}}
        for shown in question.pictures
    ]
    message = {"role": "user", "content": [*content, {"type": "text", "text": question.text}]}
    return {"model": chat.model, "messages": [message], **decoding.fields()}


def _reply(answer: Any) -> Reply:
    choice = answer["choices"][0]
    tokens = (choice.get("logprobs") or {}).get("content") or [{}]
    top = tuple((str(entry["token"]), float(entry["logprob"])) for entry in tokens[0].get("top_logprobs") or ())
    text = choice["message"].get("content")
    cut = choice.get("finish_reason") == "length"
    return Reply(text if isinstance(text, str) else "", top, cut, _tokens(answer.get("usage")))


def _tokens(usage: Any) -> tuple[int, int]:
    """What the server says that it counted; a server that says nothing of the kind is no fault."""
    held = usage if isinstance(usage, Mapping) else {}
    asked, written = (held.get(key) for key in ("prompt_tokens", "completion_tokens"))
    return (asked if isinstance(asked, int) else 0, written if isinstance(written, int) else 0)


def spent(answers: Sequence[Answer[Any]]) -> Cost:
    """What all of them took together."""
    return total(answer.cost for answer in answers)
