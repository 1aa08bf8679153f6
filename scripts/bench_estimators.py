"""Bias and variance of every likelihood estimator against the exact ELBO, at equal numbers of forward passes.

    python -m scripts.bench_estimators

Draws an answer of tiny-dllm at temperature 1 to each of some held-out Countdown problems, enumerates all masks of the
answer, and draws every estimator thousands of times at each budget. One problem after the other goes into the JSON
file; those that it holds are not repeated, missing ones are counted as missing. Then prints two tables and draws the
picture. Prompts are never masked here: the exact ELBO is that of the answer given the whole prompt.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from flowgrpo.masked_rollout import decode
from flowgrpo.policies.masked_lm import load_masked_policy
from flowgrpo.policy import TextPolicy
from flowgrpo.prompts import Prompt, load_prompts
from flowgrpo.recipe_kinds import eval_settings
from flowgrpo.recipe_loading import load_recipe
from flowgrpo.runfolder import write_atomically
from flowgrpo.seeding import prompt_key
from flowgrpo.views import Completions, completions
from scripts.benchmarks import where
from scripts.elbo_tables import moments, tabulate
from scripts.estimator_summary import Comparison, Summary, compare, summarise, verdict
from scripts.estimators_picture import picture

RECIPE = "gdpo_demo"
"""Says which model, and how its answers are laid out."""
BUDGETS = (1, 2, 3, 4, 6, 12)
MOST_PROBLEMS = 2**20
"""Problems whose seeds differ from those of the next run seed."""
FEWEST = 2
"""Problems for a standard error."""


def main() -> None:
    """Measure what is missing, then print and draw."""
    args = _arguments()
    torch.set_num_threads(1)
    settings = {"draws": args.draws, "seed": args.seed, "budgets": list(BUDGETS)}
    file = kept(args.out, settings)
    if not args.table:
        _measure(file, args)
    print(f"{len(file['problems'])} of {args.problems} problems, {args.problems - len(file['problems'])} missing")
    if len(file["problems"]) >= FEWEST:
        summaries, comparisons = summarise(file["problems"], args.draws), compare(file["problems"])
        print(summary_table(summaries), comparison_table(comparisons), sep="\n\n")
        write_atomically(args.out, document(file, summaries, comparisons))
        write_atomically(args.picture, picture(summaries))


def kept(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the file holds, if it was measured with these settings; else a new beginning."""
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["settings"] == settings:
            return {"settings": found["settings"], "problems": found["problems"]}
    return {"settings": dict(settings), "problems": []}


def document(file: Mapping[str, Any], summaries: Sequence[Summary], comparisons: Sequence[Comparison]) -> str:
    """The file's text, one row per line."""
    parts = {
        "settings": json.dumps({**file["settings"]}),
        **{key: json.dumps(value) for key, value in where().items()},
        "summary": _lines([_rounded(asdict(row)) for row in summaries]),
        "comparisons": _lines([_rounded(asdict(row)) for row in comparisons]),
        "problems": _lines(file["problems"]),
    }
    return "{\n" + ",\n".join(f'"{key}": {value}' for key, value in parts.items()) + "\n}\n"


def _lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]"


def _rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in row.items()}


def _measure(file: dict[str, Any], args: argparse.Namespace) -> None:
    """Add the problems that are missing, until the time is up."""
    stop = time.monotonic() + 60 * args.minutes
    recipe = load_recipe(RECIPE).recipe
    policy = load_masked_policy(recipe.model, device=torch.device("cpu"), seed=0)
    answer = partial(answered, policy, {**eval_settings(recipe), "temperature": 1.0}, recipe.objective.tail, args.seed)
    prompts = load_prompts("tasks/countdown/heldout", limit=args.problems).prompts
    for index in range(len(file["problems"]), len(prompts)):
        if time.monotonic() > stop:
            return
        seed = args.seed * MOST_PROBLEMS + index
        file["problems"].append(problem_row(policy, prompts[index], answer, draws=args.draws, seed=seed))
        write_atomically(args.out, document(file, (), ()))


def answered(policy: TextPolicy, settings: Mapping[str, Any], tail: Any, seed: int, prompt: Prompt) -> Completions:
    """One sampled answer to a prompt, as training would score it."""
    tokens = policy.tokens(prompt.text)
    rollout, _ = decode(policy, [tokens], [prompt_key(seed, prompt.text, 0)], settings)
    return completions(rollout.ids, prompt_columns=len(tokens), eos_ids=policy.ends.tokens, tail=tail)


def problem_row(
    policy: TextPolicy, prompt: Prompt, answer: Callable[[Prompt], Completions], *, draws: int, seed: int
) -> dict[str, Any]:
    """What is known of one problem: its answer, the exact ELBO, and every estimator's mean and variance.

    Each problem has its own seed: with one for all, the noise of their means would not average out.
    """
    row = answer(prompt)

    def logits_fn(ids: torch.Tensor, scored: torch.Tensor) -> Any:
        return policy.logits(ids, scored, torch.ones_like(scored))

    table = tabulate(logits_fn, row, mask_id=policy.mask_id)
    return {
        "prompt": prompt.text,
        "answer": policy.text(row.ids[0][row.completion[0]].tolist()),
        "tokens": int(row.length[0]),
        "elbo": float(f"{table.elbo:.7g}"),
        "estimates": moments(table, BUDGETS, draws=draws, seed=seed),
    }


def summary_table(rows: Sequence[Summary]) -> str:
    """All estimators, in nats, with standard errors over problems."""
    head = "forwards  estimator             bias              bias, rms  std               rmse"
    return "\n".join([head, *map(_summary_line, sorted(rows, key=lambda row: row.forwards))])


def _summary_line(row: Summary) -> str:
    return (
        f"{row.forwards:8d}  {row.estimator:20s} {row.bias:+7.3f} ± {row.bias_se:5.3f}  {row.bias_rms:9.3f}  "
        f"{row.std:6.3f} ± {row.std_se:5.3f}  {row.rmse:6.3f} ± {row.rmse_se:5.3f}"
    )


def comparison_table(rows: Sequence[Comparison]) -> str:
    """Ratios of variances and of mean squared errors; below 1 the first is better."""
    lines = ["forwards  first to second                             variance                 mean squared error"]
    for row in rows:
        pair = f"{row.one} / {row.other}"
        parts = ((row.variance, row.variance_se), (row.error, row.error_se))
        texts = (f"{value:7.3f} ± {error:5.3f} {verdict(value, error):6s}" for value, error in parts)
        lines.append(f"{row.forwards:8d}  {pair:42s} {'   '.join(texts)}")
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("assets/benchmarks/estimators.json"))
    parser.add_argument("--picture", type=Path, default=Path("docs/images/estimators.svg"))
    parser.add_argument("--problems", type=int, default=128, help="held-out Countdown problems")
    parser.add_argument("--draws", type=int, default=4096, help="estimates per problem, estimator and budget")
    parser.add_argument("--seed", type=int, default=0, help="of answers and masks")
    parser.add_argument("--minutes", type=float, default=4.0, help="stop after this long; a later call continues")
    parser.add_argument("--table", action="store_true", help="print and draw what is there, measure nothing")
    return parser.parse_args()


if __name__ == "__main__":
    main()
