"""A run whose judge repeats the key that it was sent, with prompts and answers that attack the page about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from flowgrpo.errors import FlowgrpoError
from flowgrpo.recipe import Recipe
from flowgrpo.recipe_loading import load_recipe
from flowgrpo.runfolder import read_jsonl
from flowgrpo.trackers import Trackers
from flowgrpo.trainer import Trainer
from tests.report.test_report_page import outline
from tests.rewards.judge_server import Body, brightness, running, send

Make = Callable[..., Recipe]
CANARY = "canary-5e1f"
ATTACK = """"'></td></script><script>alert(1)</script><img src=x onerror=alert(2)><a href="javascript:alert(3)">"""
VARIABLES = ("JUDGE_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY")


@pytest.fixture(autouse=True)
def _canaries(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, CANARY)


def telling(body: Body) -> str:
    """A verdict that repeats the key and attacks; now and then one that cannot be read."""
    a, b = brightness(body)
    said = f"<think>{ATTACK} you are Bearer {CANARY}</think>"
    return said if int(1e4 * a) % 3 == 0 else f"{said}<answer>Image {1 if a > b else 2} is better</answer>"


def refusing(handler: BaseHTTPRequestHandler) -> bool:
    send(handler, 401, f'{{"error": "{CANARY} is no key of mine, said {handler.headers["Authorization"]}"}}'.encode())
    return True


@pytest.fixture
def judged(make_recipe: Make, files: Path, tmp_path: Path) -> Iterator[tuple[Recipe, Path]]:
    """A recipe of one iteration, its judge running, and the prompts that both training and evaluation use."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(f"a red cat {ATTACK}\nanother {ATTACK}\n", encoding="utf-8")
    with running(telling, [None, None, refusing]) as server:
        options = {"base_url": server.url, "model": "vlm", "retries": 0, "parse_retries": 0, "concurrency": 1}
        recipe = make_recipe(
            data__prompts=str(prompts),
            reward__names={"unifiedreward_think": 0.5, f"{files / 'rewards.py'}:red": 0.5},
            reward__options={
                "unifiedreward_think": {**options, "api_key_env": "JUDGE_KEY", "cache": str(tmp_path / "cache")}
            },
            reward__max_invalid_share=0.9,
            eval__prompts={"mine": str(prompts)},
            train__iterations=2,
            run__images=2,
        )
        yield recipe, prompts
        assert set(server.keys) == {f"Bearer {CANARY}"} and server.asked > 3, "the key was not even sent"


def leaks(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]


def test_no_file_holds_a_key_and_the_page_runs_nothing_of_prompts(
    judged: tuple[Recipe, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    result = Trainer(judged[0]).run()
    rows = read_jsonl(result.folder / "metrics.jsonl")
    assert len(rows) == 2 and max(row["reward/invalid"] for row in rows) > 0, "no answer failed"
    assert any((tmp_path / "cache").rglob("*.json")), "no answer was kept"
    assert leaks(tmp_path) == []
    assert CANARY not in "".join(capfd.readouterr())
    page = (result.folder / "report.html").read_text(encoding="utf-8")
    found = outline(page)
    assert "<script>alert(1)" in "".join(found.texts), "the prompts are not shown"
    assert [tag for tag, _ in found.elements].count("script") == 1
    for tag, attributes in found.elements:
        assert not any(name.startswith("on") for name in attributes), tag
        assert not any((value or "").startswith("javascript:") for value in attributes.values()), tag


def test_the_error_that_ends_a_run_holds_no_key(judged: tuple[Recipe, Path], tmp_path: Path) -> None:
    section = judged[0].reward.model_copy(update={"max_invalid_share": 0.0})
    with pytest.raises(FlowgrpoError, match="could not be scored") as caught:
        Trainer(judged[0].model_copy(update={"reward": section})).run()
    assert "(the key)" in str(caught.value) and CANARY not in str(caught.value)
    assert leaks(tmp_path) == []


@pytest.mark.parametrize(
    "options",
    [
        {"base_url": f"http://me:{CANARY}@127.0.0.1:9/v1"},
        {"base_url": f"me:{CANARY}@127.0.0.1:9"},
        {"base_url": f"http://127.0.0.1:9/v1?api_key={CANARY}"},
        {"base_url": "http://127.0.0.1:9/v1", "extra": {"API-Key": CANARY}},
        {"base_url": "http://127.0.0.1:9/v1", "api_key": CANARY},
    ],
)
def test_a_key_in_the_recipe_is_refused_before_anything_is_written(
    make_recipe: Make, tmp_path: Path, options: dict[str, object]
) -> None:
    with pytest.raises((FlowgrpoError, ValueError)) as caught:
        recipe = make_recipe(
            reward__names={"unifiedreward_think": 1.0},
            reward__options={"unifiedreward_think": {"model": "m", **options}},
        )
        Trainer(recipe).run()
    assert "api_key" in str(caught.value) and CANARY not in str(caught.value)
    assert not (tmp_path / "run").exists() or leaks(tmp_path / "run") == []


def test_trackers_are_told_the_recipe_and_no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    recipe = load_recipe("demo", {"run.trackers": ["tensorboard"], "run.device": "cpu"}).recipe
    trackers = Trackers.start(recipe, tmp_path)
    trackers.log({"iteration": 1, "reward/mean": 0.5})
    trackers.end()
    assert leaks(tmp_path) == []
