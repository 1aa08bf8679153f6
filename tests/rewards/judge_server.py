"""A chat server on loopback that judges by brightness, and misbehaves on command."""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from reward_models.png import decode_png

Body = dict[str, Any]
Fault = Callable[[BaseHTTPRequestHandler], bool | None]
"""Does something to a request; True means that it has dealt with it, else the reply follows as usual."""


@dataclass
class Judge:
    """What the server was asked, and how it answers.

    faults: one per request in the order of arrival; None, and whatever comes after the last, is answered well.
    """

    write: Callable[[Body], str | Body]
    faults: list[Fault | None] = field(default_factory=list)
    seconds: float = 0.0
    bodies: list[Body] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    most_at_once: int = 0
    url: str = ""
    _busy: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def asked(self) -> int:
        return len(self.bodies)

    @contextmanager
    def arrival(self, body: Body, key: str | None) -> Iterator[Fault | None]:
        with self._lock:
            number = len(self.bodies)
            self.bodies.append(body)
            self.keys.append(key)
            self.times.append(time.monotonic())
            self._busy += 1
            self.most_at_once = max(self.most_at_once, self._busy)
        try:
            yield self.faults[number] if number < len(self.faults) else None
        finally:
            with self._lock:
                self._busy -= 1


def brightness(body: Body) -> list[float]:
    """Mean of every picture in a request."""
    parts = body["messages"][0]["content"]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    pngs = [base64.b64decode(url.removeprefix("data:image/png;base64,"), validate=True) for url in urls]
    return [decode_png(png, most_pixels=10_000).mean().item() for png in pngs]


def words(body: Body) -> str:
    return body["messages"][0]["content"][-1]["text"]


def caption(body: Body) -> str:
    found = re.search(r"Text Caption: \[(.*)\]", words(body))
    assert found
    return found.group(1)


def completion(said: str | Body) -> Body:
    if isinstance(said, dict):
        return said
    return {"choices": [{"message": {"role": "assistant", "content": said}, "finish_reason": "stop"}]}


def send(handler: BaseHTTPRequestHandler, status: int, text: bytes, **headers: str) -> None:
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(text)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(text)


def status(code: int, **headers: str) -> Fault:
    def fault(handler: BaseHTTPRequestHandler) -> bool:
        send(handler, code, b'{"error": {"message": "not now"}}', **headers)
        return True

    return fault


def raw(text: bytes, **headers: str) -> Fault:
    def fault(handler: BaseHTTPRequestHandler) -> bool:
        send(handler, 200, text, **headers)
        return True

    return fault


def hang(seconds: float) -> Fault:
    def fault(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(seconds)

    return fault


def drip(handler: BaseHTTPRequestHandler) -> bool:
    """A byte every 20 ms: no single read ever runs into its timeout."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.02)
    return True


def drop(handler: BaseHTTPRequestHandler) -> bool:
    handler.close_connection = True
    return True


@contextmanager
def running(write: Callable[[Body], str | Body], faults: Sequence[Fault | None] = ()) -> Iterator[Judge]:
    judge = Judge(write, list(faults))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                with judge.arrival(body, self.headers.get("Authorization")) as fault:
                    answered = fault is not None and bool(fault(self))
                    if not answered:
                        time.sleep(judge.seconds)
                # Out of the count before it is sent: the client asks again as soon as it has read the answer.
                if not answered:
                    send(self, 200, json.dumps(completion(judge.write(body))).encode())
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    judge.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield judge
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
