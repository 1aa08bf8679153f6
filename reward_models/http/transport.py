"""JSON over HTTP to a server that may be slow, busy, broken or gone.

Every call ends: with the answer, with `Refused` (the server understood and said no), or with `Unanswered` after a
bounded number of attempts and a deadline. Requests to one server share one limit of concurrency, whoever sends them.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import HTTPError

from reward_models.scores import ScorerError

_Answer = TypeVar("_Answer")

_CHUNK = 1 << 16
_LONGEST_ANSWER = 64 << 20
_LONGEST_QUOTE = 200
_OK, _SERVER_ERROR = 200, 500
_PASSING = frozenset({408, 425, 429})
"""Statuses below 500 that a later attempt may not meet."""
_SMALLEST_WAIT = 0.01


class Refused(RuntimeError):
    """The server will not answer this request, however often it is sent."""


class Unanswered(RuntimeError):
    """No usable answer came within the attempts and the time that a call has."""


class _Failed(Exception):
    """One attempt failed; another may not."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a caller bears with a server.

    Attributes:
        timeout: Seconds for one attempt, from sending to the last byte.
        deadline: Seconds for one call with all its attempts and waits.
        retries: Further attempts after the first.
        first_wait: Seconds before the second attempt; doubled for each after it.
        longest_wait: Bound of these waits. What the server asks for by Retry-After may be longer.
    """

    timeout: float = 120.0
    deadline: float = 600.0
    retries: int = 8
    first_wait: float = 0.5
    longest_wait: float = 10.0

    def __post_init__(self) -> None:
        for name in ("timeout", "deadline"):
            if not getattr(self, name) > 0:
                raise ScorerError(f"{name} is {getattr(self, name)}; right would be seconds above 0")
        if self.retries < 0:
            raise ScorerError(f"retries is {self.retries}; right would be 0 or more")

    def wait(self, attempt: int) -> float:
        """Seconds after failed attempt 0, 1, ...: exponential, and between half and all of it by chance, so that
        callers that failed together do not come back together."""
        longest = min(self.first_wait * 2.0**attempt, self.longest_wait)
        return longest * (0.5 + 0.5 * _JITTER.random())


_JITTER = random.SystemRandom()  # a generator of its own: the global one belongs to the run's seed


class Gate:
    """At most `limit` requests in flight to one server, and none while it has asked for a pause.

    Args:
        limit: Requests at once, at least 1.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._busy = 0
        self._closed_until = 0.0
        self._changed = threading.Condition()

    def pause(self, seconds: float) -> None:
        """Let nobody in for so long."""
        with self._changed:
            self._closed_until = max(self._closed_until, time.monotonic() + seconds)

    @contextmanager
    def slot(self, end: float) -> Iterator[None]:
        """Be one of the requests in flight; raises `_Failed` where none is free before the monotonic time `end`."""
        with self._changed:
            while (now := time.monotonic()) < self._closed_until or self._busy >= self.limit:
                if now >= end:
                    raise _Failed(f"none of the {self.limit} places of this server's concurrency limit came free")
                until = self._closed_until if now < self._closed_until else end
                self._changed.wait(max(min(until, end) - now, _SMALLEST_WAIT))
            self._busy += 1
        try:
            yield
        finally:
            with self._changed:
                self._busy -= 1
                self._changed.notify()


_GATES: dict[str, Gate] = {}
_GATES_LOCK = threading.Lock()


def gate_of(url: str, concurrency: int) -> Gate:
    """The gate of a server, one per process and host, with this process's share of `concurrency`.

    Args:
        url: Any address on the server.
        concurrency: Requests at once of all ranks together; each gets an equal share, at least 1. Where callers name
            different limits for one server, the smallest holds.

    Returns:
        The gate.

    Raises:
        ScorerError: `concurrency` is under 1.
    """
    if concurrency < 1:
        raise ScorerError(f"concurrency is {concurrency}; right would be 1 or more")
    share = max(1, concurrency // int(os.environ.get("WORLD_SIZE", "1")))
    with _GATES_LOCK:
        gate = _GATES.setdefault(urlsplit(url).netloc, Gate(share))
        gate.limit = min(gate.limit, share)
    return gate


@dataclass(frozen=True, slots=True)
class Channel:
    """The way to one server; threads may share it. `open_channel` makes one.

    Attributes:
        base_url: What every path is appended to, without a slash at its end.
        patience: Bounds of every call.
        gate: Who may send.
        session: Its connections.
        key: What `session` signs requests with. An answer that repeats it is read without it, for answers and
            errors are written to files.
    """

    base_url: str
    patience: Patience
    gate: Gate
    session: requests.Session = field(repr=False)
    key: str = field(default="", repr=False)

    def call(self, path: str, body: Any = None, *, read: Callable[[Any], _Answer]) -> _Answer:
        """Send a request until it is answered, refused, or patience ends.

        Args:
            path: Starts with a slash.
            body: What goes out as JSON by POST; None is a GET.
            read: JSON of the answer -> what the caller wants of it. Where it raises ValueError, TypeError, LookupError
                or AttributeError the answer is damaged, and asked for again.

        Returns:
            What `read` returns.

        Raises:
            Refused: The server answered with a status that a repetition does not change.
            Unanswered: Attempts or time ran out.
        """
        start = time.monotonic()
        end, attempts, last = start + self.patience.deadline, 0, _Failed("")
        data = None if body is None else json.dumps(body).encode()
        for attempt in range(self.patience.retries + 1):
            attempts = attempt + 1
            try:
                return _read_as(read, self._attempt(path, data, end))
            except _Failed as failure:
                last = failure
            wait = max(self.patience.wait(attempt), last.wait)
            if attempt == self.patience.retries or time.monotonic() + wait >= end:
                break
            time.sleep(wait)
        raise Unanswered(
            f"{self.base_url}{path} gave no answer in {attempts} attempts and {time.monotonic() - start:.1f} s; "
            f"the last: {last}"
        ) from last

    def _attempt(self, path: str, data: bytes | None, end: float) -> Any:
        with self.gate.slot(end):
            stop = min(end, time.monotonic() + self.patience.timeout)
            silence = max(stop - time.monotonic(), _SMALLEST_WAIT)
            try:
                with self.session.request(
                    "GET" if data is None else "POST",
                    self.base_url + path,
                    data=data,
                    timeout=silence,
                    stream=True,
                    allow_redirects=False,
                ) as response:
                    text = _without(self.key, _content(response, stop))
            except (OSError, HTTPError) as error:  # every error of requests is an OSError
                raise _Failed(_reason(error)) from error
        self._check(response, text)
        return text

    def _check(self, response: requests.Response, text: bytes) -> None:
        status = response.status_code
        if status == _OK:
            return
        said = f"status {status} {response.reason}: {_quoted(text)}"
        if status not in _PASSING and status < _SERVER_ERROR:
            raise Refused(f"{self.base_url} refused with {said}")
        asked = _retry_after(response.headers.get("Retry-After", ""))
        if asked:
            self.gate.pause(min(asked, self.patience.deadline))
        raise _Failed(said, asked)


def open_channel(base_url: str, *, concurrency: int, patience: Patience, key: str = "") -> Channel:
    """The way to a server. Nothing is sent yet.

    Args:
        base_url: Address, with http or https in front.
        concurrency: As `gate_of` takes it.
        patience: Bounds of every call.
        key: Sent as a bearer token where it is not empty.

    Returns:
        The channel.

    Raises:
        ScorerError: The address or the key cannot be one.
    """
    parts = urlsplit(base_url)
    if "@" in base_url or parts.query or parts.fragment:
        raise ScorerError(
            "base_url holds more than an address, and it is written to files; right would be http://127.0.0.1:8000/v1, "
            "and a key in an environment variable that api_key_env or token_env names"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ScorerError(f"base_url is {base_url!r}; right would be an address such as http://127.0.0.1:8000/v1")
    if not key.isascii() or not key.isprintable():
        raise ScorerError("the key holds characters that no header can; right would be printable ASCII")
    gate = gate_of(base_url, concurrency)
    session = requests.Session()
    # A proxy from the environment is no way to this machine itself.
    session.trust_env = parts.hostname not in ("localhost", "127.0.0.1", "::1")
    session.auth = _bearer(key)
    session.headers.update({"Content-Type": "application/json", "Accept-Encoding": "identity"})
    for scheme in ("http://", "https://"):
        session.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=gate.limit))
    return Channel(base_url.rstrip("/"), patience, gate, session, key)


def key_from_environment(name: str | None) -> str:
    """The key in the environment variable `name`; empty where `name` is None.

    Raises:
        ScorerError: There is no such variable, or it is empty.
    """
    key = "" if name is None else os.environ.get(name, "").strip()
    if name is not None and not key:
        raise ScorerError(f"the environment variable '{name}' is not set; right would be one that holds the key")
    return key


def _bearer(key: str) -> Callable[[requests.PreparedRequest], requests.PreparedRequest]:
    """Set always, without a key too: requests would otherwise take a password from the user's .netrc file."""

    def sign(request: requests.PreparedRequest) -> requests.PreparedRequest:
        if key:
            request.headers["Authorization"] = f"Bearer {key}"
        return request

    return sign


def _content(response: requests.Response, stop: float) -> bytes:
    """The body. A server that sends byte by byte never runs into the timeout of a read, so the clock is looked at."""
    parts: list[bytes] = []
    size = 0
    while part := response.raw.read1(_CHUNK):
        size += len(part)
        parts.append(part)
        if time.monotonic() > stop:
            raise _Failed(f"the answer was not complete in time; {size} bytes had come")
        if size > _LONGEST_ANSWER:
            raise Refused(f"the answer is longer than {_LONGEST_ANSWER} bytes")
    return b"".join(parts)


def _without(key: str, text: bytes) -> bytes:
    return text.replace(key.encode(), b"(the key)") if key else text


def _read_as(read: Callable[[Any], _Answer], text: bytes) -> _Answer:
    try:
        return read(json.loads(text))
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise _Failed(f"the answer is not of the form expected ({_reason(error)}): {_quoted(text)}") from error


def _retry_after(header: str) -> float:
    """Seconds from a number of them or from a date; 0 where there is neither."""
    try:
        return min(max(0.0, float(header)), 1e6)  # in this order NaN is 0
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(header).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _quoted(text: bytes) -> str:
    said = " ".join(text[: 2 * _LONGEST_QUOTE].decode("utf-8", "replace").split())
    return said[:_LONGEST_QUOTE] or "(nothing)"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:_LONGEST_QUOTE]
