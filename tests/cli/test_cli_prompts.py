"""Prompt files of every kind, and the stateless order in which they are trained on."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowgrpo.errors import PromptError
from flowgrpo.prompts import EMBEDDED, Prompt, load_prompts, prompts_for

PIECES = (
    b"prompt",
    b",",
    b"\t",
    b"\n",
    b'"',
    b'{"prompt": ',
    b'"a"',
    b"}",
    b"[" * 5000,
    b"9" * 5000,
    b"\xff",
    b"\0",
    b"\r",
)
prompt_bytes = st.one_of(st.binary(max_size=60), st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join))


def test_text(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_bytes("\ufeffa red circle\r\n\r\n  a caf\u00e9\u2028corner \n".encode())
    assert load_prompts(path).prompts == (Prompt("a red circle", {}, 1), Prompt("a caf\u00e9\u2028corner", {}, 3))


def test_json_lines_with_metadata(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    row = '{"tag": "counting", "include": [{"class": "dog", "count": 2}], "prompt": "two dogs"}'
    path.write_text(f"\n{row}\n")
    (prompt,) = load_prompts(path).prompts
    assert (prompt.text, prompt.line) == ("two dogs", 2)
    assert prompt.metadata == {"tag": "counting", "include": [{"class": "dog", "count": 2}]}


def test_table_with_quotes_and_line_breaks(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text('tag,prompt\na,"red, and blue"\nb,"two\nlines"\n')
    assert [(p.text, p.metadata["tag"], p.line) for p in load_prompts(path).prompts] == [
        ("red, and blue", "a", 2),
        ("two\nlines", "b", 4),
    ]


def test_published_tables_are_read_as_they_are(tmp_path: Path) -> None:
    """DrawBench is a CSV of `Prompts,Category`, PartiPrompts a TSV whose quotes belong to the prompts."""
    (tmp_path / "d.csv").write_text('Prompts,Category\n"A red, round car",Colors\n')
    (tmp_path / "p.tsv").write_text('Prompt\tCategory\tChallenge\tNote\n"B" on a wall\tAbstract\tBasic\t\n')
    (first,), (second,) = (load_prompts(tmp_path / name).prompts for name in ("d.csv", "p.tsv"))
    assert (first.text, first.metadata) == ("A red, round car", {"category": "Colors"})
    assert second.text == '"B" on a wall' and second.metadata["category"] == "Abstract"


@given(st.sampled_from([".txt", ".jsonl", ".csv", ".tsv"]), prompt_bytes)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_bytes_are_read_or_refused_in_one_line(suffix: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"p{suffix}"
        path.write_bytes(content)
        try:
            loaded = load_prompts(path)
        except PromptError as error:
            assert "\n" not in str(error)
            return
    assert loaded.prompts and all(prompt.text.strip() for prompt in loaded.prompts)


def test_duplicates_are_kept_and_warned_about(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text("a\nb\na\na\n")
    loaded = load_prompts(path)
    assert [prompt.text for prompt in loaded.prompts] == ["a", "b", "a", "a"]
    assert loaded.warnings == (f"{path}: 2 repeated prompts, the first in line 3 (as in line 1): 'a'",)


def test_published_files_of_problems_are_read_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(
        '{"question": "6*7?", "answer": "#### 42"}\n\n{"question": "1?", "answer": "#### 1"}'
    )
    name = f"gsm8k:{tmp_path / 'train.jsonl'}"
    first, second = load_prompts(name).prompts
    assert "<answer>" in first.text and first.metadata["answer"] == "42" and second.line == 2
    assert load_prompts(name.replace(":", "/plain:", 1), limit=1).prompts[0].text == "6*7?"
    for wrong, message in (
        (f"countdown:{tmp_path / 'train.jsonl'}", "train.jsonl:1: the field 'input' is missing"),
        ("gsm8k:none.jsonl", r"none\.jsonl cannot be read"),
        (name.replace(":", "/plian:", 1), "plain or chat, got 'plian'"),
        ("gsm9k:none.jsonl", "does not exist.*gsm8k:"),
    ):
        with pytest.raises(PromptError, match=message):
            load_prompts(wrong)


def test_limit(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a\nb\nc\n")
    assert [prompt.text for prompt in load_prompts(tmp_path / "p.txt", limit=2).prompts] == ["a", "b"]


@pytest.mark.parametrize("name", list(EMBEDDED))
def test_embedded_sets(name: str) -> None:
    loaded = load_prompts(name)
    assert len(loaded.prompts) >= 32 and not loaded.warnings


@given(
    seed=st.integers(0, 2**63),
    count=st.integers(1, 12),
    size=st.integers(1, 30),
)
@settings(max_examples=60, deadline=None)
def test_each_prompt_once_per_epoch_and_never_twice_in_an_iteration(seed: int, count: int, size: int) -> None:
    """The order of `size` prompts, `count` at a time, over enough iterations for several whole epochs."""
    iterations = [prompts_for(i, seed=seed, count=count, size=size) for i in range(1, 3 * size + 1)]
    assert all(len(drawn) == count for drawn in iterations)
    if count <= size:
        assert all(len(set(drawn)) == count for drawn in iterations)
    stream = [index for drawn in iterations for index in drawn]
    for epoch in range(len(stream) // size):
        assert sorted(stream[epoch * size : (epoch + 1) * size]) == list(range(size))


def test_order_is_a_function_of_seed_and_iteration() -> None:
    order = [prompts_for(i, seed=7, count=5, size=13) for i in range(1, 30)]
    assert order[::-1] == [prompts_for(i, seed=7, count=5, size=13) for i in range(29, 0, -1)]
    assert order != [prompts_for(i, seed=8, count=5, size=13) for i in range(1, 30)]
    assert order[0] == [6, 11, 8, 5, 1], "written down once: another Python or platform must agree"


def test_order_is_uniform() -> None:
    """Position 0 of 2,000 seeds over 4 prompts: 500 each, standard error 19; five of them allowed."""
    firsts = Counter(prompts_for(1, seed=seed, count=1, size=4)[0] for seed in range(2000))
    assert all(abs(firsts[index] - 500) < 97 for index in range(4))


@pytest.mark.parametrize("arguments", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_counts_start_at_one(arguments: tuple[int, int, int]) -> None:
    iteration, count, size = arguments
    with pytest.raises(ValueError, match="start at 1"):
        prompts_for(iteration, seed=0, count=count, size=size)
