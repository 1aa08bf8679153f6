"""Any scorer as an HTTP service: so that scorers whose dependencies clash live in environments of their own.

`make_app` is the application, `serve` runs it. Needs FastAPI and uvicorn (the extra ``serve``).
"""

from __future__ import annotations

import hmac
import platform
import socket
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from importlib import metadata
from ipaddress import ip_address
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, HTTPException, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from reward_models.scorer import Card, Media, Scorer
from reward_models.scores import ScorerError, Scores
from reward_models.text_scorer import TextScorer
from reward_models.wire import (
    CompareRequest,
    Health,
    Judged,
    Limits,
    Message,
    Sample,
    ScoreRequest,
    health_of,
    judged_of,
    unpack_images,
    unpack_texts,
)

_UNPROCESSABLE = 422
_OPEN_PATHS = frozenset({"/docs", "/openapi.json"})
_REQUESTS_AT_ONCE = 64


class Fault(Message):
    """Why a request was refused."""

    detail: str


_REFUSALS: dict[int | str, dict[str, Any]] = {status: {"model": Fault} for status in (401, 411, 413)}


def make_app(scorer: Scorer | TextScorer, *, token: str = "", limits: Limits | None = None) -> FastAPI:
    """The service of one scorer: ``GET /health``, ``POST /score`` or ``POST /compare``, and its OpenAPI page ``/docs``.

    Args:
        scorer: What is served. One that is not thread-safe is called by one request at a time.
        token: Where it is not empty, every request but those for the OpenAPI page must bear it.
        limits: What one request may hold.

    Returns:
        The application.
    """
    bounds = limits or Limits()
    security = [Security(HTTPBearer(auto_error=False))] if token else []  # for the page; the doorkeeper decides
    app = FastAPI(title=f"flowgrpo: scorer '{scorer.name}'", version=scorer.version, dependencies=security)
    app.add_middleware(Doorkeeper, token=token, most_bytes=bounds.bytes)
    app.add_exception_handler(RequestValidationError, _misshapen)
    lock = nullcontext() if scorer.thread_safe else threading.Lock()

    def judged(call: Callable[[], Scores]) -> Judged:
        try:
            with lock:
                return judged_of(call(), scorer.version)
        except ScorerError as error:
            raise HTTPException(_UNPROCESSABLE, str(error)) from error

    @app.get("/health", responses=_REFUSALS)
    def health() -> Health:
        """What is served, with versions and limits."""
        return health_of(scorer, bounds, _versions())

    @app.post("/score", responses=_REFUSALS)
    def score(request: ScoreRequest) -> Judged:
        """Score pictures or texts one by one."""
        _check_kind(scorer, {"pointwise"}, "/compare")
        batch = _batch(request, scorer.media, bounds)
        return judged(lambda: scorer(*batch))

    @app.post("/compare", responses=_REFUSALS)
    def compare(request: CompareRequest) -> Judged:
        """Judge the pictures of each group together."""
        _check_kind(scorer, {"pairwise", "groupwise"}, "/score")
        batch = _batch(request, scorer.media, bounds)
        return judged(lambda: scorer(*batch, group=request.group, seed=request.seed))

    return app


class Doorkeeper:
    """Turns away, before a body is read, requests without the token and those that are too large.

    Args:
        app: The application behind it.
        token: What a request must bear; empty for none.
        most_bytes: Longest body.
    """

    def __init__(self, app: ASGIApp, *, token: str, most_bytes: int) -> None:
        self.app = app
        self.token = token
        self.most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as ASGI says."""
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (refusal or self.app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        if not self._known(scope["path"], headers.get(b"authorization", b"")):
            return _refused(401, "the token is missing or wrong; right would be the header 'Authorization: Bearer ...'")
        if scope["method"] != "POST":
            return None
        length = headers.get(b"content-length", b"")
        if not length.isdigit():
            return _refused(411, "the request has no Content-Length; right would be a body of a length said beforehand")
        if int(length) > self.most_bytes:
            return _refused(413, f"the body has {int(length)} bytes; right would be at most {self.most_bytes}")
        return None

    def _known(self, path: str, authorization: bytes) -> bool:
        expected = f"Bearer {self.token}".encode()
        return not self.token or path in _OPEN_PATHS or hmac.compare_digest(authorization, expected)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a service at `host`."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def serve(app: FastAPI, *, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Run a service until it is interrupted.

    Args:
        app: From `make_app`.
        host: Address to listen at.
        port: Its port; 0 takes a free one.
        ready: Called with the service's address once connections are taken.

    Raises:
        OSError: The address or the port cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listener:
        shown = f"[{host}]" if ":" in host else host
        ready(f"http://{shown}:{listener.getsockname()[1]}")
        config = uvicorn.Config(app, log_level="warning", limit_concurrency=_REQUESTS_AT_ONCE)
        uvicorn.Server(config).run(sockets=[listener])


_UNPACKED: dict[Media, Callable[[Sequence[Sample], Limits], Any]] = {"image": unpack_images, "text": unpack_texts}


def _batch(
    request: ScoreRequest | CompareRequest, media: Media, limits: Limits
) -> tuple[Any, list[str], list[dict[str, Any]]]:
    try:
        held = _UNPACKED[media](request.samples, limits)
    except ValueError as error:
        raise HTTPException(_UNPROCESSABLE, str(error)) from error
    return held, [sample.prompt for sample in request.samples], [sample.metadata for sample in request.samples]


def _check_kind(scorer: Card, kinds: Collection[str], right: str) -> None:
    if scorer.kind not in kinds:
        raise HTTPException(_UNPROCESSABLE, f"scorer '{scorer.name}' is {scorer.kind}; right would be {right}")


def _misshapen(request: Request, error: Exception) -> JSONResponse:
    """All faults of a body's form in one sentence; the framework's own answer repeats the pictures that were sent."""
    assert isinstance(error, RequestValidationError)
    faults = (f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
    return _refused(_UNPROCESSABLE, f"the request is not of the form that /docs shows: {'; '.join(faults)}")


def _refused(status: int, detail: str) -> JSONResponse:
    return JSONResponse(Fault(detail=detail).model_dump(), status)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "torch": torch.__version__}
    try:
        return {**found, "flowgrpo": metadata.version("flowgrpo")}
    except metadata.PackageNotFoundError:
        return found
