"""The stages of a benchmark, one folder for all of them; what `flowgrpo eval BENCHMARK` runs.

OUT/pictures.json          what the pictures were drawn with
OUT/images/TRACK/          pictures with their published names
OUT/answers/TRACK/         JSON lines, a file per judge (and per shard)
OUT/TRACK/                 results, as `results` writes them
OUT/report.html
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from flowgrpo.benchmarks import geneval, unigenbench
from flowgrpo.benchmarks.drawing import draw_missing, find_pictures, hold_settings
from flowgrpo.benchmarks.judgements import cost_of, judge_pictures, read_answers
from flowgrpo.benchmarks.judges import Answer, Judge, ask_whether_right, load_judge, refuse_scorer
from flowgrpo.benchmarks.page import Others, write_page
from flowgrpo.benchmarks.results import Entry, Scored, read_entry, write_results
from flowgrpo.benchmarks.tasks import Task, Track
from flowgrpo.devices import resolve_device
from flowgrpo.evaluation import fingerprint
from flowgrpo.policy import load_policy
from flowgrpo.progress import Progress
from flowgrpo.recipe import Recipe
from reward_models import Scorer


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What one benchmark brings along.

    Attributes:
        title: in reports.
        load_tracks: (file, folder or embedded name; names of tracks) -> tracks.
        judge: who is asked unless the user says otherwise, by the source's name, "" being any.
        ask_scorer: how a scorer is asked.
        samples: pictures per prompt, as published.
        seed: of the first picture of each prompt.
    """

    title: str
    load_tracks: Callable[[str, tuple[str, ...]], tuple[Track, ...]]
    judge: Mapping[str, str]
    ask_scorer: Callable[[Scorer, Task, Tensor], Answer]
    samples: int
    seed: int


BENCHMARKS: dict[str, Benchmark] = {
    "unigenbench": Benchmark(
        "UniGenBench",
        unigenbench.load_tracks,
        {unigenbench.DEMO: "gold", "": "unigenbench_judge"},
        refuse_scorer,
        unigenbench.SAMPLES,
        unigenbench.SEED,
    ),
    "geneval": Benchmark(
        "GenEval", geneval.load_tracks, {"": "geneval"}, ask_whether_right, geneval.SAMPLES, geneval.SEED
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """One model on one benchmark.

    Attributes:
        benchmark: which.
        recipe: names the model, its grid and batch size, and holds the judge's options.
        tracks: what is evaluated, whole.
        out: folder of everything that is written.
        model: what the model is called in tables.
        judge: name or import path.
        images: pictures that somebody else drew; None draws them into `out`.
        adapter: trained weights.
        samples, seed, steps, guidance_scale: how pictures are drawn.
        workers: questions to the judge at once.
        shard: (i, n): draw and judge the i-th of n parts only; scoring always reads all parts.
    """

    benchmark: Benchmark
    recipe: Recipe
    tracks: tuple[Track, ...]
    out: Path
    model: str
    judge: str
    images: Path | None = None
    adapter: Path | None = None
    samples: int
    seed: int
    steps: int
    guidance_scale: float
    workers: int = 8
    shard: tuple[int, int] = (0, 1)

    @property
    def pictures(self) -> Path:
        return self.images or self.out / "images"

    def answers(self, track: Track, judge: Judge) -> Path:
        """This shard's file of answers."""
        first, step = self.shard
        part = f"-{first + 1}of{step}" if step > 1 else ""
        return self.out / "answers" / track.name / f"{judge.key}{part}.jsonl"


def generate(setup: Setup, progress: Progress) -> None:
    """Draw the pictures that are missing.

    Raises: UsageError: the folder holds pictures of other weights or settings.
    """
    recipe = setup.recipe
    settings = {
        "weights": fingerprint(recipe.model.path, setup.adapter),
        "size": [recipe.model.height, recipe.model.width],
        "steps": setup.steps,
        "guidance_scale": setup.guidance_scale,
        "seed": setup.seed,
    }
    hold_settings(setup.out, settings)
    policy = load_policy(recipe.model, device=resolve_device(recipe.run.device), seed=recipe.train.seed)
    if setup.adapter is not None:
        policy.load(setup.adapter)
    for track in setup.tracks:
        draw_missing(
            policy,
            recipe,
            track.part(setup.shard),
            setup.pictures / track.name,
            samples=setup.samples,
            seed=setup.seed,
            steps=setup.steps,
            guidance_scale=setup.guidance_scale,
            progress=progress.counter(f"drawing {track.name}"),
        )


def judge(setup: Setup, progress: Progress) -> None:
    """Ask about the pictures that have no complete answer yet.

    Raises:
        UsageError: there are no pictures, or no such judge.
        RunError: the judge is dead; see `judge_pictures`.
    """
    judge = _judge(setup)
    for track in setup.tracks:
        part = track.part(setup.shard)
        judge_pictures(
            part,
            find_pictures(part, setup.pictures, setup.samples),
            judge,
            setup.answers(track, judge),
            workers=setup.workers,
            progress=progress.counter(f"judging {track.name}"),
        )
        spent = cost_of([setup.answers(track, judge)])
        if spent:
            progress.say(f"judging {track.name} took {spent}")


def counted(setup: Setup) -> list[Scored]:
    """Count what is known of each track, by the answers of all shards.

    Raises: UsageError: there are no pictures.
    """
    judge, found = _judge(setup), []
    for track in setup.tracks:
        pictures = find_pictures(track, setup.pictures, setup.samples)
        files = sorted((setup.out / "answers" / track.name).glob(f"{judge.key}*.jsonl"))
        answers = read_answers(track, pictures, files)
        found.append(Scored.of(setup.model, judge.name, track, setup.samples, pictures, answers))
    return found


def score(setup: Setup, scored: Scored) -> None:
    """Write the results of one track."""
    write_results(scored, setup.out / scored.track.name)


def compared(setup: Setup, folders: Sequence[Path]) -> dict[str, list[Entry]]:
    """What the `out` folders of other models hold about the tracks, by track.

    Raises: UsageError: one holds no results of a track.
    """
    return {track.name: [read_entry(folder, track.name) for folder in folders] for track in setup.tracks}


def report(setup: Setup, found: Sequence[Scored], others: Others) -> Path:
    """Write the page of all tracks and return where it is.

    Args:
        setup: whose page.
        found: from `counted`.
        others: from `compared`, shown beside this model.
    """
    page = setup.out / "report.html"
    write_page(setup.benchmark.title, found, others, page)
    return page


def _judge(setup: Setup) -> Judge:
    recipe = setup.recipe
    return load_judge(
        setup.judge,
        setup.benchmark.ask_scorer,
        device=str(resolve_device(recipe.run.device)),
        options=recipe.reward.options.get(setup.judge, {}),
    )
