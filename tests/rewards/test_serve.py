"""`flowgrpo serve` and the scorer `remote`, over real HTTP on loopback."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import requests
import torch
import uvicorn
from torch import Tensor

from flowgrpo.cli import main
from reward_models import ScorerError, load, remote
from reward_models.comparisons import members_of
from reward_models.cost import Cost
from reward_models.groupwise import groupwise_scorer
from reward_models.pairwise import Tournament, by_pairs, pairwise_scorer
from reward_models.png import decode_png, encode_png, to_bytes
from reward_models.scorer import Scorer
from reward_models.scores import Scores, as_scores
from reward_models.serve import is_loopback, make_app, serve
from reward_models.wire import Health, Judged, Limits, judged_of, pack_image, scores_of

SMALL = Limits(samples=3, pixels=64, bytes=20_000)


def brightness(images: Tensor, prompts: list[str], metadata: list[Any]) -> Scores:
    values = images.mean((1, 2, 3)).double()
    missing = torch.tensor([prompt == "none" for prompt in prompts])
    rows = torch.tensor([row.get("plus", 0.0) for row in metadata], dtype=torch.float64)
    return as_scores((values + rows).masked_fill(missing, torch.nan), components={"red": images[:, 0].mean((1, 2))})


POINTWISE = Scorer(name="bright", version="v1", range=(0.0, torch.inf), components=("red",), function=brightness)


def brighter(prompts: list[str], a: Tensor, b: Tensor) -> list[float]:
    gaps = (a - b).mean((1, 2, 3)).tolist()
    return [float("nan") if "none" in prompt else float(gap > 0) for prompt, gap in zip(prompts, gaps, strict=True)]


PAIRWISE = pairwise_scorer(by_pairs(brighter), name="brighter", version="p1", tournament=Tournament(rounds=2))


@contextmanager
def serving(scorer: Scorer, **options: Any) -> Iterator[str]:
    config = uvicorn.Config(make_app(scorer, **options), port=0, log_level="critical")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        # Without force it waits for a connection that the traceback of a failed test keeps open.
        server.should_exit = server.force_exit = True
        thread.join(5)


@pytest.fixture(scope="module")
def small() -> Iterator[str]:
    with serving(POINTWISE, limits=SMALL) as url:
        yield url


@pytest.fixture(scope="module")
def guarded() -> Iterator[str]:
    with serving(POINTWISE, token="s3cret") as url:
        yield url


def pictures(count: int, *, seed: int = 0) -> Tensor:
    """Values of an 8-bit picture, so that nothing is lost on the way."""
    levels = torch.randint(256, (count, 3, 6, 5), generator=torch.Generator().manual_seed(seed))
    return levels.float() / 255


def sample(**changes: Any) -> dict[str, Any]:
    return {"image": pack_image(pictures(1)[0]), "prompt": "x", **changes}


def test_png_keeps_every_level() -> None:
    image = (torch.arange(256).float() / 255).repeat(3, 1).view(3, 16, 16)
    assert torch.equal(decode_png(encode_png(to_bytes(image)), most_pixels=256), image)
    assert to_bytes(torch.full((3, 1, 1), 0.5)).unique().item() == 128


def test_remote_scores_equal_local_ones(small: str) -> None:
    """Eight pictures through requests of at most three, with components, metadata and an invalid one."""
    scorer = load("remote", url=small)
    images, prompts = pictures(8), ["x"] * 4 + ["none"] + ["ü \N{SNOWMAN}"] * 3
    rows = [{"plus": i / 7} for i in range(8)]
    here, there = POINTWISE(images, prompts, rows), scorer(images, prompts, rows)
    assert torch.equal(here.valid, there.valid) and here.errors == there.errors and list(there.errors) == [4]
    for name in ("scores", "red"):
        a, b = (s.scores if name == "scores" else s.components[name] for s in (here, there))
        assert torch.equal(a.nan_to_num(-1), b.nan_to_num(-1))
    card = ("name", "version", "kind", "range", "components", "needs", "licence", "higher_is_better")
    assert all(getattr(scorer, field) == getattr(POINTWISE, field) for field in card)


def test_remote_comparisons_equal_local_ones() -> None:
    group = [5, 5, 9, 5, 9, 5, 5, 2]
    prompts = ["none" if label == 9 else f"p{label}" for label in group]
    images = pictures(8, seed=1)
    with serving(PAIRWISE, limits=Limits(samples=5)) as url:
        scorer = load("remote", url=url)
        for seed in (0, (3, 4)):
            here, there = (s(images, prompts, group=group, seed=seed) for s in (PAIRWISE, scorer))
            assert torch.equal(here.scores.nan_to_num(-1), there.scores.nan_to_num(-1))
            assert here.errors.keys() == there.errors.keys() == {2, 4, 7}
            by_group = [c for rows in members_of(group).values() for c in here.comparisons if c.first in rows]
            assert [c[:2] for c in there.comparisons] == [c[:2] for c in by_group]
        refused = requests.post(f"{url}/score", json={"samples": [sample()]}, timeout=5)
        assert refused.status_code == 422 and "right would be /compare" in refused.json()["detail"]


def test_health_and_the_page(small: str) -> None:
    health = Health.model_validate(requests.get(f"{small}/health", timeout=5).json())
    assert health.status == "ok" and health.range == (0.0, None) and health.limits == SMALL
    assert health.versions["torch"] == torch.__version__
    described = requests.get(f"{small}/openapi.json", timeout=5).json()
    assert {"/health", "/score", "/compare"} <= described["paths"].keys()
    assert requests.get(f"{small}/docs", timeout=5).status_code == 200


def test_text_scorers_are_served() -> None:
    """Three requests of at most three texts; a text that its metadata spoil stays invalid, with the reason."""
    local = load("task")
    rows = [{"task": "arithmetic", "answer": str(i)} for i in range(6)] + [{"task": "none"}]
    texts, prompts = ["#### 0", "#### 1", "#### 9", "\N{SNOWMAN}", "3", "#### 5", "x"], [f"p{i}" for i in range(7)]
    with serving(local, limits=SMALL) as url:
        scorer = load("remote", url=url)
        here, there = local(texts, prompts, rows), scorer(texts, prompts, rows)
        assert (scorer.media, scorer.version, scorer.components) == ("text", local.version, ("strict",))
        assert there.valid.tolist() == here.valid.tolist() and not here.valid[6] and here.errors == there.errors
        assert torch.equal(here.scores.nan_to_num(-1), there.scores.nan_to_num(-1))
        with pytest.raises(ScorerError, match="reads texts"):
            scorer(pictures(1), ["x"])
        refused = requests.post(f"{url}/score", json={"samples": [sample()]}, timeout=5)
        assert refused.status_code == 422 and "samples[0] lacks 'text' or has 'image'" in refused.json()["detail"]


def test_groupwise_scorers_and_costs_travel() -> None:
    def ranks(images: Tensor, prompts: list[str], metadata: list[Any]) -> Scores:
        order = images.mean((1, 2, 3)).argsort().argsort().double()
        return as_scores(order, cost=Cost(requests=1, prompt_tokens=len(order), price=0.5))

    local = groupwise_scorer(ranks, name="ranks", version="g1")
    images, group = pictures(7, seed=2), [4, 1, 4, 1, 4, 4, 1]
    prompts = [f"p{label}" for label in group]
    with serving(local, limits=Limits(samples=4)) as url:
        there = load("remote", url=url)(images, prompts, group=group)
    here = local(images, prompts, group=group)
    assert torch.equal(here.scores, there.scores) and sorted(here.scores[[1, 3, 6]].tolist()) == [0, 1, 2]
    assert here.cost == there.cost == Cost(requests=2, prompt_tokens=7, price=1.0)


# -- who may ask, and what ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Bearer ", "Basic s3cret", "Bearer s3cret2", "s3cret"])
def test_without_the_token_nothing_is_told(guarded: str, header: str | None) -> None:
    headers = {"Authorization": header} if header else {}
    for method, path in (("GET", "/health"), ("POST", "/score"), ("POST", "/compare")):
        answer = requests.request(method, guarded + path, headers=headers, json={"samples": []}, timeout=5)
        assert answer.status_code == 401 and answer.json().keys() == {"detail"}


def test_with_the_token(guarded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCORER_TOKEN", "s3cret")
    assert load("remote", url=guarded, token_env="SCORER_TOKEN")(pictures(2), ["x", "y"]).valid.all()
    with pytest.raises(ScorerError, match=r"no scorer can be reached.*status 401.*token is missing"):
        load("remote", url=guarded)


BAD: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "JSON"),
    "no samples": ({}, "samples"),
    "unknown field": ({"samples": [], "sample": 1}, "sample"),
    "no prompt": ({"samples": [{"image": ""}]}, "prompt"),
    "no picture at all": ({"samples": [sample(image=None)]}, "samples[0] lacks 'image' or has 'text'"),
    "picture and text": ({"samples": [sample(text="x")]}, "right would be 'image' alone"),
    "no base64": ({"samples": [sample(image="!!")]}, "samples[0].image is not base64"),
    "no picture": ({"samples": [sample(), sample(image="AAAA")]}, "samples[1].image: the data is not a whole PNG"),
    "half a picture": ({"samples": [sample(image=sample()["image"][:80])]}, "not a whole PNG"),
    "too large": ({"samples": [sample(image=pack_image(torch.zeros(3, 9, 9)))]}, "9 x 9 pixels"),
    "two sizes": ({"samples": [sample(), sample(image=pack_image(torch.zeros(3, 4, 4)))]}, "pictures of one size"),
    "too many": ({"samples": [sample()] * 4}, "4 samples; right would be at most 3"),
}


@pytest.mark.parametrize(("body", "reason"), BAD.values(), ids=BAD)
def test_bad_requests_are_refused_with_a_reason(small: str, body: Any, reason: str) -> None:
    text = body if isinstance(body, str) else json.dumps(body)
    answer = requests.post(f"{small}/score", data=text, headers={"Content-Type": "application/json"}, timeout=5)
    assert answer.status_code == 422 and reason in answer.text
    detail = answer.json()["detail"]
    assert isinstance(detail, str) and "\n" not in detail and len(detail) < 600


def test_long_bodies_are_refused_unread(small: str) -> None:
    answer = requests.post(f"{small}/score", data=b"x" * 20_001, timeout=5)
    assert (answer.status_code, answer.json()["detail"][:26]) == (413, "the body has 20001 bytes; ")
    unsaid = requests.post(f"{small}/score", data=iter([b"x"]), timeout=5)
    assert unsaid.status_code == 411


def test_a_png_in_another_format_is_refused() -> None:
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (2, 2)).save(file, "GIF")
    with pytest.raises(ValueError, match="not a whole PNG"):
        decode_png(file.getvalue(), most_pixels=99)


def test_misuse_of_the_scorer_is_the_callers_fault() -> None:
    with serving(PAIRWISE) as url:
        body = {"samples": [sample(), sample(prompt="y")], "group": [0, 0]}
        answer = requests.post(f"{url}/compare", json=body, timeout=5)
        assert answer.status_code == 422 and "one prompt per group" in answer.json()["detail"]


def test_one_at_a_time_where_the_scorer_is_not_thread_safe() -> None:
    busy: list[int] = [0, 0]

    def slow(images: Tensor, prompts: list[str], metadata: list[Any]) -> Scores:
        busy[0] += 1
        busy[1] = max(busy)
        time.sleep(0.02)
        busy[0] -= 1
        return as_scores(images.mean((1, 2, 3)))

    with serving(replace(POINTWISE, function=slow, thread_safe=False), limits=Limits(samples=1)) as url:
        assert load("remote", url=url)(pictures(6), ["x"] * 6).valid.all()
    assert busy == [0, 1]


# -- the client's failures ---------------------------------------------------------------------------------------------


def test_a_server_that_dies_leaves_invalid_samples() -> None:
    with serving(POINTWISE) as url:
        scorer = load("remote", url=url, retries=0)
    scores = scorer(pictures(2), ["x", "y"])
    assert not scores.valid.any() and scores.scores.isnan().all() and "no answer in 1 attempts" in scores.errors[1]


def test_another_version_stops_the_run() -> None:
    with serving(POINTWISE) as url:
        scorer = load("remote", url=url)
        channel, health = scorer.function.args  # type: ignore[attr-defined]
        before = health.model_copy(update={"version": "v0"})
        old = replace(scorer, function=partial(remote._score, channel, before))
        with pytest.raises(ScorerError, match=r"now serves version v1 .* served v0 before"):
            old(pictures(1), ["x"])


def test_nobody_there_is_said_at_load() -> None:
    with pytest.raises(ScorerError, match=r"no scorer can be reached at http://127.0.0.1:9"):
        load("remote", url="http://127.0.0.1:9", retries=0)


def test_answers_about_other_samples_are_refused() -> None:
    for judged in (
        Judged(version="v", scores=[1.0]),
        Judged(version="v", scores=[1.0, 2.0], components={"a": [1.0]}),
        Judged(version="v", scores=[1.0, 2.0], comparisons=[(0, 2, 1.0)]),
    ):
        with pytest.raises(ValueError, match="right would be 2"):
            scores_of(judged, 2)
    scores = as_scores(torch.tensor([0.1, torch.nan, 1 / 3]), errors={1: "why"})
    again = scores_of(Judged.model_validate_json(judged_of(scores, "v").model_dump_json()), 3)
    assert torch.equal(again.scores.nan_to_num(-1), scores.scores.nan_to_num(-1)) and again.errors == {1: "why"}


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--scorer", "clipp"], "unknown scorer 'clipp'"),
        (["--scorer", "gold", "--host", "0.0.0.0"], "others can reach '0.0.0.0'; right would be --token-env"),
        (["--scorer", "gold", "--token-env", "NO_SUCH_TOKEN"], "'NO_SUCH_TOKEN' is not set"),
        (["--scorer", "gold", "--max-samples", "0"], "'0' is no count"),
        (["--scorer", "gold", "--prt", "1"], "unknown option '--prt'"),
    ],
)
def test_wrong_command_lines(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", *words]) == 2
    assert message in capsys.readouterr().err


def test_the_command_serves(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole command, its server stopped from outside as by an interrupt."""
    servers: list[uvicorn.Server] = []
    begin = uvicorn.Server.run

    def run(self: uvicorn.Server, **options: Any) -> None:
        servers.append(self)
        begin(self, **options)

    monkeypatch.setattr(uvicorn.Server, "run", run)
    done: list[int] = []
    words = ["serve", "--scorer", "gold", "--port", "0", "--run.device", "cpu", "--max-samples", "2"]
    thread = threading.Thread(target=lambda: done.append(main(words)), daemon=True)
    thread.start()
    while not (servers and servers[0].started):
        time.sleep(0.01)
        assert thread.is_alive()
    address = capsys.readouterr().out.split(" at ")[1].split(",")[0]
    scorer = load("remote", url=address)
    assert scorer.name == "gold" and scorer.version == load("gold").version
    image = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(scorer(image, ["a red circle"] * 3).valid, load("gold")(image, ["a red circle"] * 3).valid)
    port = int(address.rpartition(":")[2])
    with pytest.raises(OSError, match="in use"):
        serve(make_app(POINTWISE), host="127.0.0.1", port=port, ready=lambda url: None)
    servers[0].should_exit = True
    thread.join(5)
    assert done == [0]


def test_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.4", "localhost.example", "", "example.org")))


def test_no_pickle_on_the_wire() -> None:
    assert base64.b64decode(sample()["image"])[:4] == b"\x89PNG"
