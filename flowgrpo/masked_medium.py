"""Masked-diffusion language models behind the seam of `flowgrpo.media`: canvases of masks that become answers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from flowgrpo.clock import Clock
from flowgrpo.devices import resolve_device
from flowgrpo.errors import RecipeError, did_you_mean
from flowgrpo.masked_credit import Iteration, credited
from flowgrpo.masked_rollout import answer_lengths_of, collect, decode, texts_of
from flowgrpo.masked_work import MaskedWork
from flowgrpo.media import Between, Collected, Drawing, Drawn
from flowgrpo.objective import Objective
from flowgrpo.policies.masked_lm import load_masked_policy
from flowgrpo.policy import TextPolicy
from flowgrpo.processes import ALONE, Processes
from flowgrpo.prompts import Prompt
from flowgrpo.recipe import Recipe
from flowgrpo.recipe_kinds import ANSWER, eval_settings
from flowgrpo.rewarding import RewardPool
from flowgrpo.runfolder import RunFolder, write_atomically
from flowgrpo.seeding import prompt_key
from flowgrpo.sharding import Sharded
from reward_models import Scorer


@dataclass(frozen=True, slots=True)
class MaskedMedium:
    """See `flowgrpo.media.Medium`."""

    media: ClassVar[str] = "text"
    recipe: Recipe
    policy: TextPolicy

    @classmethod
    def from_recipe(cls, recipe: Recipe, sharded: Sharded | None = None) -> MaskedMedium:
        """Load the language model that the recipe names."""
        device = resolve_device(recipe.run.device)
        return cls(recipe, load_masked_policy(recipe.model, device=device, seed=recipe.train.seed, sharded=sharded))

    def prepare(self, texts: Sequence[str], *, progress: Between) -> None:
        """See that every prompt fits, before anything is trained."""
        for text in texts:
            self.policy.tokens(text)

    def collect(
        self,
        prompts: Sequence[Prompt],
        pool: RewardPool,
        *,
        iteration: int,
        clock: Clock,
        between: Between,
        processes: Processes = ALONE,
    ) -> Collected:
        """Decode and score a group of answers of every prompt."""
        return collect(
            self.policy,
            self.recipe,
            prompts,
            pool,
            iteration=iteration,
            clock=clock,
            between=between,
            record=self.recipe.objective.likelihood == "trajectory",
            processes=processes,
        )

    def work(self, collected: Collected, objective: Objective, iteration: int) -> MaskedWork:
        """Credit, selection and mask plans."""
        return credited(Iteration(self.policy, self.recipe, objective, iteration), collected)

    def record(self, folder: RunFolder, collected: Collected, work: Any, iteration: int) -> None:
        """Groups of answers have no tree to show."""

    def drawing(self, *, trained: bool = True, **changes: Any) -> Drawing:
        """Settings of the section `sampler` as `eval.decoding` changes them; base and trained model are drawn alike.

        Raises:
            RecipeError: a setting that answers do not have.
        """
        for name in changes:
            if name not in ANSWER:
                raise RecipeError(
                    f"answers have no setting {name!r}{did_you_mean(name, ANSWER)}; eval.decoding has all"
                )
        return {**eval_settings(self.recipe), **changes}

    def draw(
        self, jobs: Sequence[tuple[str, tuple[int, ...]]], drawing: Drawing, *, progress: Between
    ) -> Iterator[Drawn]:
        """Answers with their length in tokens, end included, and the canvases that the model saw for each."""
        size = self.recipe.eval.batch_size
        for first in range(0, len(jobs), size):
            batch = range(first, min(first + size, len(jobs)))
            tokens = [self.policy.tokens(jobs[i][0]) for i in batch]
            rollout, _ = decode(self.policy, tokens, [jobs[i][1] for i in batch], drawing)
            texts = texts_of(self.policy, rollout.ids, max(map(len, tokens)))
            lengths = answer_lengths_of(self.policy, rollout).double().tolist()
            yield Drawn(batch, texts, {"length": lengths, "forwards": rollout.forwards.double().tolist()})
            progress(batch.stop, len(jobs))

    def show(
        self,
        folder: RunFolder,
        prompts: Sequence[Prompt],
        scorers: Mapping[str, Scorer],
        drawing: Drawing,
        *,
        label: str,
        iteration: int,
    ) -> None:
        """A column of answers."""
        seed = self.recipe.eval.seed
        jobs = [(prompt.text, prompt_key(seed, prompt.text, 0)) for prompt in prompts]
        texts = [text for drawn in self.draw(jobs, drawing, progress=_silent) for text in drawn.samples]
        scores = _first_scores(scorers, texts, prompts)
        column = {"label": label, "iteration": iteration, "texts": texts, "scores": scores}
        _enter(folder, [prompt.text for prompt in prompts], seed, column)


def _silent(done: int, total: int) -> None:
    pass


def _first_scores(scorers: Mapping[str, Scorer], texts: list[str], prompts: Sequence[Prompt]) -> list[float | None]:
    scorer: Any = next(iter(scorers.values()), None)
    if scorer is None:
        return [None] * len(prompts)
    scores = scorer(texts, [prompt.text for prompt in prompts], [prompt.metadata for prompt in prompts])
    return [value if ok else None for value, ok in zip(scores.scores.tolist(), scores.valid.tolist(), strict=True)]


def _enter(folder: RunFolder, texts: Sequence[str], seed: int, column: Mapping[str, Any]) -> None:
    """Put a column into the run's answers, replacing what has its label."""
    index: dict[str, Any] = {"prompts": list(texts), "seeds": [seed] * len(texts), "columns": []}
    if folder.answers.exists():
        index["columns"] = json.loads(folder.answers.read_text(encoding="utf-8"))["columns"]
    others = [other for other in index["columns"] if other["label"] != column["label"]]
    index["columns"] = sorted([*others, column], key=lambda entry: (entry["iteration"], entry["label"] == "after"))
    write_atomically(folder.answers, json.dumps(index, indent=1))
