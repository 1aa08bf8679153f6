"""The options that all judges over HTTP share, and what their factories have in common."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

from reward_models.http.cache import AUTO, OFF, open_store
from reward_models.http.chat import Answer, Chat, Decoding, spent
from reward_models.http.templates import Template
from reward_models.http.transport import Patience, key_from_environment, open_channel
from reward_models.importing import near
from reward_models.scores import ScorerError, Scores, as_scores

SHORT, LONG = 256, 4096
"""Tokens for a few numbers, and for a reply with reasons."""

_Value = TypeVar("_Value")


SECRETS = frozenset(("api_key", "apikey", "authorization", "password", "secret", "token", "access_token", "bearer"))
"""Names of request fields that are refused: options are written to run folders and caches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Options that all judges over HTTP share.

    Attributes:
        base_url: Address of the OpenAI-compatible interface, as ``http://127.0.0.1:8000/v1``.
        model: Name under which the server knows the model.
        revision: What the name does not tell (servers are often started under an alias): which weights these are. Part
            of the scorer's version and of the cache's keys.
        api_key_env: Environment variable that holds the key; None sends none.
        concurrency: Requests at once to this server, all ranks and all scorers together.
        timeout: Seconds for one attempt.
        deadline: Seconds for one question with all attempts.
        retries: Attempts after the first where the server does not answer.
        parse_retries: Replies asked for after one that cannot be read.
        seed: Sent with every request, at temperature 0.
        cache: Folder where replies are kept, "none", or "auto", as `cache.open_store` takes it.
        cache_days: Replies that were kept for longer may be removed.
        prices: Of a million tokens of requests, and of replies, in any unit; `Scores.cost` adds them up.
        template: File whose text takes the place of our words.
        max_tokens: Longest reply; None is enough for the form that is asked for.
        extra: Further fields of every request, such as ``chat_template_kwargs``.
    """

    base_url: str
    model: str
    revision: str = ""
    api_key_env: str | None = None
    concurrency: int = 16
    timeout: float = 120.0
    deadline: float = 600.0
    retries: int = 8
    parse_retries: int = 2
    seed: int = 0
    cache: str | None = AUTO
    cache_days: float = 30.0
    prices: Sequence[float] = (0.0, 0.0)
    template: str | None = None
    max_tokens: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in (("parse_retries", 0), ("max_tokens", 1), ("cache_days", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ScorerError(f"{name} is {value}; right would be {least} or more")
        secret = sorted(name for name in self.extra if name.lower().replace("-", "_") in SECRETS)
        if secret:
            raise ScorerError(
                f"extra.{secret[0]} would write a secret to files; right would be api_key_env, with the name of the "
                "environment variable that holds it"
            )
        if len(self.prices) != 2 or not all(isinstance(price, int | float) and price >= 0 for price in self.prices):
            raise ScorerError(
                f"prices is {self.prices!r}; right would be two numbers, of a million tokens of requests and of replies"
            )

    def chat(self, words: Template, *, max_tokens: int, top_logprobs: int = 0) -> Chat:
        """The model, ready to be asked with `words`; nothing is sent yet.

        Raises:
            ScorerError: The address, the key, a bound or the cache's folder cannot be used.
        """
        try:
            store = open_store(self.cache or OFF, self.cache_days)
        except OSError as error:
            raise ScorerError(f"the cache folder '{self.cache}' cannot be made: {error.strerror}") from error
        patience = Patience(timeout=self.timeout, deadline=self.deadline, retries=self.retries)
        key = key_from_environment(self.api_key_env)
        return Chat(
            channel=open_channel(self.base_url, concurrency=self.concurrency, patience=patience, key=key),
            model=self.model,
            template=words.digest,
            decoding=Decoding(
                max_tokens=self.max_tokens or max_tokens, seed=self.seed, top_logprobs=top_logprobs, extra=self.extra
            ),
            revision=self.revision,
            parse_retries=self.parse_retries,
            store=store,
            prices=(self.prices[0], self.prices[1]),
        )


def on_server(build: Callable[..., Any]) -> Callable[..., Any]:
    """A factory that takes the options of `Server` beside those of `build`, by name, and builds with a `Server`."""
    shared = [
        inspect.Parameter(
            option.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=_default_of(option),
        )
        for option in fields(Server)
    ]
    signature = inspect.signature(build)
    own = [value for name, value in signature.parameters.items() if name != "server"]

    @wraps(build)
    def factory(*, device: str = "cpu", **options: Any) -> Any:
        missing = [name for name in ("base_url", "model") if name not in options]
        if missing:
            raise ScorerError(
                f"scorer '{build.__name__}' asks a model behind a server, and its option {' and '.join(missing)} is "
                "not set; right would be base_url (http://127.0.0.1:8000/v1) and model (its name there)"
            )
        known = {option.name for option in fields(Server)}
        server = Server(**{name: value for name, value in options.items() if name in known})
        return build(server, **{name: value for name, value in options.items() if name not in known})

    factory.__signature__ = signature.replace(parameters=[*shared, *own])  # type: ignore[attr-defined]
    return factory


def _default_of(option: Field[Any]) -> Any:
    if option.default_factory is not MISSING:
        return option.default_factory()
    return inspect.Parameter.empty if option.default is MISSING else option.default


def column(answers: Sequence[Answer[_Value]], pick: Callable[[_Value], float]) -> Tensor:
    """What `pick` takes of every answer's value, float64 [n], NaN where there is none."""
    numbers = [math.nan if answer.value is None else pick(answer.value) for answer in answers]
    return torch.tensor(numbers, dtype=torch.float64)


def from_answers(
    values: Tensor, answers: Sequence[Answer[Any]], components: Mapping[str, Tensor] | None = None
) -> Scores:
    """Scores made of answers: `values` [n] and components, with the answers' errors and what they took."""
    errors = {i: answer.error for i, answer in enumerate(answers) if answer.error}
    return as_scores(values, components=components, errors=errors, cost=spent(answers))


def card_of(chat: Chat, *options: Any) -> dict[str, Any]:
    """Fields of the card that follow from the model and the options which change scores."""
    facts = repr((chat.facts(), options)).encode()
    return {"version": hashlib.sha256(facts).hexdigest()[:12], "deterministic": False}


def checked_weights(given: Mapping[str, float] | None, names: Sequence[str]) -> dict[str, float]:
    """Weight of every name, 0 for those that `given` leaves out; names are matched without case."""
    if given is None:
        return dict.fromkeys(names, 1.0)
    spelt = {name.lower(): name for name in names or given}
    for name in given:
        check_choice("axis", name.lower(), spelt)
    weights = dict.fromkeys(spelt.values(), 0.0) | {spelt[k.lower()]: float(v) for k, v in given.items()}
    if min(weights.values()) < 0 or not sum(weights.values()) > 0:
        raise ScorerError(f"the weights are {dict(given)}; right would be numbers of 0 or more, not all of them 0")
    return weights


def check_choice(what: str, given: str, known: Mapping[str, Any]) -> None:
    """Raise `ScorerError` where `given` is none of `known`."""
    if given not in known:
        raise ScorerError(
            f"unknown {what} '{given}'{near(given, list(known))}; right would be one of {', '.join(known)}"
        )
