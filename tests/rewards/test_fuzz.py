"""Every parser of what others wrote: whatever it is given, it gives a value of its range or refuses in one line.

Judges' replies have tests of their own (`test_http_parsers.py`, `test_verdicts.py`), prompt files in `tests/cli`.
"""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowgrpo.benchmarks import geneval, unigenbench
from flowgrpo.benchmarks.results import read_entry
from flowgrpo.errors import FlowgrpoError
from reward_models import shapes, tasks
from reward_models.detectors import _as_detections
from reward_models.geneval_rules import check_metadata
from reward_models.http import templates
from reward_models.http.cache import Store
from reward_models.http.chat import _reply, _tokens
from reward_models.http.transport import _Failed, _read_as, _retry_after
from reward_models.ocr_rules import joined, levenshtein, quoted, text_reward, video_reward
from reward_models.png import decode_png, encode_png
from reward_models.scores import ScorerError
from reward_models.tasks import answers, code_format, d1, expressions, maths
from reward_models.tasks.files import load_problems
from reward_models.tasks.problems import TaskError
from reward_models.weights import read_state
from reward_models.wire import CompareRequest, Health, Judged, Limits, Sample, ScoreRequest, scores_of, unpack_images

WORDS = (
    *("a red circle", "two ", "above", "blue squares", '"', "“", "<answer>", "</answer>", "\\boxed{", "}", "\\frac12"),
    *("3 + 4", "*", "(", ")", "/ 0", "^ 9 ^ 9", "9" * 400, "-", ".", "=", "#### 7", "```python\n", "```", "x = 1\n"),
    *("$prompt", "$$", "$x", "1234", "0" * 16, "\x00", "\n", "é", "½", "²", "inf", "nan", "1e999", "-5"),
)
text = st.one_of(st.text(max_size=80), st.lists(st.sampled_from(WORDS), max_size=12).map("".join))
scalars = st.none() | st.booleans() | st.integers() | st.floats() | text
names = st.sampled_from(
    ("tag", "include", "class", "count", "color", "position", "choices", "message", "content", "key")
)
values = st.recursive(
    scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(names | text, v, max_size=4), max_leaves=12
)
PNG = encode_png(torch.arange(48, dtype=torch.uint8).view(4, 4, 3))
broken_png = st.builds(
    lambda at, byte, end: (PNG[:at] + bytes([byte]) + PNG[at + 1 :])[:end],
    st.integers(0, len(PNG) - 1),
    st.integers(0, 255),
    st.integers(0, len(PNG)),
)
data = st.one_of(
    st.binary(max_size=80), broken_png, values.map(lambda v: json.dumps(v).encode()), text.map(lambda t: t.encode())
)
deep = st.sampled_from((b"[" * 9000, b'{"a":' * 9000, b"9" * 9000, b'{"key": NaN}', b"\xff\xfe", b"\x80\x04."))
content = st.one_of(data, deep)

METADATA = {
    "countdown": {"task": "countdown", "numbers": [1, 2, 3], "target": 6},
    "sudoku": {"task": "sudoku", "puzzle": "3002100421030321", "solution": "3412123421434321"},
    "arithmetic": {"task": "arithmetic", "answer": 7},
    "gsm8k": {"task": "gsm8k", "answer": "7"},
    "math": {"task": "math", "answer": "\\frac{1}{2}"},
}


def in_file(suffix: str, read: Callable[[Path], Any]) -> Callable[[bytes], Any]:
    """`read` of a file with that content."""

    def parse(raw: bytes) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"x{suffix}"
            path.write_bytes(raw)
            return read(path)

    return parse


def entry(raw: bytes) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "en").mkdir()
        (Path(folder) / "en" / "counts.json").write_bytes(raw)
        return read_entry(Path(folder), "en")


def cached(raw: bytes) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "ke" / "key.json"
        place.parent.mkdir()
        place.write_bytes(raw)
        return Store(Path(folder)).get("key")


def credit(task: str) -> Callable[[str], Any]:
    return lambda said: tasks.verify(said, METADATA[task]).partial


def decoded(raw: bytes) -> bool:
    picture = decode_png(raw, most_pixels=64)
    return bool(((picture >= 0) & (picture <= 1)).all()) and picture.shape[0] == 3


def unpacked(raw: bytes) -> bool:
    images = unpack_images([Sample(image=base64.b64encode(raw).decode(), prompt="p")], Limits(pixels=64))
    return images.ndim == 4


def share(value: Any) -> bool:
    return 0 <= value <= 1


def anything(value: Any) -> bool:
    return True


@dataclass(frozen=True)
class Parser:
    """`read` of anything that `given` makes fulfils `holds`, or raises one of `refuses`."""

    given: st.SearchStrategy[Any]
    read: Callable[[Any], Any]
    holds: Callable[[Any], bool] = anything
    refuses: tuple[type[Exception], ...] = ()


PARSERS = {
    "captions of shapes": Parser(text, shapes.parse, refuses=(ValueError,)),
    "quoted text": Parser(text, quoted, lambda found: found is None or isinstance(found, str)),
    "OCR lines": Parser(
        st.lists(st.tuples(text, st.floats()), max_size=4), joined, lambda found: isinstance(found, str)
    ),
    "OCR of pictures": Parser(text, lambda said: text_reward(said, "Open 24"), share),
    "OCR of videos": Parser(st.lists(text, max_size=4), lambda said: video_reward(said, "Open 24"), share),
    "edit distance": Parser(text, lambda said: levenshtein(said, "abc"), lambda found: found >= 0),
    "expressions": Parser(text, expressions.evaluate, refuses=(expressions.ExpressionError,)),
    **{task: Parser(text, credit(task), share) for task in METADATA},
    "answer tags": Parser(text, answers.extract_answer),
    "format of answers": Parser(text, answers.format_reward, share),
    "boxes": Parser(text, maths.last_boxed),
    "spelling of expressions": Parser(text, maths.normalised, lambda found: isinstance(found, str)),
    "code blocks": Parser(text, code_format.code_format_reward, lambda found: found in (0.0, 0.5, 1.0)),
    "d1, GSM8K": Parser(
        text, lambda said: d1.gsm8k_rewards(said, "7"), lambda found: all(v <= 2 for v in found.values())
    ),
    "d1, Countdown": Parser(text, lambda said: d1.countdown_reward(said, [1, 2, 3], 6), share),
    "d1, Sudoku": Parser(text, lambda said: d1.sudoku_reward(said, "3002100421030321", "3412123421434321"), share),
    "d1, MATH": Parser(text, lambda said: d1.math_rewards(said, "\\boxed{7}")),
    "templates": Parser(text, templates.template, refuses=(ScorerError,)),
    "Retry-After": Parser(
        st.sampled_from(("nan", "-inf", "1e999", "Fri, 31 Feb 2026 00:00:00 GMT")) | text,
        _retry_after,
        lambda found: 0 <= found < 1e12,
    ),
    "chat replies": Parser(content, lambda raw: _read_as(_reply, raw), refuses=(_Failed,)),
    "usage": Parser(values, _tokens, lambda found: len(found) == 2),
    "scores over HTTP": Parser(values, lambda raw: scores_of(Judged.model_validate(raw), 2), refuses=(ValueError,)),
    "health": Parser(values, Health.model_validate, refuses=(ValueError,)),
    "requests to score": Parser(values, ScoreRequest.model_validate, refuses=(ValueError,)),
    "requests to compare": Parser(values, CompareRequest.model_validate, refuses=(ValueError,)),
    "PNG": Parser(content, decoded, bool, refuses=(ValueError,)),
    "pictures of requests": Parser(content, unpacked, bool, refuses=(ValueError,)),
    "GenEval metadata": Parser(
        st.dictionaries(names, values, max_size=4), check_metadata, lambda found: isinstance(found, str)
    ),
    "detections": Parser(values, lambda raw: _as_detections(raw, 1, "mine"), refuses=(ValueError,)),
    "cached replies": Parser(content, cached),
    "PyTorch weights": Parser(content, in_file(".pt", lambda p: read_state(str(p), "x")), refuses=(ScorerError,)),
    "safetensors": Parser(content, in_file(".safetensors", lambda p: read_state(str(p), "x")), refuses=(ScorerError,)),
    **{
        f"problems {task} {end}": Parser(
            content, in_file(end, lambda p, t=task: load_problems(p, t)), refuses=(TaskError,)
        )
        for task, end in (("gsm8k", ".jsonl"), ("math", ".json"), ("countdown", ".csv"), ("sudoku", ".csv"))
    },
    "UniGenBench CSV": Parser(content, in_file(".csv", unigenbench.load_track), refuses=(FlowgrpoError,)),
    "UniGenBench JSONL": Parser(content, in_file(".jsonl", unigenbench.load_track), refuses=(FlowgrpoError,)),
    "GenEval JSONL": Parser(content, in_file(".jsonl", geneval.load_tracks), refuses=(FlowgrpoError,)),
    "results of other models": Parser(content, entry, refuses=(FlowgrpoError,)),
}


@pytest.mark.parametrize("name", PARSERS)
def test_anything_is_read_or_refused(name: str) -> None:
    parser = PARSERS[name]

    @settings(max_examples=80, deadline=None, derandomize=True, database=None)
    @given(parser.given)
    def check(given_: Any) -> None:
        try:
            value = parser.read(given_)
        except parser.refuses as error:
            assert str(error)
            return
        assert parser.holds(value), value

    check()


ROW = {"index": "0", "prompt_en": "p"}
dimension_texts = st.one_of(
    text,
    values.map(json.dumps),
    st.dictionaries(
        st.sampled_from(("Testpoints", "Testpoint Description", "Primary Categories")),
        st.lists(st.sampled_from(("Style", "Attribute - Color", "x")) | values, max_size=3) | values,
    ).map(json.dumps),
    st.just('{"Testpoints": ["Style"], "Testpoint Description": ["ink"]}'),
)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(dimension_texts, values, values)
def test_any_row_of_unigenbench_is_read_or_named(held: str, index: Any, prompt: Any) -> None:
    row = {"index": index, "prompt_en": prompt, "sub_dims_en": held}
    try:
        (task,) = in_file(".jsonl", unigenbench.load_track)(json.dumps(row).encode()).tasks
    except FlowgrpoError as error:
        assert "x.jsonl:1: " in str(error) and "\n" not in str(error)
        return
    assert task.points and task.prompt.strip()
