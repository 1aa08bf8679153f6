"""What judging took, and that answers are kept unless somebody says otherwise."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from reward_models import load
from reward_models.cost import FREE, Cost, total
from reward_models.http import cache, server
from reward_models.http.cache import PLACE, Store, key_of, open_store
from reward_models.http.transport import Patience
from reward_models.scores import as_scores, concatenate, take
from tests.rewards.judge_server import Body, brightness, completion, running, status

PRICES = {"prices": (2.0, 10.0)}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "Patience", partial(Patience, first_wait=0.005))


def images(*levels: float) -> Tensor:
    return torch.tensor(levels)[:, None, None, None].expand(-1, 3, 4, 5).contiguous()


def counted(body: Body) -> Body:
    """A mark, with usage that tells pictures apart: 100 tokens asked per level, 7 written."""
    level = round(10 * brightness(body)[0])
    said = completion(f"Final Score: {1 + level / 4}")
    return {**said, "usage": {"prompt_tokens": 100 * level, "completion_tokens": 7, "total_tokens": 1}}


def judge_at(url: str, **options: Any) -> Any:
    return load("unifiedreward", base_url=url, model="vlm", edition="1.5", **options)


def test_tokens_and_price_of_a_batch() -> None:
    with running(counted) as judge:
        scores = judge_at(judge.url, **PRICES)(images(0.2, 0.4, 0.4), ["x"] * 3)
    assert judge.asked == 2, "equal questions are asked, and paid for, once"
    assert scores.cost == Cost(requests=2, prompt_tokens=600, reply_tokens=14, price=(600 * 2 + 14 * 10) / 1e6)
    assert str(scores.cost) == "2 requests, 600 + 14 tokens, price 0.00134"


def test_replies_that_cannot_be_read_are_paid_for_and_failures_are_not() -> None:
    def unreadable(body: Body) -> Body:
        return {**completion("hm"), "usage": {"prompt_tokens": 5, "completion_tokens": 1}}

    with running(unreadable, [status(500)]) as judge:
        scores = judge_at(judge.url, parse_retries=2)(images(0.2), ["x"])
    assert not scores.valid.any() and judge.asked == 4
    assert scores.cost == Cost(requests=3, prompt_tokens=15, reply_tokens=3)


@pytest.mark.parametrize("usage", [None, [], {"prompt_tokens": None}, {"prompt_tokens": "many"}])
def test_a_server_that_does_not_count_is_no_fault(usage: Any) -> None:
    with running(lambda body: {**completion("Final Score: 3"), "usage": usage}) as judge:
        scores = judge_at(judge.url)(images(0.2), ["x"])
    assert scores.valid.all() and scores.cost == Cost(requests=1)


def test_pairwise_scores_carry_the_cost_of_their_comparisons() -> None:
    def think(body: Body) -> Body:
        a, b = brightness(body)
        said = completion(f"<answer>Image {1 if a > b else 2} is better</answer>")
        return {**said, "usage": {"prompt_tokens": 10, "completion_tokens": 2}}

    with running(think) as judge:
        scorer = load("unifiedreward_think", base_url=judge.url, model="vlm")
        scores = scorer(images(0.2, 0.4, 0.6), ["x"] * 3, group=[0, 0, 0])
    assert scores.cost == Cost(requests=3, prompt_tokens=30, reply_tokens=6)


def test_costs_add_up_and_stay_with_a_batch() -> None:
    one, other = Cost(requests=1, price=0.5), Cost(remembered=2, reply_tokens=3)
    assert one + other == Cost(requests=1, remembered=2, reply_tokens=3, price=0.5) == total([one, other])
    assert not FREE and one and total([]) == FREE
    part = as_scores(torch.tensor([1.0, 2.0]), cost=one)
    assert take(part, [1]).cost == one and concatenate([part, part]).cost == one + one


# -- the cache ---------------------------------------------------------------------------------------------------------


def test_answers_are_kept_by_default_and_cost_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PLACE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with running(counted) as judge:
        first = judge_at(judge.url)(images(0.2, 0.4), ["x"] * 2)
        again = judge_at(judge.url)(images(0.2, 0.4), ["x"] * 2)
        assert judge.asked == 2 and torch.equal(first.scores, again.scores)
        assert again.cost == Cost(remembered=2) and len(list((tmp_path / "flowgrpo/judges").rglob("*.json"))) == 2
        judge_at(judge.url, cache="none")(images(0.2), ["x"])
        judge_at(judge.url, cache=None)(images(0.2), ["x"])
        monkeypatch.setenv(PLACE, "none")
        judge_at(judge.url)(images(0.2), ["x"])
        assert judge.asked == 5


def test_the_place_of_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PLACE, str(tmp_path / "mine"))
    assert open_store("auto", 1) == Store(tmp_path / "mine", 1)
    assert open_store(str(tmp_path / "named"), 1) == Store(tmp_path / "named", 1)
    monkeypatch.delenv(PLACE)
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    assert open_store("auto", 1) is None, "a home that cannot be written to is no fault"


def test_an_answer_that_cannot_be_kept_is_an_answer(tmp_path: Path) -> None:
    with running(counted) as judge:
        scorer = judge_at(judge.url, cache=str(tmp_path / "c"))
        (tmp_path / "c").rmdir()
        (tmp_path / "c").write_text("a file")
        assert scorer(images(0.2), ["x"]).valid.all()


def test_old_answers_go_when_a_part_is_first_written_to(tmp_path: Path) -> None:
    cache._sweep.cache_clear()
    store, keys = Store(tmp_path, days=2), ["aa" + key_of({"n": n})[2:] for n in range(3)]
    for key, age in zip(keys, (3, 1, 0), strict=True):
        file = tmp_path / "aa" / f"{key}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f'{{"key": "{key}", "answer": {age}}}')
        os.utime(file, (time.time() - 86_400 * age,) * 2)
    assert store.get(keys[0]) == 3
    store.put(keys[2], 5, {})
    assert [store.get(key) for key in keys] == [None, 1, 5]


@pytest.mark.parametrize("prices", [(1.0,), (1.0, -1.0), ("a", "b"), (1, 2, 3)])
def test_wrong_prices_are_refused(prices: Any) -> None:
    with pytest.raises(ValueError, match=r"prices is .*; right would be two numbers"):
        judge_at("http://127.0.0.1:9/v1", prices=prices)
