"""Evaluations and shown samples of one run: before, during and after training, of live or averaged weights."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from flowgrpo.ema import Average, swapped_in
from flowgrpo.evaluation import STATISTICS, Row, Settings, evaluate_medium
from flowgrpo.media import Drawing, Medium
from flowgrpo.processes import ALONE, Processes
from flowgrpo.progress import Progress
from flowgrpo.prompts import Prompt, load_prompts, spread
from flowgrpo.recipe import Recipe
from flowgrpo.rewarding import load_patient_scorers
from flowgrpo.runfolder import RunFolder, append_jsonl, read_jsonl
from reward_models import Scorer


def unjudged(recipe: Recipe) -> Recipe:
    """A recipe of the same training that neither evaluates nor shows anything."""
    run = recipe.run.model_copy(update={"images": 0, "images_every": 0})
    section = recipe.eval.model_copy(update={"prompts": {}, "scorers": ()})
    return recipe.model_copy(update={"run": run, "eval": section})


@dataclass(frozen=True, slots=True)
class Judge:
    """Everything that looks at the policy without training it. Of several processes all must call it."""

    recipe: Recipe
    medium: Medium
    folder: RunFolder
    progress: Progress
    average: Average | None
    """The averaged weights, if there are any and evaluations shall use them."""
    sets: Mapping[str, tuple[Prompt, ...]]
    pictured: tuple[Prompt, ...]
    scorers: Mapping[str, Scorer]
    processes: Processes = ALONE
    """Who share the prompts; the first one writes."""

    @classmethod
    def from_recipe(
        cls,
        recipe: Recipe,
        medium: Medium,
        folder: RunFolder,
        progress: Progress,
        average: Average | None,
        train: tuple[Prompt, ...],
        processes: Processes = ALONE,
    ) -> Judge:
        """Load evaluation sets and scorers; what is shown are the first set's prompts, or the training prompts."""
        section = recipe.eval
        sets = {name: load_prompts(path).prompts for name, path in section.prompts.items()}
        device = str(medium.policy.device)
        scorers = load_patient_scorers(section.scorers, recipe.reward, device=device, media=medium.media)
        pictured = spread(next(iter(sets.values()), train), recipe.run.images)
        used = average if section.use_ema else None
        return cls(recipe, medium, folder, progress, used, sets, tuple(pictured), scorers, processes)

    def all_prompts(self) -> list[Prompt]:
        """Every prompt that will be drawn, so that it can be encoded ahead."""
        return [*self.pictured, *(prompt for prompts in self.sets.values() for prompt in prompts)]

    def before(self) -> None:
        """The untrained model, drawn as suits it."""
        self._judge("base", 0, self.medium.drawing(trained=False), "before")

    def during(self, iteration: int) -> None:
        """The model in training, as often as the recipe says."""
        evaluated = bool(self.recipe.eval.every) and iteration % self.recipe.eval.every == 0
        drawn = bool(self.recipe.run.images_every) and iteration % self.recipe.run.images_every == 0
        with self._trained_weights():
            if evaluated:
                self._evaluate("iteration", iteration, self.medium.drawing())
            if drawn:
                self._show(f"iteration {iteration}", iteration, self.medium.drawing())

    def after(self, iteration: int) -> None:
        """The trained model."""
        with self._trained_weights():
            self._judge("final", iteration, self.medium.drawing(), "after")

    def _trained_weights(self) -> AbstractContextManager[None]:
        return nullcontext() if self.average is None else swapped_in(self.medium.policy.trainable(), self.average)

    def _judge(self, label: str, iteration: int, drawing: Drawing, column: str) -> None:
        self._evaluate(label, iteration, drawing)
        if self.recipe.run.images > 0:
            self._show(column, iteration, drawing)

    def _evaluate(self, label: str, iteration: int, drawing: Drawing) -> None:
        section = self.recipe.eval
        for name, prompts in self.sets.items():
            settings = Settings(name, drawing, section.images_per_prompt, section.seed, f"{label} {iteration}")
            rows = evaluate_medium(
                self.medium,
                prompts,
                self.scorers,
                settings,
                out=self.folder.samples / f"{label}-{iteration:06d}-{name}.jsonl",
                renew=True,
                progress=self.progress.counter(f"evaluating {label} on {name}"),
                processes=self.processes,
            )
            if self.processes.first:
                self._enter([{"label": label, "iteration": iteration, **row} for row in rows])

    def _enter(self, rows: list[Row]) -> None:
        known = {
            (row["label"], row["iteration"], row["set"], row["scorer"]) for row in read_jsonl(self.folder.evaluations)
        }
        new = [row for row in rows if (row["label"], row["iteration"], row["set"], row["scorer"]) not in known]
        append_jsonl(self.folder.evaluations, new)
        for row in rows:
            if row["mean"] is not None and not row["scorer"].startswith(STATISTICS):
                self.progress.say(
                    f"{row['label']} {row['set']}: {row['scorer']} {row['mean']:.4f} +- {row['ci95']:.4f} "
                    f"({row['n']} samples)"
                )

    def _show(self, label: str, iteration: int, drawing: Drawing) -> None:
        if self.processes.first:
            self.medium.show(self.folder, self.pictured, self.scorers, drawing, label=label, iteration=iteration)
        self.processes.exchange(None)
