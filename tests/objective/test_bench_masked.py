"""The benchmark of the masked side: both ways of log-probs agree, jobs are found again, equal accuracy is equal."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from scripts.bench_masked import RULES, cheapest, decoding_jobs, decoding_table, find, logprob_jobs, logprob_table
from scripts.measure_log_probs import build, canvas, chunked, naive, peak_above


def test_both_ways_compute_the_same_log_probs_and_gradients() -> None:
    model = build(50, 12)
    inputs, targets, scored = canvas(50, 12, 5)
    assert int(scored.sum()) == 5 and bool((inputs[~scored] == targets[~scored]).all())
    found = []
    for way in (naive, chunked):
        model.zero_grad()
        log_probs = way(model, inputs, targets, scored, 2)
        log_probs.sum().backward()
        found.append((log_probs.detach(), *(parameter.grad for parameter in model.parameters())))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=2e-6, rtol=1e-4)


def test_peak_counts_what_a_step_allocates_and_frees() -> None:
    def step() -> None:
        torch.full((2**24,), 1.0).sum()  # 64 MiB, gone when it returns

    assert 60 * 2**20 < peak_above(step, torch.nn.Linear(2, 2)) < 90 * 2**20


def test_jobs_are_found_again() -> None:
    jobs = logprob_jobs() + decoding_jobs(8)
    assert len({tuple(job.items()) for job in jobs}) == len(jobs)
    rows = [{**job, "seconds": 1.0} for job in jobs[:5]]
    assert find(rows, jobs[4]) == rows[4] and find(rows, jobs[5]) is None
    reached = {job["order"] for job in decoding_jobs(8) if job["rule"] == "threshold"}
    assert reached == {"low_confidence", "maskgit_plus", "topk_margin"}


def decoded(rule: str, value: float, solved: str, forwards: float) -> dict[str, Any]:
    job = next(
        job
        for job in decoding_jobs(len(solved))
        if (job["task"], job["order"], job["rule"], job["value"]) == ("countdown", "topk_margin", rule, value)
    )
    return {**job, "solved": solved, "forwards": forwards}


def test_cheapest_is_no_worse_than_one_token_per_step() -> None:
    base = decoded("one", 1, "1100", 8.0)
    rows = [
        decoded("threshold", value, solved, n)
        for value, solved, n in zip(RULES["threshold"], ("1000", "0011", "1110"), (2.0, 3.0, 4.0), strict=True)
    ]
    assert cheapest(rows, base) == rows[1]
    assert cheapest(rows[:1], base) is None and cheapest(rows, base, tolerance=0.25) == rows[0]
    line = next(
        line for line in decoding_table([base, *rows], 4).splitlines() if line.startswith("countdown   topk_margin")
    )
    assert line.split() == [
        "countdown",
        "topk_margin",
        "50.0",
        "%",
        "8.00",
        "missing",
        "0.8",
        "50.0",
        "%",
        "3.00",
        "missing",
    ]


def test_table_of_log_probs_says_what_is_missing() -> None:
    sizes = {("naive", "memory"): 400, ("naive", "time"): 2.0, ("chunked", "memory"): 100}
    rows = [
        {**job, "bytes": value * 2**20, "seconds": value}
        for job in logprob_jobs()
        if (job["head"], job["vocabulary"], job["scored"]) == ("trained", 32_000, 512)
        and (value := sizes.get((job["way"], job["measure"])))
    ]
    lines = [line.split() for line in logprob_table(rows).splitlines()[1:]]
    assert lines[0] == ["trained", "32000", "512", "naive", "400", "1.0", "2.00", "1.00"]
    assert lines[1] == ["trained", "32000", "512", "chunked", "100", "4.0", "missing"]
    assert len(lines) == 16 and logprob_table([]).count("missing") == 2 * 16


@pytest.mark.parametrize("vocabulary", [32_000, 126_000])
def test_sizes_are_those_of_the_claim(vocabulary: int) -> None:
    assert any(job["vocabulary"] == vocabulary for job in logprob_jobs())
