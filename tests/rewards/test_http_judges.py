"""Judges over real HTTP: scores, what becomes of failures, and the cache on disk."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from judge_server import Body, Judge, brightness, caption, drop, hang, raw, running, status, words
from torch import Tensor

from reward_models import ScorerError, load
from reward_models.http import cache, server
from reward_models.http.chat import GIVE_UP_AFTER, picture
from reward_models.http.judges import point_judge, point_text
from reward_models.http.transport import Patience

LEVELS = (0.2, 0.8, 0.4, 0.6)
PROMPTS = ["a dog", "a dog", "a dog", "a dog"]
WRONG_FORM = raw(b'{"choices": []}')


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "Patience", partial(Patience, first_wait=0.005))


def images(levels: tuple[float, ...] = LEVELS) -> Tensor:
    return torch.tensor(levels)[:, None, None, None].expand(-1, 3, 4, 5).contiguous()


def scorer_at(judge: Judge, name: str, **options: Any) -> Any:
    return load(name, base_url=judge.url, model="vlm", **options)


def marks(body: Body) -> str:
    (level,) = brightness(body)
    return f"Alignment Score (1-5): {1 + 4 * level:.3f}\nCoherence Score (1-5): 2\nStyle Score (1-5): 5"


def soft(body: Body) -> str:
    a, b = brightness(body)
    first = round(a / (a + b), 6)
    return "\n".join(
        f"{axis} Score:\n Image 1: {first}\n Image 2: {1 - first}" for axis in ("Alignment", "Coherence", "Style")
    )


def think(body: Body) -> str:
    a, b = brightness(body)
    return f"<think>compare</think><answer>Image {1 if a > b else 2} is better</answer>"


def flex(body: Body) -> str:
    a, b = brightness(body)
    bright, dark = ("Image 1", "Image 2") if a > b else ("Image 2", "Image 1")
    categories = [{"name": "A", "cat_winner": bright}, {"name": "B", "cat_winner": dark}]
    return json.dumps({"categories": categories, "winner": bright})


@pytest.fixture
def marking() -> Iterator[Judge]:
    with running(marks) as judge:
        yield judge


def test_marks_of_single_pictures(marking: Judge) -> None:
    scorer = scorer_at(marking, "unifiedreward", axes={"alignment": 3, "Style": 1})
    scores = scorer(images(), ["a dog", "a cat", "$5 [x]", "a dog"])
    expected = torch.tensor([1 + 4 * round(255 * level) / 255 for level in LEVELS], dtype=torch.float64)
    assert torch.allclose(scores.components["alignment"], expected, atol=1e-3)
    assert torch.allclose(scores.scores, (3 * expected + 5) / 4, atol=1e-3)
    assert scores.valid.all() and scorer.components == ("alignment", "coherence", "style")
    assert sorted(caption(body) for body in marking.bodies) == ["$5 [x]", "a cat", "a dog", "a dog"]
    body = marking.bodies[0]
    assert (body["model"], body["temperature"], body["seed"]) == ("vlm", 0.0, 0)


def test_the_final_score_of_the_older_edition() -> None:
    with running(lambda body: f"dog (animal): 1\nFinal Score: {5 * brightness(body)[0]:.2f}") as judge:
        scores = scorer_at(judge, "unifiedreward", edition="1.5")(images(), PROMPTS)
        assert scores.valid.tolist() == [True, True, True, True]
        assert scores.scores.tolist() == pytest.approx([1, 4, 2, 3], abs=0.01)


def logprobs(body: Body) -> Body:
    level = brightness(body)[0]
    top = [{"token": "Yes", "logprob": math.log(level)}, {"token": " no", "logprob": math.log(1 - level)}]
    content = [{"token": "Yes", "logprob": 0.0, "top_logprobs": top}]
    return {"choices": [{"message": {"content": "Yes"}, "logprobs": {"content": content}, "finish_reason": "length"}]}


def test_yes_probability(tmp_path: Path) -> None:
    with running(logprobs) as judge:
        scorer = scorer_at(judge, "vqa", cache=str(tmp_path))
        first, again = (scorer(images(), PROMPTS).scores for _ in range(2))
        assert first.tolist() == pytest.approx(list(LEVELS), abs=1e-6)
        assert torch.equal(first, again) and judge.asked == 4
        body = judge.bodies[0]
        assert (body["logprobs"], body["top_logprobs"], body["max_tokens"]) == (True, 20, 1)


@pytest.mark.parametrize(("name", "write"), [("unifiedreward_pair", soft), ("unifiedreward_think", think)])
def test_pairwise_judges(name: str, write: Callable[[Body], str]) -> None:
    with running(write) as judge:
        scores = scorer_at(judge, name)(images(), PROMPTS, group=[7] * 4, seed=3)
        assert judge.asked == 6 == len(scores.comparisons)
        level = [round(255 * value) / 255 for value in LEVELS]
        for first, second, verdict in scores.comparisons:
            a, b = level[first], level[second]
            assert verdict == pytest.approx(a / (a + b) if write is soft else float(a > b), abs=1e-5)
        assert scores.scores.sum().item() == pytest.approx(2)
        assert scores.scores.argsort().tolist() == [0, 2, 3, 1]


def test_flex_mixes_the_whole_with_its_categories() -> None:
    with running(flex) as judge:
        options = {"overall_weight": 0.3, "category_weight": 0.7, "category_weights": [3.0, 1.0]}
        scores = scorer_at(judge, "unifiedreward_flex", **options)(images(), PROMPTS, group=[0] * 4)
        whole = torch.tensor([0, 3, 1, 2], dtype=torch.float64) / 3
        categories = (3 * whole + (1 - whole)) / 4
        assert torch.allclose(scores.components["overall"], whole)
        assert torch.allclose(scores.components["categories"], categories)
        assert torch.allclose(scores.scores, 0.3 * whole + 0.7 * categories)
        assert len(scores.comparisons) == 6


def findings(body: Body) -> str:
    count = len([line for line in words(body).splitlines() if line[:2] in ("1.", "2.", "3.")])
    held = [1 if brightness(body)[0] > 0.5 else 0] + [1] * (count - 1)
    return f"<analysis>{json.dumps(['seen'] * count)}</analysis>\n<score>{held}</score>"


def test_test_points() -> None:
    points = [{"name": "Color", "cue": "red"}, "Size"]
    rows: list[dict[str, Any]] = [{"test_points": points}, {"test_points": points[:1]}, {}, {"test_points": points}]
    with running(findings) as judge:
        scores = scorer_at(judge, "unigenbench_judge")(images(), PROMPTS, rows)
        assert scores.valid.tolist() == [True, True, False, True]
        assert scores.scores[scores.valid].tolist() == [0.5, 1.0, 1.0]
        assert scores.components["met"][:2].tolist() == [1, 1] and scores.components["points"][:2].tolist() == [2, 1]
        assert scores.errors == {2: "the prompt has no test points"}
        asked = [words(body) for body in judge.bodies]
        assert any("1. Color: red\n2. Size\n" in text for text in asked)
        (found,) = point_judge(base_url=judge.url, model="vlm")(["a dog"], images((0.1,)), [["a", "b", "c"]])
        assert found.value is not None
        assert found.value.holds == (False, True, True) and found.value.explanations == ("seen",) * 3
    with pytest.raises(ScorerError, match="test point is 3"):
        point_text(3)


# -- what becomes of failures ------------------------------------------------------------------------------------------


def test_a_judge_that_cannot_answer_leaves_invalid_samples_and_no_zero() -> None:
    """One picture is refused, one gets no readable reply, one no reply at all; the others are not touched."""
    bad = {"refused": status(400), "silent": status(500)}

    def write(body: Body) -> str:
        return "I cannot say." if caption(body) == "unreadable" else marks(body)

    with running(write) as judge:
        scorer = scorer_at(judge, "unifiedreward", retries=1, concurrency=1)
        judge.faults = [bad["refused"], None, None, None, bad["silent"], bad["silent"]]
        scores = scorer(images(), ["refused", "unreadable", "silent", "good"])
        assert judge.asked == 1 + 3 + 2 + 1
        assert scores.valid.tolist() == [False, False, False, True]
        assert scores.scores[:3].isnan().all() and not (scores.scores == 0).any()
        assert "status 400" in scores.errors[0] and "not now" in scores.errors[0]
        assert scores.errors[1].startswith("no reply of 3 could be read; the last: the reply has no mark for Alignment")
        assert "no answer in 2 attempts" in scores.errors[2] and "status 500" in scores.errors[2]


def test_an_unreadable_reply_is_asked_for_again_with_another_seed() -> None:
    replies = iter(["hm", "Alignment: 9, Coherence: 1, Style: 1"])
    with running(lambda body: next(replies, None) or marks(body)) as judge:
        scores = scorer_at(judge, "unifiedreward", seed=5)(images((0.5,)), ["x"])
        assert scores.valid.all()
        assert [(body["seed"], body["temperature"]) for body in judge.bodies] == [(5, 0.0), (6, 0.3), (7, 0.3)]


def test_a_reply_that_was_cut_says_so() -> None:
    cut = {"choices": [{"message": {"content": "<think>well"}, "finish_reason": "length"}]}
    with running(lambda body: cut) as judge:
        scores = scorer_at(judge, "unifiedreward_think", max_tokens=7, parse_retries=0)(
            images((0.1, 0.9)), PROMPTS[:2], group=[0, 0]
        )
        assert not scores.valid.any() and math.isnan(scores.comparisons[0].verdict)
        assert "it was cut at 7 tokens" in scores.errors[0] and judge.asked == 1


def test_a_pair_without_a_verdict_is_no_tie() -> None:
    def write(body: Body) -> str:
        return think(body) if min(brightness(body)) > 0.3 else "<answer>Both have something.</answer>"

    with running(write) as judge:
        scores = scorer_at(judge, "unifiedreward_think", parse_retries=0)(images(), PROMPTS, group=[0] * 4)
        assert scores.valid.tolist() == [False, True, True, True]
        assert scores.scores[1:].tolist() == [1.0, 0.0, 0.5]
        assert scores.components["comparisons"][1:].tolist() == [2, 2, 2]
        assert "names no winner" in scores.errors[0]


def test_a_dead_server_costs_a_few_questions_and_not_all() -> None:
    with running(marks, [drop] * 99) as judge:
        scorer = scorer_at(judge, "unifiedreward", retries=1, concurrency=1)
        scores = scorer(images((0.1,) * 3 + (0.2,) * 3).mul(torch.arange(1, 7)[:, None, None, None] / 7), ["x"] * 6)
        assert not scores.valid.any() and judge.asked == 2 * GIVE_UP_AFTER
        assert "4 questions before unanswered" in scores.errors[5]


def test_every_fault_at_once_changes_no_score(tmp_path: Path) -> None:
    """Bursts, drops, hangs and damaged answers between good ones: the table is that of a faultless run."""
    faults = [status(500), drop, None, status(429, Retry_After="0.05"), WRONG_FORM, None, hang(0.5), None, status(503)]
    with running(think) as faultless:
        expected = scorer_at(faultless, "unifiedreward_think")(images(), PROMPTS, group=[0] * 4, seed=1)
    with running(think, faults) as judge:
        scorer = scorer_at(judge, "unifiedreward_think", cache=str(tmp_path), timeout=0.3, concurrency=3)
        found = scorer(images(), PROMPTS, group=[0] * 4, seed=1)
        assert found.comparisons == expected.comparisons and torch.equal(found.scores, expected.scores)
        asked = judge.asked
        assert torch.equal(scorer(images(), PROMPTS, group=[0] * 4, seed=1).scores, expected.scores)
        assert judge.asked == asked
        assert len(list(tmp_path.rglob("*.json"))) == 6 and not list(tmp_path.rglob(".*"))


# -- the cache ---------------------------------------------------------------------------------------------------------


def test_an_interrupted_evaluation_asks_for_nothing_twice(tmp_path: Path) -> None:
    """The server dies after two answers; another process continues with the rest once it is back."""
    with running(marks, [None, None, *[drop] * 99]) as judge:
        options = {"cache": str(tmp_path), "retries": 0, "concurrency": 1}
        first = scorer_at(judge, "unifiedreward", **options)(images(), PROMPTS)
        assert first.valid.tolist() == [True, True, False, False]
    with running(marks) as judge:
        whole = scorer_at(judge, "unifiedreward", **options)(images(), PROMPTS)
        assert whole.valid.all() and judge.asked == 2
        assert torch.equal(whole.scores[:2], first.scores[:2])
        fresh = scorer_at(judge, "unifiedreward")(images(), PROMPTS)
        assert torch.equal(whole.scores, fresh.scores) and judge.asked == 6


def test_whatever_decides_a_reply_is_part_of_its_key(tmp_path: Path, marking: Judge) -> None:
    (tmp_path / "other.txt").write_text("Text Caption: [$prompt] Marks?")
    kept = {"cache": str(tmp_path / "cache")}
    changed: list[dict[str, Any]] = [
        {"seed": 1},
        {"revision": "abc"},
        {"max_tokens": 9},
        {"extra": {"top_p": 0.9}},
        {"template": str(tmp_path / "other.txt")},
    ]
    versions = set()
    for asked, options in enumerate([{}, *changed], 1):
        scorer = scorer_at(marking, "unifiedreward", **kept, **options)
        scorer(images((0.5,)), ["x"])
        assert marking.asked == asked, options
        versions.add(scorer.version)
    assert len(versions) == 6
    scorer = scorer_at(marking, "unifiedreward", **kept)
    scorer(images((0.5,)), ["x"])
    assert marking.asked == 6
    scorer(images((0.5,)), ["y"])
    scorer(images((0.5 + 2 / 255,)), ["x"])
    scorer(images((0.5,)).flip(3), ["x"])
    assert marking.asked == 8


def test_equal_questions_are_asked_once(marking: Judge) -> None:
    scores = scorer_at(marking, "unifiedreward")(images((0.5, 0.5, 0.25)), ["x", "x", "x"])
    assert marking.asked == 2 and scores.scores[0] == scores.scores[1] != scores.scores[2]


def test_failures_are_not_kept(tmp_path: Path) -> None:
    with running(lambda body: "hm") as judge:
        scorer = scorer_at(judge, "unifiedreward", cache=str(tmp_path), parse_retries=0)
        assert not scorer(images((0.5,)), ["x"]).valid.any() and not list(tmp_path.iterdir())
        judge.write = marks
        assert scorer(images((0.5,)), ["x"]).valid.all() and judge.asked == 2


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"key": "other", "answer": 1}', b"\xff"])
def test_a_damaged_entry_is_no_entry(tmp_path: Path, damage: bytes) -> None:
    key, store = cache.key_of({"a": 1}), cache.Store(tmp_path)
    store.put(key, {"text": "yes"}, {"a": 1})
    assert store.get(key) == {"text": "yes"}
    (file,) = tmp_path.rglob("*.json")
    file.write_bytes(damage)
    assert store.get(key) is None
    store.put(key, {"text": "yes"}, {"a": 1})
    assert store.get(key) == {"text": "yes"}


def test_readers_never_see_half_an_entry(tmp_path: Path) -> None:
    key, store = cache.key_of({}), cache.Store(tmp_path)
    long = "x" * 100_000
    store.put(key, long, {})

    def rewrite() -> None:
        for _ in range(30):
            store.put(key, long, {})

    writers = [threading.Thread(target=rewrite) for _ in range(3)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert store.get(key) == long
    assert len(list(tmp_path.rglob("*"))) == 2


def test_a_reply_that_the_parser_no_longer_reads_is_asked_for_again(tmp_path: Path, marking: Judge) -> None:
    scorer = scorer_at(marking, "unifiedreward", cache=str(tmp_path))
    scorer(images((0.5,)), ["x"])
    (file,) = tmp_path.rglob("*.json")
    entry = json.loads(file.read_text())
    file.write_text(json.dumps({**entry, "answer": {"text": "old words", "top": []}}))
    assert scorer(images((0.5,)), ["x"]).valid.all() and marking.asked == 2


def test_pictures_are_known_by_their_pixels() -> None:
    one, same, turned = images((0.5,))[0], images((0.5 + 0.1 / 255,))[0], images((0.5,))[0].transpose(1, 2)
    assert picture(one).digest == picture(same).digest != picture(turned).digest


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vqa", {"base_url": None}, "option base_url is not set"),
        ("vqa", {"model": None}, "option model is not set"),
        ("vqa", {"base_url": "localhost:8000"}, "base_url is 'localhost:8000'"),
        ("vqa", {"api_key_env": "NO_SUCH_KEY"}, "'NO_SUCH_KEY' is not set"),
        ("vqa", {"concurency": 3}, r"no option 'concurency' \(did you mean 'concurrency'\?\)"),
        ("vqa", {"concurrency": 0}, "concurrency is 0"),
        ("vqa", {"timeout": -1}, "timeout is -1"),
        ("vqa", {"parse_retries": -1}, "parse_retries is -1"),
        ("vqa", {"max_tokens": 0}, "max_tokens is 0"),
        ("vqa", {"cache": "/dev/null/x"}, "cache folder '/dev/null/x' cannot be made"),
        ("vqa", {"template": "/no/such/file"}, "cannot be read"),
        ("unifiedreward", {"edition": "2"}, "unknown edition '2'"),
        ("unifiedreward", {"axes": {"allignment": 1}}, r"unknown axis 'allignment' \(did you mean 'alignment'\?\)"),
        ("unifiedreward", {"axes": {"style": -1}}, "numbers of 0 or more"),
        ("unifiedreward_pair", {"rounds": 1}, "rounds is 1"),
        ("unifiedreward_flex", {"overall_weight": 0, "category_weight": 0}, "not all of them 0"),
    ],
)
def test_wrong_options_are_named(name: str, options: dict[str, Any], message: str) -> None:
    given = {"base_url": "http://127.0.0.1:9/v1", "model": "vlm", **options}
    with pytest.raises(ValueError, match=message):
        load(name, **{key: value for key, value in given.items() if value is not None})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no place", r"never says \$prompt"),
        ("$promt", r"place '\$promt' \(did you mean 'prompt'\?\)"),
        ("$prompt costs 5$", r"right would be \$\$"),
    ],
)
def test_wrong_templates_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.txt").write_text(text)
    with pytest.raises(ScorerError, match=message):
        load("vqa", base_url="http://127.0.0.1:9/v1", model="vlm", template=str(tmp_path / "t.txt"))
