"""Memory and time of log-probs over large vocabularies, and forwards per answer of every decoding order.

    python -m scripts.bench_masked

Two parts, `logprobs` and `decoding`, whose rows go into one JSON file one by one; those that it holds are not measured
again, missing ones are printed as missing. `scripts.measure_log_probs` says how memory and time are measured. Decoding
is of tiny-dllm, greedy, on held-out problems: one token per step against several, by fixed shares, by a confidence
threshold and by an entropy bound.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from flowgrpo.masked_rollout import decode, texts_of
from flowgrpo.policies.masked_lm import load_masked_policy
from flowgrpo.policy import TextPolicy
from flowgrpo.prompts import load_prompts
from flowgrpo.recipe_kinds import eval_settings
from flowgrpo.recipe_loading import load_recipe
from flowgrpo.runfolder import write_atomically
from reward_models.tasks import verify
from scripts.benchmarks import held, where
from scripts.measure_log_probs import measure

RECIPE = "diffu_grpo_demo"
Row = dict[str, Any]

LENGTH = 512
VOCABULARIES, SCORED = (32_000, 126_000), (512, 256)
HEADS, WAYS = ("trained", "frozen"), ("naive", "chunked")

WINDOWS = {"arithmetic": 8, "countdown": 8, "sudoku": 16}
"""Tokens of an answer: what tiny-dllm was trained with."""
ORDERS = ("low_confidence", "maskgit_plus", "topk_margin", "entropy", "random")
RULES: dict[str, tuple[float, ...]] = {
    "one": (1,),
    "steps": (0.5, 0.25),
    "threshold": (0.6, 0.8, 0.95),
    "entropy_bound": (0.01, 0.1, 0.5),
}
"""Rule -> its values: steps are a share of the window, the threshold a confidence, the bound in nats."""
SETTINGS: dict[str, Callable[[float, int], dict[str, Any]]] = {
    "one": lambda value, window: {"steps": None},
    "steps": lambda value, window: {"steps": int(value * window)},
    "threshold": lambda value, window: {"steps": None, "threshold": value},
    "entropy_bound": lambda value, window: {"steps": None, "entropy_bound": value},
}
TOLERANCE = 0.01
"""Accuracy that may be lost and still count as equal."""


def main() -> None:
    """Measure what is missing, then print."""
    args = _arguments()
    torch.set_num_threads(1)
    jobs = {"logprobs": logprob_jobs(), "decoding": decoding_jobs(args.problems)}
    wanted = [job for part in args.parts for job in jobs[part]]
    if not args.table:
        _measure(args.out, wanted, time.monotonic() + 60 * args.minutes)
    rows = held(args.out)
    missing = [job for job in wanted if find(rows, job) is None]
    print(logprob_table(rows), decoding_table(rows, args.problems), sep="\n\n")
    for job in missing:
        print("missing:", " ".join(str(value) for value in job.values()))


def logprob_jobs() -> list[Row]:
    """Every size with both measures and ways; chunks have the library's default size."""
    keys = ("head", "vocabulary", "scored", "measure", "way")
    values = product(HEADS, VOCABULARIES[::-1], SCORED, ("memory", "time"), WAYS)
    return [{"part": "logprobs", **dict(zip(keys, value, strict=True))} for value in values]


def decoding_jobs(problems: int) -> list[Row]:
    """Task by task, every order with every rule that it can have: a threshold is a probability or a gap of two."""
    return [
        {"part": "decoding", "task": task, "order": order, "rule": rule, "value": value, "problems": problems}
        for task, order, rule in product(WINDOWS, ORDERS, RULES)
        for value in RULES[rule]
        if _fits(order, rule)
    ]


def _fits(order: str, rule: str) -> bool:
    return rule != "threshold" or order not in ("random", "entropy")


def find(rows: Sequence[Row], job: Row) -> Row | None:
    """The row that a job has filled, if it has."""
    return next((row for row in rows if all(row.get(key) == value for key, value in job.items())), None)


def _measure(out: Path, jobs: Sequence[Row], stop: float) -> None:
    """Fill the jobs that are missing, until the time is up."""
    for job in jobs:
        if find(held(out), job) is not None:
            continue
        if time.monotonic() > stop:
            return
        row = {**job, **MEASURES[job["part"]](job), **where()}
        write_atomically(out, "[\n" + ",\n".join(json.dumps(held_row) for held_row in [*held(out), row]) + "\n]\n")


def measured_logprobs(job: Row) -> Row:
    """One size, one way, one measure, in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        return pool.submit(measure, {**job, "length": LENGTH, "chunk": None}).result()


@cache
def decoder() -> Callable[[Row], Row]:
    """What decodes and verifies a job; the model is loaded once."""
    recipe = load_recipe(RECIPE).recipe
    policy = load_masked_policy(recipe.model, device=torch.device("cpu"), seed=0)
    return partial(measured_decoding, policy, eval_settings(recipe))


def measured_decoding(policy: TextPolicy, settings: Mapping[str, Any], job: Row) -> Row:
    """Answers to held-out problems of a task: which are right, and what they took.

    Returns:
        solved: 0 or 1 per problem, as text; forwards: mean canvases per answer.
    """
    window = WINDOWS[job["task"]]
    chosen = {**settings, "gen_length": window, "order": job["order"], **SETTINGS[job["rule"]](job["value"], window)}
    prompts = load_prompts(f"tasks/{job['task']}/heldout", limit=job["problems"]).prompts
    tokens = [policy.tokens(prompt.text) for prompt in prompts]
    rollout, _ = decode(policy, tokens, [(0, row) for row in range(len(prompts))], chosen)
    texts = texts_of(policy, rollout.ids, max(map(len, tokens)))
    right = (verify(text, prompt.metadata).strict for text, prompt in zip(texts, prompts, strict=True))
    return {
        "solved": "".join(str(int(value)) for value in right),
        "forwards": round(float(rollout.forwards.double().mean()), 4),
    }


MEASURES: dict[str, Callable[[Row], Row]] = {
    "logprobs": measured_logprobs,
    "decoding": lambda job: decoder()(job),
}


def logprob_table(rows: Sequence[Row]) -> str:
    """Memory and processor time of every size, and how often less than the naive way."""
    lines = ["head     V       scored  way      peak MiB  times less  seconds  of naive"]
    for head, size, scored in product(HEADS, VOCABULARIES, SCORED):
        base = cell(rows, head, size, scored, WAYS[0])
        lines += [_logprob_line(head, size, scored, way, cell(rows, head, size, scored, way), base) for way in WAYS]
    return "\n".join(lines)


def cell(rows: Sequence[Row], head: str, size: int, scored: int, way: str) -> tuple[float | None, float | None]:
    """(bytes, seconds) of one size and way; None where it is missing."""
    job = {"part": "logprobs", "head": head, "vocabulary": size, "scored": scored, "way": way}
    memory, seconds = (find(rows, {**job, "measure": what}) for what in ("memory", "time"))
    return memory and memory["bytes"], seconds and seconds["seconds"]


def _logprob_line(
    head: str,
    size: int,
    scored: int,
    way: str,
    own: tuple[float | None, float | None],
    base: tuple[float | None, float | None],
) -> str:
    (memory, seconds), (memory_0, seconds_0) = own, base
    amount = "missing" if memory is None else f"{memory / 2**20:.0f}"
    less = f"{memory_0 / memory:.1f}" if memory and memory_0 else ""
    spent = "missing" if seconds is None else f"{seconds:.2f}"
    share = f"{seconds / seconds_0:.2f}" if seconds and seconds_0 else ""
    return f"{head:7s}  {size:6d}  {scored:6d}  {way:7s}  {amount:>8s}  {less:>10s}  {spent:>7s}  {share:>8s}"


def decoding_table(rows: Sequence[Row], problems: int) -> str:
    """Per task and order: one token per step, then the cheapest value of each rule that costs no accuracy."""
    lines = [
        "task        order           one token per step   "
        + "  ".join(f"{rule:24s}" for rule in RULES if rule != "one")
    ]
    for task, order in product(WINDOWS, ORDERS):
        found = [row for job in decoding_jobs(problems) if (row := find(rows, job))]
        mine = [row for row in found if (row["task"], row["order"]) == (task, order)]
        base = next((row for row in mine if row["rule"] == "one"), None)
        cells = (_cheapest_text(mine, base, order, rule) for rule in RULES if rule != "one")
        first = "missing" if base is None else f"{100 * accuracy(base):5.1f} %  {base['forwards']:5.2f}"
        lines.append(f"{task:11s} {order:15s} {first:20s} {'  '.join(f'{text:24s}' for text in cells)}".rstrip())
    return "\n".join(lines)


def _cheapest_text(rows: Sequence[Row], base: Row | None, order: str, rule: str) -> str:
    if not _fits(order, rule):
        return "does not apply"
    best = None if base is None else cheapest([row for row in rows if row["rule"] == rule], base)
    if best is None:
        return "missing" if not any(row["rule"] == rule for row in rows) else "none as good"
    return f"{best['value']:<4g} {100 * accuracy(best):5.1f} %  {best['forwards']:5.2f}"


def cheapest(rows: Sequence[Row], base: Row, tolerance: float = TOLERANCE) -> Row | None:
    """The row of fewest forwards whose accuracy is at most `tolerance` below the base's; None without one."""
    equal = [row for row in rows if accuracy(row) >= accuracy(base) - tolerance - 1e-12]
    return min(equal, key=lambda row: row["forwards"], default=None)


def accuracy(row: Row) -> float:
    """Share of problems that were solved."""
    return row["solved"].count("1") / len(row["solved"])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("assets/benchmarks/masked.json"))
    parser.add_argument("--parts", nargs="*", choices=("logprobs", "decoding"), default=["logprobs", "decoding"])
    parser.add_argument("--problems", type=int, default=256, help="held-out problems per task")
    parser.add_argument("--minutes", type=float, default=4.0, help="stop after this long; a later call continues")
    parser.add_argument("--table", action="store_true", help="print what is there and measure nothing")
    return parser.parse_args()


if __name__ == "__main__":
    main()
