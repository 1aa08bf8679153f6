"""Any scorer over a prompt set with fixed per-prompt seeds: mean, 95 % interval, table per category; resumable."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowgrpo.errors import UsageError
from flowgrpo.media import Drawing, Medium, load_medium
from flowgrpo.processes import ALONE, Processes
from flowgrpo.prompts import Prompt
from flowgrpo.recipe import Recipe
from flowgrpo.rewarding import load_patient_scorers
from flowgrpo.runfolder import append_jsonl, read_jsonl
from flowgrpo.seeding import prompt_key
from reward_models import Scorer

STATISTICS = "image/"
"""How rows of picture statistics begin, which no reward sees."""
Z95 = 1.959964
"""Normal quantile of a two-sided 95 % interval."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Settings:
    """What an evaluation's numbers depend on besides the weights."""

    set: str
    drawing: Drawing
    images_per_prompt: int
    """Samples of each prompt, pictures or answers."""
    seed: int
    weights: str = "base"
    """Which weights are judged, in words or as a path."""

    def facts(self) -> Row:
        """All of it as one flat row of JSON values."""
        counts = {"images_per_prompt": self.images_per_prompt, "seed": self.seed, "weights": self.weights}
        return {"set": self.set, **self.drawing, **counts}


def evaluate_medium(
    medium: Medium,
    prompts: Sequence[Prompt],
    scorers: Mapping[str, Scorer],
    settings: Settings,
    *,
    out: Path | None = None,
    renew: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    processes: Processes = ALONE,
) -> list[Row]:
    """Draw and score every prompt, and sum up; each process does its share of the samples.

    Args:
        medium: the model with the weights to be judged.
        prompts: the set.
        scorers: name -> scorer.
        settings: how samples are drawn, and seeds.
        out: file of one line per sample; samples that it already holds (of the same settings) are not drawn again.
        renew: start a file of other settings anew.
        progress: called with (samples done, samples of this process).
        processes: who share the samples; the first one reads and writes `out`.

    Returns:
        Rows as `summarise` makes them, each with the settings and the seconds this call took.

    Raises:
        UsageError: the file is of other settings, and is not to be renewed.
    """
    start = time.perf_counter()
    header = {"settings": settings.facts(), "scorers": list(scorers), "prompts": [prompt.text for prompt in prompts]}
    samples = processes.of_first(lambda: {} if out is None else _earlier(out, header, renew))
    jobs = [(i, j) for i in range(len(prompts)) for j in range(settings.images_per_prompt) if (i, j) not in samples]
    jobs = [jobs[k] for k in processes.share(len(jobs))]
    named = [(prompts[i].text, prompt_key(settings.seed, prompts[i].text, j)) for i, j in jobs]
    own: dict[tuple[int, int], Row] = {}
    for drawn in medium.draw(named, settings.drawing, progress=progress):
        owners = [jobs[k] for k in drawn.jobs]
        rows = score_samples(scorers, drawn.samples, [prompts[i] for i, _ in owners], drawn.numbers)
        new = dict(zip(owners, rows, strict=True))
        own |= new
        if processes.first:
            _note(out, new)
    for number, there in enumerate(processes.exchange(own)):
        samples |= there
        if processes.first and number > 0:
            _note(out, there)
    seconds = time.perf_counter() - start
    return [{**settings.facts(), **row, "seconds": seconds} for row in summarise(samples, prompts)]


def _note(out: Path | None, scores: Mapping[tuple[int, int], Row]) -> None:
    if out is not None:
        append_jsonl(out, [{"prompt": i, "image": j, "scores": row} for (i, j), row in scores.items()])


def _earlier(out: Path, header: Row, renew: bool) -> dict[tuple[int, int], Row]:
    """Scores that a file of this header already holds."""
    rows, header = read_jsonl(out), json.loads(json.dumps(header))
    if rows and rows[0] == header:
        return {(row["prompt"], row["image"]): row["scores"] for row in rows[1:]}
    if not renew and out.exists() and out.stat().st_size:
        raise UsageError(f"{out} {_difference(rows[:1], header)}; choose another --out, or delete it")
    out.unlink(missing_ok=True)
    append_jsonl(out, [header])
    return {}


def _difference(found: Sequence[Any], header: Row) -> str:
    """What a file holds instead of an evaluation of this header."""
    theirs = found[0] if found and isinstance(found[0], dict) else {}
    if not theirs.keys() >= {"settings", "prompts"}:
        return "holds no evaluation"
    pairs = {**header["settings"], "scorers": header["scorers"]}
    held = {**theirs["settings"], "scorers": theirs.get("scorers")}
    changed = [f"{key} {held.get(key)}, here {value}" for key, value in pairs.items() if held.get(key) != value]
    return f"holds an evaluation of other settings ({'; '.join(changed) or 'other prompts'})"


def fingerprint(model: str, adapter: Path | None) -> str:
    """The model's path and, for trained weights, their path and a digest: other weights are another evaluation."""
    if adapter is None:
        return model
    digest = hashlib.sha256()
    for file in sorted(adapter.rglob("*.safetensors")):
        digest.update(file.read_bytes())
    return f"{model} with {adapter} ({digest.hexdigest()[:16]})"


def score_samples(
    scorers: Mapping[str, Scorer],
    samples: Any,
    prompts: Sequence[Prompt],
    numbers: Mapping[str, Sequence[float]] | None = None,
) -> list[Row]:
    """One dict per sample: "scorer" and "scorer.component" -> number, None where invalid; and the further numbers."""
    columns: dict[str, list[float]] = {}
    for name, scorer in scorers.items():
        scores = scorer(samples, [prompt.text for prompt in prompts], [prompt.metadata for prompt in prompts])
        columns[name] = scores.scores.tolist()
        columns.update({f"{name}.{key}": values.tolist() for key, values in scores.components.items()})
    columns.update({name: list(values) for name, values in (numbers or {}).items()})
    return [
        {name: None if values[i] != values[i] else values[i] for name, values in columns.items()}
        for i in range(len(prompts))
    ]


def summarise(samples: Mapping[tuple[int, int], Row], prompts: Sequence[Prompt]) -> list[Row]:
    """One row per scorer (and component): mean, 95 % interval, counts, and the same per category.

    The interval treats a prompt as one observation (the mean of its samples), since samples of one prompt are not
    independent. Samples that could not be scored are counted in `invalid` and leave the mean.
    """
    names = list(dict.fromkeys(name for scores in samples.values() for name in scores))
    categories = sorted({_category(prompt) for prompt in prompts})
    rows = []
    for name in names:
        per_prompt: dict[int, list[float | None]] = {}
        for (i, _), scores in sorted(samples.items()):
            per_prompt.setdefault(i, []).append(scores.get(name))
        groups = {
            category: [values for i, values in per_prompt.items() if _category(prompts[i]) == category]
            for category in categories
        }
        by_category = {category: _mean_and_interval(values) for category, values in groups.items()}
        rows.append({"scorer": name, **_mean_and_interval(list(per_prompt.values())), "by_category": by_category})
    return rows


def _category(prompt: Prompt) -> str:
    return str(prompt.metadata.get("category", prompt.metadata.get("tag", "all")))


def _mean_and_interval(per_prompt: Sequence[Sequence[float | None]]) -> Row:
    """mean, ci95 (half width), n (samples), prompts and invalid."""
    kept = [[value for value in values if value is not None] for values in per_prompt]
    means = [sum(values) / len(values) for values in kept if values]
    drawn = sum(len(values) for values in per_prompt)
    counts = {"n": sum(map(len, kept)), "prompts": len(means), "invalid": drawn - sum(map(len, kept))}
    if not means:
        return {"mean": None, "ci95": None, **counts}
    mean = sum(means) / len(means)
    variance = sum((value - mean) ** 2 for value in means) / max(1, len(means) - 1)
    return {"mean": mean, "ci95": Z95 * (variance / len(means)) ** 0.5, **counts}


def evaluate(
    recipe: Recipe,
    *,
    prompts: Sequence[Prompt],
    set_name: str,
    scorers: Sequence[str],
    adapter: Path | None = None,
    seed: int | None = None,
    images_per_prompt: int | None = None,
    steps: int | None = None,
    guidance_scale: float | None = None,
    out: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Row]:
    """Judge a model or a trained adapter over a prompt set; what `flowgrpo eval` calls.

    Args:
        recipe: names the model; its eval section gives what is not said here.
        prompts: the set.
        set_name: what the set is called in rows.
        scorers: names or import paths.
        adapter: trained weights; None judges the base model.
        seed: of the noise.
        images_per_prompt: samples per prompt.
        steps: sampling steps.
        guidance_scale: classifier-free guidance, of models that have it; None is `eval.guidance_scale`, and without an
            adapter `eval.base_guidance_scale`.
        out: file of one line per sample, which an interrupted evaluation continues.
        progress: called with (done, total).

    Returns:
        One row per scorer and component.
    """
    section = recipe.eval
    medium = load_medium(recipe, adapter=adapter)
    given: Row = {"steps": steps, "guidance_scale": guidance_scale}
    settings = Settings(
        set=set_name,
        drawing=medium.drawing(
            trained=adapter is not None, **{name: value for name, value in given.items() if value is not None}
        ),
        images_per_prompt=section.images_per_prompt if images_per_prompt is None else images_per_prompt,
        seed=section.seed if seed is None else seed,
        weights=fingerprint(recipe.model.path, adapter),
    )
    loaded = load_patient_scorers(scorers, recipe.reward, device=str(medium.policy.device), media=medium.media)
    rows = evaluate_medium(medium, prompts, loaded, settings, out=out, progress=progress)
    # Statistics of pictures are for runs, which watch them; who names scorers gets these.
    return [row for row in rows if not row["scorer"].startswith(STATISTICS)]
