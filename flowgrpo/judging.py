"""Evaluations and pictures of one run: before, during and after training, of live or averaged weights."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from flowgrpo.ema import Average, swapped_in
from flowgrpo.evaluation import Row, Settings, evaluate_policy
from flowgrpo.pictures import draw_column, spread
from flowgrpo.policy import Policy
from flowgrpo.progress import Progress
from flowgrpo.prompts import Prompt, load_prompts
from flowgrpo.recipe import Recipe
from flowgrpo.runfolder import RunFolder, append_jsonl, read_jsonl
from reward_models import Scorer, load


@dataclass(frozen=True, slots=True)
class Judge:
    """Everything that looks at the policy without training it."""

    recipe: Recipe
    policy: Policy
    folder: RunFolder
    progress: Progress
    average: Average | None
    """The averaged weights, if there are any and evaluations shall use them."""
    sets: Mapping[str, tuple[Prompt, ...]]
    pictured: tuple[Prompt, ...]
    scorers: Mapping[str, Scorer]

    @classmethod
    def from_recipe(
        cls,
        recipe: Recipe,
        policy: Policy,
        folder: RunFolder,
        progress: Progress,
        average: Average | None,
        train: tuple[Prompt, ...],
    ) -> Judge:
        """Load evaluation sets and scorers; pictures are of the first set's prompts, or of the training prompts."""
        section = recipe.eval
        sets = {name: load_prompts(path).prompts for name, path in section.prompts.items()}
        options = recipe.reward.options
        scorers = {name: load(name, device=str(policy.device), **options.get(name, {})) for name in section.scorers}
        pictured = spread(next(iter(sets.values()), train), recipe.run.images)
        used = average if section.use_ema else None
        return cls(recipe, policy, folder, progress, used, sets, tuple(pictured), scorers)

    def all_prompts(self) -> list[Prompt]:
        """Every prompt that will be drawn, so that it can be encoded ahead."""
        return [*self.pictured, *(prompt for prompts in self.sets.values() for prompt in prompts)]

    def before(self) -> None:
        """The untrained model, at the guidance that suits it."""
        section = self.recipe.eval
        base = section.base_guidance_scale
        self._judge("base", 0, section.guidance_scale if base is None else base, self.recipe.run.images > 0, "before")

    def during(self, iteration: int) -> None:
        """The model in training, as often as the recipe says."""
        evaluated = bool(self.recipe.eval.every) and iteration % self.recipe.eval.every == 0
        drawn = bool(self.recipe.run.images_every) and iteration % self.recipe.run.images_every == 0
        with self._trained_weights():
            if evaluated:
                self._evaluate("iteration", iteration, self.recipe.eval.guidance_scale)
            if drawn:
                self._draw(f"iteration {iteration}", iteration, self.recipe.eval.guidance_scale)

    def after(self, iteration: int) -> None:
        """The trained model."""
        with self._trained_weights():
            self._judge("final", iteration, self.recipe.eval.guidance_scale, self.recipe.run.images > 0, "after")

    def _trained_weights(self) -> AbstractContextManager[None]:
        return nullcontext() if self.average is None else swapped_in(self.policy.trainable(), self.average)

    def _judge(self, label: str, iteration: int, guidance_scale: float, drawn: bool, column: str) -> None:
        self._evaluate(label, iteration, guidance_scale)
        if drawn:
            self._draw(column, iteration, guidance_scale)

    def _evaluate(self, label: str, iteration: int, guidance_scale: float) -> None:
        section = self.recipe.eval
        for name, prompts in self.sets.items():
            settings = Settings(
                name, section.steps, guidance_scale, section.images_per_prompt, section.seed, f"{label} {iteration}"
            )
            rows = evaluate_policy(
                self.policy,
                self.recipe,
                prompts,
                self.scorers,
                settings,
                out=self.folder.samples / f"{label}-{iteration:06d}-{name}.jsonl",
                progress=self.progress.counter(f"evaluating {label} on {name}"),
            )
            self._enter([{"label": label, "iteration": iteration, **row} for row in rows])

    def _enter(self, rows: list[Row]) -> None:
        known = {
            (row["label"], row["iteration"], row["set"], row["scorer"]) for row in read_jsonl(self.folder.evaluations)
        }
        new = [row for row in rows if (row["label"], row["iteration"], row["set"], row["scorer"]) not in known]
        append_jsonl(self.folder.evaluations, new)
        for row in rows:
            if row["mean"] is not None:
                self.progress.say(
                    f"{row['label']} {row['set']}: {row['scorer']} {row['mean']:.4f} +- {row['ci95']:.4f} "
                    f"({row['n']} pictures)"
                )

    def _draw(self, label: str, iteration: int, guidance_scale: float) -> None:
        draw_column(
            self.policy,
            self.recipe,
            self.folder,
            self.pictured,
            self.scorers,
            label=label,
            iteration=iteration,
            guidance_scale=guidance_scale,
        )
