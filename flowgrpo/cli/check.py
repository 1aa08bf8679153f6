"""Look at a recipe without running it: values and their origins, batch geometry, memory and time, and what is odd."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from flowgrpo.accelerations import refuse_where_sharded, used
from flowgrpo.cli import display
from flowgrpo.cli.arguments import count
from flowgrpo.errors import USAGE
from flowgrpo.estimates import Estimate, estimate
from flowgrpo.geometry import TRAINED_COST, Geometry, flow_grpo_price, geometry, price
from flowgrpo.launch_files import read_launch
from flowgrpo.launches import ALONE, Launch, refuse_idle
from flowgrpo.masked_geometry import answer_geometry
from flowgrpo.model_facts import known_model
from flowgrpo.preflight import Preflight, preflight
from flowgrpo.recipe import Recipe
from flowgrpo.recipe_kinds import foreign_keys
from flowgrpo.recipe_loading import DEFAULT, LoadedRecipe, load_recipe, recipe_hash, recipe_values

HELP = "look at a recipe without running it"
TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="shipped name or YAML file")
    parser.add_argument("--launch", metavar="FILE", help="estimate for a process of this accelerate configuration")
    parser.add_argument("--processes", type=count, metavar="N", help="number of processes, in place of the file's")
    parser.add_argument("--run", action="store_true", help="also run one iteration and the parity checks")


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    loaded = load_recipe(options.recipe, overrides)
    launch = read_launch(options.launch, options.processes, max_grad_norm=loaded.recipe.train.max_grad_norm)
    found = preflight(loaded.recipe, loaded.origins)
    found.model = found.model or known_model(loaded.recipe.model.path)
    refuse_idle(loaded.recipe, launch.processes)
    if launch.parts > 1:
        refuse_where_sharded(loaded.recipe)
    print("\n\n".join(page(loaded, found, launch)))
    for problem in found.problems:
        print(f"flowgrpo: error: {problem}", file=sys.stderr)
    if found.problems:
        return USAGE
    if options.run:
        from flowgrpo.progress import Progress
        from flowgrpo.trainer import check_run

        row = check_run(loaded.recipe, progress=Progress())
        print(f"\none iteration, run\n{display.columns(_ran(row))}")
    return 0


def page(loaded: LoadedRecipe, found: Preflight, launch: Launch = ALONE) -> Iterator[str]:
    """The sections of what is printed."""
    recipe = loaded.recipe
    yield f"recipe {recipe.name}, hash {recipe_hash(recipe)}\n{display.columns(_values(loaded))}"
    yield f"one iteration\n{display.columns(COUNTS[recipe.model.kind](recipe, found))}"
    if found.prompts:
        yield f"prompts\n{display.columns(_prompts(recipe, found))}"
    if found.model is not None:
        yield _estimate(recipe, estimate(recipe, _geometry(recipe, found), found.model, launch), launch)
    accelerations = [(held.key, "lossless" if held.lossless else "lossy", held.does) for held in used(recipe)]
    if accelerations:
        yield f"accelerations\n{display.columns(accelerations)}"
    if found.warnings:
        yield "warnings\n" + "\n".join(f"  {warning}" for warning in found.warnings)


def _values(loaded: LoadedRecipe) -> list[tuple[str, str, str]]:
    """Every key with its value and origin, what somebody set first; without the defaults of another kind of model."""
    rows, foreign = [], foreign_keys(loaded.recipe.model.kind)
    for section, held in recipe_values(loaded.recipe).items():
        keys = held.items() if isinstance(held, dict) else ()
        rows += [(f"{section}.{key}", display.value(given), loaded.origins[f"{section}.{key}"]) for key, given in keys]
    return sorted(
        (row for row in rows if row[2] != DEFAULT or row[0] not in foreign), key=lambda row: row[2] == DEFAULT
    )


def _geometry(recipe: Recipe, found: Preflight) -> Geometry:
    return geometry(recipe, negative_branch=found.model is None or found.model.negative_branch)


def _flow_counts(recipe: Recipe, found: Preflight) -> Iterator[tuple[str, str]]:
    counts = _geometry(recipe, found)
    steps = ", ".join(map(str, counts.trained_steps))
    yield "samples", f"{counts.groups} prompts x {counts.group_size} = {counts.samples}, {counts.kept} of them trained"
    window = " in iteration 1" if recipe.sampler.window != "none" else ""
    yield "plan", f"{recipe.sampler.steps} steps; stochastic and trained{window}: {steps}"
    yield "units", f"{counts.trained_edges} of {counts.edges} stochastic transitions are trained"
    policy = "on-policy: every ratio is exactly 1" if counts.on_policy else "the first on-policy, the others off-policy"
    yield "updates", f"{counts.updates}, {policy}"
    yield "micro-batches", _micro_batches(recipe, counts.micro_batches, "network inputs")
    bound = "" if counts.exact else "at most "
    yield "sampling forwards", _rows(counts.sampling, counts.sampling_rows)
    yield "trained forwards", bound + _rows(counts.trained, counts.trained_rows) + ", with backward"
    yield "old forwards", f"{bound if counts.old else ''}{counts.old}"
    yield "reference forwards", f"{bound if counts.reference else ''}{counts.reference}"
    yield "decodes", str(counts.decodes)
    yield "cost", _price(recipe)
    yield "scores", f"{counts.scored} by {', '.join(recipe.reward.names)}"


def _answer_counts(recipe: Recipe, found: Preflight) -> Iterator[tuple[str, str]]:
    counts, sampler = answer_geometry(recipe), recipe.sampler
    samples = f"{counts.groups} prompts x {recipe.train.group_size} = {counts.samples}"
    yield "samples", f"{samples}, {counts.kept} of them trained"
    blocks = "one block" if sampler.block_length is None else f"blocks of {sampler.block_length}"
    yield "decoding", f"{sampler.gen_length} tokens in {sampler.steps} steps, {blocks}, {sampler.order} first"
    yield "likelihood", f"{recipe.objective.likelihood}: {counts.views} views, one unit per {counts.per}"
    policy = "on-policy: every ratio is exactly 1" if counts.on_policy else "the first on-policy, the others off-policy"
    yield "updates", f"{counts.updates}, {policy}"
    yield "micro-batches", _micro_batches(recipe, counts.micro_batches, "answers")
    yield "sampling forwards", f"at most {counts.sampling}"
    twice = ", each view twice: once for its value, once for its gradient" if counts.passes > 1 else ""
    yield "trained forwards", f"at most {counts.trained}{twice}"
    yield "old forwards", f"at most {counts.old}" if counts.old else "0"
    yield "reference forwards", f"at most {counts.reference}" if counts.reference else "0"
    yield "scores", f"at most {counts.scored} by {', '.join(recipe.reward.names)}"


COUNTS: dict[str, Callable[[Recipe, Preflight], Iterator[tuple[str, str]]]] = {
    "flow": _flow_counts,
    "masked_lm": _answer_counts,
}


def _micro_batches(recipe: Recipe, count: int, what: str) -> str:
    if recipe.train.micro_batch_size == "auto":
        return f"auto: at least {count} per update, as many of {recipe.train.most_per_forward} {what} or less as fit"
    return f"{count} per update, {recipe.train.micro_batch_size} {what} each at most"


def _price(recipe: Recipe) -> str:
    """Forward-equivalents per sample beside Flow-GRPO's, over the schedule of the window."""
    own, base = price(recipe), flow_grpo_price(recipe)
    return (
        f"{own.sampling:.3g} sampling + {own.trained:.3g} trained forwards per sample, "
        f"{own.equivalents / base.equivalents:.2f} of Flow-GRPO's {base.sampling:g} + {base.trained:g} "
        f"(a trained one counted {TRAINED_COST:g} times)"
    )


def _ran(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What one real iteration measured; both start-up checks have passed by then, or there was an error."""
    yield "time", display.duration(row["seconds"])
    yield (
        "reward",
        f"{row['reward/mean']:.4g} +- {row['reward/std']:.2g}; {row['reward/zero_std_groups']:.0%} flat groups",
    )
    yield "micro-batches", f"{row['micro_batch_size']} fit"
    yield "first ratio", "exactly 1"
    if "rollout_gap" in row["per_step"]:
        gaps = zip(row["per_step"]["step"], row["per_step"]["rollout_gap"], strict=True)
        yield "rollout gap", ", ".join(f"step {step}: {gap:.1e}" for step, gap in gaps) or "no unit was trained"
    yield "gradient norm", f"{row['grad_norm']:.3g}"
    yield "sampling forwards", str(row["forwards/sampling"])
    yield "trained forwards", str(row["forwards/trained"])


def _rows(inputs: int, rows: int) -> str:
    return f"{inputs}" if rows == inputs else f"{inputs} ({rows} rows with guidance)"


def _prompts(recipe: Recipe, found: Preflight) -> Iterator[tuple[str, str]]:
    for use, held in found.prompts.items():
        text = f"{len(held.prompts)} from {held.name}"
        if use == "train":
            text += f"; an epoch is {len(held.prompts) / recipe.train.prompts_per_iteration:.3g} iterations"
        yield use, text


def _estimate(recipe: Recipe, guess: Estimate, launch: Launch) -> str:
    total = sum(guess.seconds.values())
    rows = [(name, display.duration(seconds)) for name, seconds in guess.seconds.items() if seconds]
    rows += [("iteration", display.duration(total)), ("run", _length(recipe, total))]
    held, stages, start = guess.memory.held, guess.memory.stages, sum(guess.memory.start.values())
    rows.append(("encoding prompts, before the first iteration", f"{display.size(start)} with the text encoders"))
    rows += [(name, display.size(count)) for name, count in held.items() if count]
    rows += [(name, f"{display.size(count)} beside that") for name, count in stages.items()]
    peak = guess.memory.peak
    longest = "encoding prompts" if peak == start else max(stages, key=lambda name: stages[name])
    rows.append(("at most", f"{display.size(peak)}, while {longest}; scorers' own models not counted"))
    assumed = f"{guess.flops_per_second / 1e12:.3g} TFLOP/s on the {guess.device}, scoring not counted"
    trained = f"{guess.trained_parameters:,} trained parameters"
    each = "" if launch.processes == 1 else f" for each of {launch.processes} processes, {SHARES[launch.weights]}"
    return f"estimate{each}, time good to a factor of two: {trained}, {assumed}\n{display.columns(rows)}"


SHARES = {
    "whole": "whole weights in each",
    "shared": "weights, gradients and optimizer state shared out",
    "gathered": "gradients and optimizer state shared out, whole weights in use",
    "zero": "optimizer state shared out",
    "zero_offloaded": "optimizer state shared out and in the CPU's memory",
}
"""`Launch.weights` in words."""


def _length(recipe: Recipe, seconds: float) -> str:
    """How long a run takes by the limit that comes first."""
    train = recipe.train
    limit = None if train.max_minutes is None else 60 * train.max_minutes
    if limit is not None and limit < train.iterations * seconds:
        return f"{display.duration(limit)} by train.max_minutes, about {limit / seconds:.0f} iterations"
    return f"{display.duration(train.iterations * seconds)} for {train.iterations} iterations"
