"""What the training loop asks of a kind of model: the one seam between the core and what a model makes.

A `Medium` draws samples, says how rewards of samples become credit of policy-gradient units, and repeats the forward
passes that training needs. Everything else (objective, optimizer, checkpoints, evaluation, report) knows units alone.
A new kind of model is one entry of `MEDIA`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from flowgrpo.clock import Clock
from flowgrpo.policy import Trainable
from flowgrpo.processes import ALONE, Processes
from flowgrpo.prompts import Prompt
from flowgrpo.records import Record
from flowgrpo.rewarding import RewardPool, Rewards

if TYPE_CHECKING:
    from pathlib import Path

    from flowgrpo.objective import Objective
    from flowgrpo.recipe import Recipe, Train
    from flowgrpo.runfolder import RunFolder
    from flowgrpo.sharding import Sharded
    from reward_models import Scorer

MicroBatch = Tensor
"""Indices of what one forward pass takes, int64 [m]; what they count is the medium's own business."""
LossOf = Callable[[Record, Tensor], Tensor]
"""(record [B, S], number of each of its units [B, S]) -> loss, a scalar with gradient."""
Between = Callable[[int, int], None]
Drawing = Mapping[str, Any]
"""How samples are drawn for people and evaluations: the medium's own settings by name, as JSON values."""


@dataclass(frozen=True, slots=True)
class Update:
    """One optimizer step.

    Attributes:
        kept: units that all processes together train in it, bool in the shape of `Work.keep`.
        batches: what this process forwards for it; may be none.
    """

    kept: Tensor
    batches: Sequence[MicroBatch]


def own_batches(indices: Tensor, own: range, size: int) -> list[MicroBatch]:
    """Of increasing indices, those of this process, in micro-batches of at most `size`."""
    mine = indices[(indices >= own.start) & (indices < own.stop)]
    return list(mine.split(size)) if len(mine) else []


@dataclass(frozen=True, slots=True)
class Collected:
    """What one iteration drew, on all processes together; the latents in `rollout` may be this process's alone.

    Attributes:
        rollout: what training needs of it, the medium's own.
        prompts: one per group.
        group: prompt of each sample [N].
        rewards: of the N samples.
        statistics: guard-rail numbers of the samples, by the key that they are logged under.
        forwards: network inputs evaluated while sampling.
        decodes: how often a sample was brought into the form that people and scorers see.
        scored: samples and intermediate predictions that were scored.
    """

    rollout: Any
    prompts: tuple[Prompt, ...]
    group: Tensor
    rewards: Rewards
    statistics: Mapping[str, float]
    forwards: int
    decodes: int
    scored: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """Samples of some jobs, in the form that scorers take, and further numbers of each by name."""

    jobs: range
    samples: Any
    numbers: Mapping[str, Sequence[float]] = field(default_factory=dict)


class Work(Protocol):
    """One iteration's units, U of them, credited and selected, and what was computed about them so far.

    Attributes:
        advantages: float64, U elements in any shape.
        keep: which units are trained, bool of that shape.
        leaf_of: sample of each pair [P]; see `flowgrpo.reductions`.
        edge_of: unit of each pair [P], its position in the flattened `keep`.
        step: number of each unit's sampling step [U].
        window: facts of the sampling steps, for the metrics: "steps", "trained_steps".
        trained_std: transition std of each trained step, where there is such a thing.
        forwards: network inputs so far: "trained", "old", "reference".
    """

    advantages: Tensor
    keep: Tensor
    leaf_of: Tensor
    edge_of: Tensor
    step: Tensor
    window: Mapping[str, object]
    trained_std: Tensor | None
    forwards: dict[str, int]

    def layout(self, train: Train, iteration: int) -> list[Update]:
        """The optimizer steps of an inner epoch, the same on every process; steps without a kept unit are left out."""
        ...

    def remember(self, batch: MicroBatch, epoch: int) -> None:
        """Note what the policy, as it is now, says of a micro-batch: the old policy of later updates."""
        ...

    def backward(
        self, batch: MicroBatch, kept: Tensor, loss_of: LossOf, *, epoch: int, on_policy: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Forward, loss and gradients of a micro-batch.

        Args:
            batch: from `layout`.
            kept: of its update.
            loss_of: called once with the record of the micro-batch.
            epoch: the inner epoch, from 0.
            on_policy: the policy still is the one that drew the samples.

        Returns:
            The number of each unit of the record, and further metrics of the units in the same shape.
        """
        ...

    def answers(self, batch: MicroBatch) -> Tensor:
        """What a micro-batch's ratios are computed from, with a graph where gradients are enabled."""
        ...

    def place(self, unit: int) -> str:
        """Where a unit is, for messages."""
        ...


class Medium(Protocol):
    """One kind of model with the weights of one run.

    Attributes:
        policy: what is trained.
        media: what its samples are to a scorer.
    """

    policy: Trainable
    media: str

    def prepare(self, texts: Sequence[str], *, progress: Between) -> None:
        """Encode every prompt that a run will need, and free what did it; `progress` is told (done, all)."""
        ...

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
        """Sample a group of every prompt and score it, each process its share of the groups.

        `between` is called with (groups done, groups of this process); `pool` belongs to the same processes.
        """
        ...

    def work(self, collected: Collected, objective: Objective, iteration: int) -> Work:
        """Credit and selection of an iteration."""
        ...

    def record(self, folder: RunFolder, collected: Collected, work: Work, iteration: int) -> None:
        """Leave in the run folder what the report shows of single groups."""
        ...

    def drawing(self, *, trained: bool = True, **changes: Any) -> Drawing:
        """The recipe's settings for evaluations, of the trained or the base model, with some of them replaced."""
        ...

    def draw(
        self, jobs: Sequence[tuple[str, tuple[int, ...]]], drawing: Drawing, *, progress: Between
    ) -> Iterator[Drawn]:
        """Samples of (prompt, noise key) jobs in batches of `eval.batch_size`; each depends on its own job alone."""
        ...

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
        """Draw every prompt once and keep the samples under `label`, for the report."""
        ...


MEDIA: dict[str, str] = {
    "flow": "flowgrpo.flow_medium:FlowMedium",
    "masked_lm": "flowgrpo.masked_medium:MaskedMedium",
}
"""`model.kind` -> "module:class"; the class has `from_recipe(recipe, sharded)`."""


def load_medium(recipe: Recipe, *, adapter: Path | None = None, sharded: Sharded | None = None) -> Medium:
    """The model of a recipe, ready to draw and to be trained.

    Args:
        recipe: the recipe.
        adapter: trained weights, as a run leaves them; None takes the base model.
        sharded: spreads the model over the processes of a run.

    Raises:
        FlowgrpoError: the model's files do not fit the recipe, or cannot be read.
    """
    module, _, name = MEDIA[recipe.model.kind].partition(":")
    medium: Medium = getattr(importlib.import_module(module), name).from_recipe(recipe, sharded)
    if adapter is not None:
        medium.policy.load(adapter)
    return medium
