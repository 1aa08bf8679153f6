"""Calls over real HTTP on loopback: every fault ends in an answer, a refusal or an error after a bounded time."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from judge_server import Fault, Judge, drip, drop, hang, raw, running, status

from reward_models.http.transport import (
    Channel,
    Patience,
    Refused,
    Unanswered,
    _retry_after,
    gate_of,
    key_from_environment,
    open_channel,
)
from reward_models.scores import ScorerError


def channel_to(judge: Judge, *, concurrency: int = 4, key: str = "", **patience: Any) -> Channel:
    settings = {"timeout": 5.0, "deadline": 10.0, "retries": 4, "first_wait": 0.01, **patience}
    return open_channel(judge.url, concurrency=concurrency, patience=Patience(**settings), key=key)


def said(channel: Channel) -> str:
    return channel.call("/x", {}, read=lambda answer: answer["choices"][0]["message"]["content"])


FAULTS: dict[str, list[Fault | None]] = {
    "burst of 500": [status(500), status(502), status(503)],
    "busy": [status(429), status(408)],
    "dropped": [drop, drop],
    "truncated": [raw(b'{"choices": [{"mess')],
    "shorter than said": [raw(b"{", Content_Length="500")],
    "another form": [raw(b'{"choices": []}'), raw(b'"no"'), raw(b'{"choices": ["a"]}')],
    "not JSON": [raw(b"<html>"), raw(b"\xff\xfe"), raw(b"[" * 50_000)],
    "nothing": [raw(b"")],
}


@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS)
def test_passing_faults_cost_attempts_and_nothing_else(faults: list[Fault | None]) -> None:
    with running(lambda body: "fine", faults) as judge:
        # A body that ends early is only noticed at the timeout while the server keeps the connection.
        assert said(channel_to(judge, timeout=0.3)) == "fine"
        assert judge.asked == len(faults) + 1


def test_attempts_are_bounded() -> None:
    with running(lambda body: "fine", [status(503)] * 9) as judge:
        with pytest.raises(Unanswered, match=r"no answer in 3 attempts .* status 503 .*not now"):
            said(channel_to(judge, retries=2))
        assert judge.asked == 3


@pytest.mark.parametrize("code", [400, 401, 403, 404, 413, 422, 302])
def test_a_refusal_is_final(code: int) -> None:
    with running(lambda body: "fine", [status(code, Location="/elsewhere")]) as judge:
        with pytest.raises(Refused, match=f"status {code} "):
            said(channel_to(judge))
        assert judge.asked == 1


def test_hangs_end_at_the_timeout_and_are_tried_again() -> None:
    with running(lambda body: "fine", [hang(2.0), drip]) as judge:
        start = time.monotonic()
        assert said(channel_to(judge, timeout=0.2)) == "fine"
        assert judge.asked == 3 and time.monotonic() - start < 1.5


def test_the_deadline_bounds_all_attempts_together() -> None:
    with running(lambda body: "fine", [hang(2.0)] * 9) as judge:
        start = time.monotonic()
        with pytest.raises(Unanswered):
            said(channel_to(judge, timeout=5.0, deadline=0.3))
        assert time.monotonic() - start < 1.0


def test_retry_after_is_obeyed_by_everyone_who_asks_that_server() -> None:
    with running(lambda body: "fine", [status(429, Retry_After="0.4")]) as judge:
        with pytest.raises(Unanswered, match="429"):
            said(channel_to(judge, retries=0))
        assert said(channel_to(judge)) == "fine"
        assert judge.times[1] - judge.times[0] >= 0.4


def test_a_pause_beyond_the_deadline_is_not_waited_for() -> None:
    with running(lambda body: "fine", [status(429, Retry_After="100")]) as judge:
        start = time.monotonic()
        with pytest.raises(Unanswered, match="429"):
            said(channel_to(judge, deadline=1.0))
        assert time.monotonic() - start < 0.9 and judge.asked == 1


def test_retry_after_reads_seconds_and_dates() -> None:
    assert _retry_after("7") == 7
    assert 55 < _retry_after(formatdate(time.time() + 60, usegmt=True)) <= 60
    assert [_retry_after(text) for text in ("", "soon", "-3", formatdate(0))] == [0, 0, 0, 0]


def test_one_limit_for_all_who_ask_a_server() -> None:
    with running(lambda body: "fine") as judge:
        judge.seconds = 0.03
        channels = [channel_to(judge, concurrency=limit) for limit in (3, 8, 5)]
        with ThreadPoolExecutor(12) as pool:
            assert set(pool.map(said, channels * 8)) == {"fine"}
        assert judge.asked == 24 and judge.most_at_once == 3


def test_ranks_share_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert gate_of("http://one.invalid/v1", 16).limit == 4
    assert gate_of("http://two.invalid/v1", 3).limit == 1


def test_keys_are_sent_and_never_taken_from_netrc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("default login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("JUDGE_KEY", " secret\n")
    with running(lambda body: "fine") as judge:
        for key in (key_from_environment("JUDGE_KEY"), key_from_environment(None)):
            channel = channel_to(judge, key=key)
            channel.session.trust_env = True
            said(channel)
            assert "secret" not in repr(channel)
        assert judge.keys == ["Bearer secret", None]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: open_channel("127.0.0.1:80", concurrency=1, patience=Patience()), "base_url is '127.0.0.1:80'"),
        (lambda: open_channel("ftp://a/b", concurrency=1, patience=Patience()), "base_url is 'ftp://a/b'"),
        (lambda: open_channel("http://a:b@c/v1", concurrency=1, patience=Patience()), "holds more than an address"),
        (lambda: open_channel("http://a", concurrency=0, patience=Patience()), "concurrency is 0"),
        (lambda: open_channel("http://a", concurrency=1, patience=Patience(), key="a\nb"), "the key holds"),
        (lambda: Patience(timeout=0), "timeout is 0"),
        (lambda: Patience(deadline=float("nan")), "deadline is nan"),
        (lambda: Patience(retries=-1), "retries is -1"),
        (lambda: key_from_environment("NO_SUCH_KEY"), "'NO_SUCH_KEY' is not set"),
    ],
)
def test_wrong_settings_are_named(make: Any, message: str) -> None:
    with pytest.raises(ScorerError, match=message) as caught:
        make()
    assert "right would be" in str(caught.value)


def test_waits_grow_to_their_bound() -> None:
    patience = Patience(first_wait=0.5, longest_wait=10)
    for attempt, longest in enumerate((0.5, 1, 2, 4, 8, 10, 10)):
        waits = [patience.wait(attempt) for _ in range(50)]
        assert longest / 2 <= min(waits) < max(waits) <= longest
