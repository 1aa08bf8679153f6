"""A benchmark from model to table: draw its pictures, have them judged, count, and write a page.

`flowgrpo eval BENCHMARK` runs every stage, `flowgrpo eval BENCHMARK STAGE` one of them with the same options. Every
stage continues where it stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flowgrpo.cli.arguments import count, existing_folder, with_scorers
from flowgrpo.cli.display import columns
from flowgrpo.errors import UsageError, did_you_mean
from flowgrpo.preflight import require_ready
from flowgrpo.recipe import Recipe
from flowgrpo.recipe_loading import load_recipe

if TYPE_CHECKING:
    from flowgrpo.benchmarks.results import Line, Scored
    from flowgrpo.benchmarks.run import Benchmark, Setup

STAGES = {
    "generate": "draw the pictures that are missing",
    "judge": "ask about the pictures that have no complete answer",
    "score": "count the answers: tables and files of results",
    "report": "write the page, beside other models' where --compare names them",
}
TITLES = {"unigenbench": "UniGenBench", "geneval": "GenEval"}


@dataclass(frozen=True, slots=True)
class Command:
    """The words `eval BENCHMARK` or `eval BENCHMARK STAGE`, with the attributes of a module of a command."""

    benchmark: str
    stages: tuple[str, ...]
    HELP: str
    __doc__: str
    TAKES_OVERRIDES: bool = True

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_arguments(parser)

    def run(self, options: argparse.Namespace, overrides: list[str]) -> int:
        return run(self, options, overrides)


def commands() -> dict[str, Command]:
    """Every command of this module by its words; those of one stage have no line of help in the list of commands."""
    found = {}
    for name, title in TITLES.items():
        listed = f"{title} from model to table; also by stage: {', '.join(STAGES)}"
        whole = f"{title} from model to table: {'; '.join(STAGES.values())}."
        found[f"eval {name}"] = Command(name, tuple(STAGES), listed, f"{whole} Every stage continues where it stopped.")
        for stage, does in STAGES.items():
            said = f"One stage of {title}: {does}. All stages take the same options."
            found[f"eval {name} {stage}"] = Command(name, (stage,), "", said)
    return found


def check_words(words: Sequence[str]) -> None:
    """Refuse a misspelt benchmark or stage, which would otherwise be taken for a recipe.

    Raises: UsageError: the words after `eval` are nearly those of a command here.
    """
    first, second = (*words[1:3], "", "")[:2]
    if first in TITLES:
        _refuse_near(second, STAGES, "stage")
    else:
        _refuse_near(first, TITLES, "benchmark")


def _refuse_near(word: str, known: Mapping[str, str], what: str) -> None:
    is_other = word in known or word.startswith("-") or Path(word).suffix in (".yaml", ".yml")
    if not is_other and (hint := did_you_mean(word, known)):
        raise UsageError(f"unknown {what} {word!r}{hint} ({what}s: {', '.join(known)})")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", help="recipe that names the model; else --model.path")
    parser.add_argument("--data", metavar="PATH", required=True, help="prompt file, a folder of them, or shapes")
    parser.add_argument("--track", metavar="NAME", action="append", default=[], help="of a folder; default: all")
    parser.add_argument("--adapter", metavar="FOLDER", type=existing_folder, help="trained weights (RUN/adapter)")
    parser.add_argument("--images", metavar="FOLDER", type=existing_folder, help="judge these pictures, draw none")
    parser.add_argument("--judge", metavar="NAME", help="default: unigenbench_judge, geneval; gold for shapes")
    parser.add_argument("--shard", metavar="I/N", type=shard, default=(0, 1), help="draw and judge one of N parts")
    parser.add_argument("--limit", metavar="N", type=count, help="the first prompts of each track only")
    parser.add_argument("--samples", metavar="N", type=count, help="pictures per prompt; default: as published")
    parser.add_argument("--seed", metavar="N", type=int, help="of the first picture; default: as published")
    parser.add_argument("--steps", metavar="N", type=count)
    parser.add_argument("--guidance-scale", metavar="W", type=float)
    parser.add_argument("--workers", metavar="N", type=count, default=8, help="questions to the judge at once")
    parser.add_argument("--name", metavar="TEXT", help="of the model in tables")
    parser.add_argument(
        "--compare", metavar="FOLDER", type=existing_folder, action="append", default=[], help="another model's --out"
    )
    parser.add_argument("--out", metavar="FOLDER", type=Path, help="default: eval/BENCHMARK")
    parser.add_argument("--json", action="store_true", help="print the table as JSON lines")


def shard(text: str) -> tuple[int, int]:
    """`2/4` as (1, 4): the second of four parts."""
    first, slash, parts = text.partition("/")
    if not (slash and first.isdigit() and parts.isdigit() and 1 <= int(first) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r} is no part such as 1/4 or 4/4")
    return int(first) - 1, int(parts)


def run(command: Command, options: argparse.Namespace, overrides: list[str]) -> int:
    from flowgrpo.benchmarks import run as work
    from flowgrpo.progress import Progress

    if command.stages == ("generate",) and options.images is not None:
        raise UsageError("the stage generate draws pictures, but --images names pictures that exist")
    benchmark = work.BENCHMARKS[command.benchmark]
    judge = options.judge or benchmark.judge.get(options.data, benchmark.judge[""])
    loaded = load_recipe(options.recipe, with_scorers(overrides, [judge]))
    setup = _setup(command, options, loaded.recipe, benchmark, judge)
    others = work.compared(setup, options.compare if "report" in command.stages else ())
    progress = Progress()
    for track in setup.tracks:
        for warning in track.warnings:
            progress.say(f"warning: {warning}")
    if options.images is None and "generate" in command.stages:
        require_ready(loaded.recipe, loaded.origins)
        work.generate(setup, progress)
    if "judge" in command.stages:
        work.judge(setup, progress)
    found = work.counted(setup) if {"score", "report"} & set(command.stages) else []
    if "score" in command.stages:
        for scored in found:
            work.score(setup, scored)
            print(_json_lines(scored) if options.json else _table(scored))
            progress.say(f"results: {setup.out / scored.track.name}")
    if "report" in command.stages:
        progress.say(f"page: {work.report(setup, found, others)}")
    return 0


def _setup(command: Command, options: argparse.Namespace, recipe: Recipe, benchmark: Benchmark, judge: str) -> Setup:
    from flowgrpo.benchmarks.run import Setup

    tracks = benchmark.load_tracks(options.data, tuple(options.track))
    section = recipe.eval
    return Setup(
        benchmark=benchmark,
        recipe=recipe,
        tracks=tuple(track.part(limit=options.limit) for track in tracks),
        out=options.out or Path("eval") / command.benchmark,
        model=options.name or _name(options, recipe),
        judge=judge,
        images=options.images,
        adapter=options.adapter,
        samples=options.samples or benchmark.samples,
        seed=benchmark.seed if options.seed is None else options.seed,
        steps=options.steps or section.steps,
        guidance_scale=section.guidance_scale if options.guidance_scale is None else options.guidance_scale,
        workers=options.workers,
        shard=options.shard,
    )


def _name(options: argparse.Namespace, recipe: Recipe) -> str:
    if options.images is not None:
        return options.images.resolve().name
    base = Path(recipe.model.path).name
    return f"{base} + {options.adapter}" if options.adapter else base


def _json_lines(scored: Scored) -> str:
    head = {"track": scored.track.name, "model": scored.model, "judge": scored.judge}
    return "\n".join(json.dumps({**head, **asdict(line)}, ensure_ascii=False) for line in scored.entry.lines())


def _table(scored: Scored) -> str:
    """Overall, then each dimension with its test points, and what is missing."""
    lines = scored.entry.lines()
    points = [line for line in lines if line.kind == "test point"]
    rows = [("", "accuracy", "95 %", "pessimistic", "met/judged", "invalid"), _row(lines[0])]
    for line in lines:
        if line.kind == "dimension":
            own = [point for point in points if point.name.startswith(f"{line.name} - ")]
            rows += [_row(line), *(_row(point, "  ") for point in own)]
    rows += [_row(line) for line in lines if line.kind == "theme"]
    head = f"{scored.track.name}: {scored.model}, judged by {scored.judge}"
    said = [f"  incomplete: {gap}" for gap in scored.gaps()]
    return "\n".join([head, columns(rows), *said])


def _row(line: Line, indent: str = "") -> tuple[str, ...]:
    interval = "" if line.low is None or line.high is None else f"{100 * line.low:.1f} to {100 * line.high:.1f}"
    accuracy = "none judged" if line.accuracy is None else f"{100 * line.accuracy:.2f}"
    name = f"theme {line.name}" if line.kind == "theme" else line.name
    share = f"{line.invalid:.1%}" if line.invalid else ""
    return indent + name, accuracy, interval, f"{100 * line.pessimistic:.2f}", f"{line.correct}/{line.judged}", share
