"""Flow models behind the seam of `flowgrpo.media`: latents along a plan, decoded to pictures or videos."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from flowgrpo.clock import Clock
from flowgrpo.devices import resolve_device
from flowgrpo.errors import RecipeError
from flowgrpo.evaluation import STATISTICS
from flowgrpo.flow_work import FlowWork
from flowgrpo.image_stats import picture_statistics
from flowgrpo.media import Between, Collected, Drawing, Drawn
from flowgrpo.objective import Objective
from flowgrpo.pictures import draw_column
from flowgrpo.planning import kernel_of, plan_for, roots_per_group
from flowgrpo.policy import Policy, encode_once, load_policy
from flowgrpo.processes import ALONE, Processes
from flowgrpo.prompts import Prompt
from flowgrpo.recipe import Recipe
from flowgrpo.rewarding import RewardPool
from flowgrpo.rollout import collect
from flowgrpo.runfolder import RunFolder, append_jsonl
from flowgrpo.sampling import draw_in_batches
from flowgrpo.sharding import Sharded
from flowgrpo.tree_record import tree_row
from flowgrpo.units import shuffled, units_of
from reward_models import Scorer
from reward_models.comparisons import win_matrix
from samplers.plans import Plan
from samplers.rollout import step_distribution

DRAWING = ("steps", "guidance_scale")


@dataclass(frozen=True, slots=True)
class FlowMedium:
    """See `flowgrpo.media.Medium`. `sigmas` is the grid of rollouts."""

    media: ClassVar[str] = "image"
    recipe: Recipe
    policy: Policy
    sigmas: tuple[float, ...]

    @classmethod
    def from_recipe(cls, recipe: Recipe, sharded: Sharded | None = None) -> FlowMedium:
        """Load the pipeline that the recipe names."""
        device = resolve_device(recipe.run.device)
        policy = load_policy(recipe.model, device=device, seed=recipe.train.seed, sharded=sharded)
        sampler = recipe.sampler
        return cls(recipe, policy, policy.sigmas(sampler.steps, grid=sampler.grid, shift=sampler.shift))

    def prepare(self, texts: Sequence[str], *, progress: Between) -> None:
        """Encode the prompts, one by one into the policy's cache, and free the text encoders."""
        for done, text in enumerate(texts, 1):
            self.policy.encode([text])
            progress(done, len(texts))
        self.policy.drop_encoders()

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
        """Sample every group along the iteration's plan, decode and score."""
        return collect(
            self.policy,
            self.recipe,
            plan_for(self.recipe, self.sigmas, iteration),
            prompts,
            pool,
            iteration=iteration,
            clock=clock,
            between=between,
            processes=processes,
        )

    def work(self, collected: Collected, objective: Objective, iteration: int) -> FlowWork:
        """Credit and selection of the tree edges."""
        train, shared, rewards = self.recipe.train, collected.rollout, collected.rewards
        if train.shuffle_rewards:
            rewards = shuffled(rewards, seed=train.seed, iteration=iteration)
        units = units_of(objective, self.recipe, shared, collected.group, rewards, iteration)
        conditioning, row_of_group = encode_once(self.policy, [prompt.text for prompt in collected.prompts])
        groups = torch.arange(int(shared.whole.input_root.max()) + 1) // roots_per_group(self.recipe)
        std = self._trained_std(shared.whole.plan)
        return FlowWork(self.policy, self.recipe, objective, shared, conditioning, row_of_group[groups], units, std)

    def record(self, folder: RunFolder, collected: Collected, work: FlowWork, iteration: int) -> None:  # type: ignore[override]
        """The first prompt's tree and, of pairwise scorers, its win matrix."""
        rewards = collected.rewards
        prompt = collected.prompts[0].text
        row = tree_row(
            collected.rollout.whole,
            rewards.total(self.recipe.reward.names),
            work.units.advantages,
            work.units.keep,
            group=0,
            roots=range(roots_per_group(self.recipe)),
            prompt=prompt,
            iteration=iteration,
        )
        append_jsonl(folder.trees, [row])
        members = (collected.group == 0).nonzero().flatten().tolist()
        facts = {"iteration": iteration, "prompt": prompt}
        tables = {name: win_matrix(held, members) for name, held in rewards.comparisons.items()}
        append_jsonl(folder.matrices, [{**facts, "scorer": name, "matrix": held} for name, held in tables.items()])

    def drawing(self, *, trained: bool = True, **changes: Any) -> Drawing:
        """ODE steps and guidance; the base model has the guidance that suits it.

        Raises:
            RecipeError: a setting that pictures do not have.
        """
        for name in changes:
            if name not in DRAWING:
                raise RecipeError(f"pictures are drawn with {' and '.join(DRAWING)}; they have no {name}")
        section = self.recipe.eval
        return {"steps": section.steps, "guidance_scale": section.guidance(trained=trained), **changes}

    def draw(
        self, jobs: Sequence[tuple[str, tuple[int, ...]]], drawing: Drawing, *, progress: Between
    ) -> Iterator[Drawn]:
        """Pictures by ODE."""
        for rows, images in draw_in_batches(self.policy, self.recipe, jobs, **drawing, progress=progress):
            numbers = {f"{STATISTICS}{name}": values.tolist() for name, values in picture_statistics(images).items()}
            yield Drawn(rows, images, numbers)

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
        """A column of pictures."""
        draw_column(self.policy, self.recipe, folder, prompts, scorers, label=label, iteration=iteration, **drawing)

    def _trained_std(self, plan: Plan) -> Tensor:
        steps = torch.tensor([i for i, step in enumerate(plan.steps) if step.trained])
        nothing = torch.zeros(len(steps), 1)
        return step_distribution(
            kernel_of(self.recipe), nothing, nothing, plan, steps, self.recipe.sampler.eta
        ).std.flatten()
