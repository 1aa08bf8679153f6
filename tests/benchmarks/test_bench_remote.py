"""A judge over HTTP that fails in every way: nothing is lost, nothing counts twice, and the table is the same."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flowgrpo.benchmarks.judgements import FAILURES_IN_A_ROW
from flowgrpo.benchmarks.unigenbench import load_tracks
from flowgrpo.cli import main
from tests.rewards.judge_server import Body, brightness, completion, drop, raw, running, status, words

PROMPTS = 12


def findings(body: Body) -> Body:
    """As many verdicts as points are asked about; which of them hold follows from the picture alone."""
    return {**completion(said_of(body)), "usage": {"prompt_tokens": 50, "completion_tokens": 3}}


def said_of(body: Body) -> str:
    count = len(re.findall(r"^\d+\. .+ In this prompt: .+$", words(body), re.MULTILINE))
    bits = int(1e4 * brightness(body)[0])
    scores = [bits >> i & 1 for i in range(count)]
    return f"<analysis>{json.dumps(['seen'] * count)}</analysis>\n<score>{scores}</score>"


@pytest.fixture
def pictures(there: Path) -> Path:
    rng = np.random.default_rng(0)
    (there / "pics").mkdir()
    for task in load_tracks("shapes")[0].tasks:
        picture = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(picture).save(there / f"pics/{task.index}_0.png")
    return there


def bench(url: str, out: str, *more: str) -> int:
    key = "--reward.options.unigenbench_judge"
    words = ["--data", "shapes", "--images", "pics", "--samples", "1", "--judge", "unigenbench_judge", "--out", out]
    server = [f"{key}.base_url={url}", f"{key}.model=vlm", f"{key}.retries=0", f"{key}.parse_retries=0"]
    return main(["eval", "unigenbench", *words, *server, "--json", *more])


def test_faults_and_interruptions_leave_the_table_of_a_faultless_run(pictures: Path, capsys) -> None:
    limit = ("--limit", str(PROMPTS))
    with running(findings) as server:
        assert bench(server.url, "whole", *limit) == 0
        assert server.asked == PROMPTS
    whole, said = capsys.readouterr()
    assert f"judging shapes took {PROMPTS} requests, {50 * PROMPTS} + {3 * PROMPTS} tokens\n" in said
    assert 0 < json.loads(whole.splitlines()[0])["accuracy"] < 1
    faults = [status(500), raw(b'{"choices": [{'), drop, None, raw(b"{}"), status(429), status(503)]
    with running(findings, faults) as server:
        assert bench(server.url, "faulty", *limit, "--workers", "1") == 0
        first = json.loads(capsys.readouterr().out.splitlines()[0])
        assert first["judged"] < first["expected"] and server.asked == PROMPTS
        assert bench(server.url, "faulty", *limit) == 0
        assert server.asked == PROMPTS + 6
    assert capsys.readouterr().out == whole
    with running(lambda body: "<score>[1]</score>") as other:
        assert bench(other.url, "faulty", *limit) == 0
        assert other.asked == 0, "another address is the same judge"


def test_a_dead_server_stops_with_one_line(pictures: Path, capsys) -> None:
    with running(findings, [None] * 3 + [status(500)] * FAILURES_IN_A_ROW) as server:
        assert bench(server.url, "out", "--workers", "1") == 1
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        assert (
            f"no valid answer on {FAILURES_IN_A_ROW} pictures in a row" in line and "the same command continues" in line
        )
        assert bench(server.url, "out") == 0
        rows = [json.loads(row) for row in capsys.readouterr().out.splitlines()]
        assert rows[0]["judged"] == rows[0]["expected"]
        assert server.asked <= 60 + FAILURES_IN_A_ROW + 1
