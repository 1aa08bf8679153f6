"""Every fault of `scripts.bench_faults` once: the resumed run equals the undisturbed one; errors are one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.bench_faults import Bench, content, prepare, run, trial, undisturbed
from scripts.faults import FAULTS

SEED = 20
"""Of the first trial; the benchmark's are others."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    yield prepare(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize("number", range(len(FAULTS)), ids=list(FAULTS))
def test_nothing_is_lost(bench: Bench, number: int) -> None:
    assert trial(bench, list(FAULTS)[number], SEED + number) is None


def test_there_are_twenty_and_a_loss_would_be_seen(bench: Bench, tmp_path: Path) -> None:
    assert len(FAULTS) >= 20
    whole = undisturbed(bench, 1)
    assert {"metrics.jsonl", "eval.jsonl", "weights.safetensors"} <= {name.rsplit("/")[-1] for name in whole}
    assert sum(name.startswith("images/") for name in whole) == 9
    (bench.root / "prompts.txt").write_text("a red cat\na blue dog\na green bird\na blue fish\n", encoding="utf-8")
    assert run(bench, tmp_path / "other", None, 0)[0] == [0]
    changed = content(tmp_path / "other")
    assert changed["metrics.jsonl"] != whole["metrics.jsonl"] and changed["eval.jsonl"] != whole["eval.jsonl"]
