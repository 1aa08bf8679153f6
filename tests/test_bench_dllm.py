"""The benchmark of language models: which runs it wants, what it keeps of them, and what it says is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scripts.bench_dllm import METHODS, equal_time, long_run, long_table, methods_table, verdict
from scripts.benchmarks import add, evaluations, find, held


def _row(run: str, seed: int, before: float, after: float) -> dict[str, Any]:
    scores = {
        "task_strict": {"base": {"mean": before}, "final": {"mean": after}},
        "length": {"base": {"mean": 7.0}, "final": {"mean": 6.5}},
    }
    return {
        "run": run,
        "recipe": run.split()[0],
        "seed": seed,
        "sets": {"heldout": scores},
        "iterations": 40,
        "train_seconds": 120.4,
        "samples": 256,
        "seconds_per_iteration": {"total": 3.0},
        "forwards_per_iteration": {"trained": 1024},
    }


def _evaluation(scorer: str, label: str, mean: float | None) -> dict[str, Any]:
    category = {"countdown": {"mean": mean}}
    return {
        "set": "heldout", "scorer": scorer, "label": label, "mean": mean, "ci95": 0.1, "n": 4, "steps": 8,
        "seconds": 1.5, "by_category": category, "gen_length": 8,
    }  # fmt: skip


def test_methods_are_compared_seed_by_seed_for_the_same_time() -> None:
    jobs = list(equal_time([0, 1], 2.0))
    assert [(job.run, job.seed) for job in jobs] == [(name, seed) for seed in (0, 1) for name in METHODS]
    assert {job.words for job in jobs} == {("--train.iterations", "1000000", "--train.max_minutes", "2.0")}


def test_the_control_differs_from_the_long_run_by_its_rewards_alone() -> None:
    long, control = long_run("gdpo_demo", [0], [0], 10.0)
    assert control.words == (*long.words, "--train.shuffle_rewards", "true")
    assert long.folder == "gdpo_demo-long-seed0" and control.folder == "gdpo_demo-shuffled-seed0"


def test_missing_runs_are_said_to_be_missing() -> None:
    rows = [_row("gdpo_demo", 0, 0.2, 0.45), _row("gdpo_demo", 2, 0.2, 0.35)]
    lines = methods_table(rows, [0, 1, 2]).splitlines()
    assert [line.split()[-1] for line in lines[1:]].count("missing") == 3
    gdpo = next(line for line in lines if line.startswith("gdpo_demo"))
    assert "    2   20.0 ->  40.0   +25.0  +15.0" in gdpo and gdpo.endswith("4.00  7.0 -> 6.5")


def test_the_verdict_counts_seeds_that_gained_enough() -> None:
    rows = [_row("gdpo_demo long", 0, 0.2, 0.4), _row("gdpo_demo long", 1, 0.2, 0.39)]
    rows += [_row("gdpo_demo shuffled", 0, 0.2, 0.23)]
    found = verdict(rows, "gdpo_demo", [0, 1, 2], [0])
    assert "at least 20 points in 1 of 3 seeds (2 measured)" in found
    assert "less than 3 in 0 of 1 (1 measured)" in found
    assert long_table(rows, ["gdpo_demo"], [0, 1, 2], [0]).count("missing") == 1


def test_a_run_keeps_the_scores_of_its_own_evaluation(tmp_path: Path) -> None:
    rows = [_evaluation(name, "base", 0.5) for name in ("task_strict", "length", "gold", "gold.strict", "gold.colour")]
    (tmp_path / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = evaluations(tmp_path, ["task_strict"])["heldout"]
    assert set(text) == {"task_strict", "length"}
    assert text["task_strict"]["base"]["by_category"] == {"countdown": 0.5}
    assert "guidance_scale" not in text["length"]["base"] and text["length"]["base"]["steps"] == 8
    assert set(evaluations(tmp_path, ["gold"])["heldout"]) == {"gold", "gold.strict", "length"}


def test_finished_runs_are_found_again(tmp_path: Path) -> None:
    out = tmp_path / "new" / "dllm.json"
    add(out, _row("gdpo_demo", 0, 0.2, 0.4))
    add(out, _row("mdpo_demo", 0, 0.2, 0.4))
    assert find(held(out), "mdpo_demo", 0) is not None and find(held(out), "mdpo_demo", 1) is None
