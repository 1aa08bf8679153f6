"""Scoring beside sampling: a small pool of threads turns samples into rewards while the next ones are drawn."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor

from flowgrpo.daemons import DaemonPool
from flowgrpo.errors import RewardError, RunError, UsageError
from flowgrpo.processes import ALONE, Processes
from flowgrpo.recipe import Reward
from reward_models import Comparison, Cost, Scorer, ScorerError, Scores, load
from reward_models.scores import NotReached, concatenate

SHOWN_ERRORS = 3
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Rewards:
    """What the scorers said of N samples, in sample order.

    scores: scorer -> [N] float64; valid: [N], True where every scorer of non-zero weight gave a number, and the
    sample's group was not dropped; dropped: [N], True where it was, None before anybody looked;
    components: "scorer.component" -> [N]; errors: sample -> message; comparisons: pairwise scorer -> every comparison
    that it made, by sample positions (`reward_models.win_matrix` makes one group's table of them); cost: scorer ->
    requests, tokens and price, of those that have any.
    """

    scores: dict[str, Tensor]
    valid: Tensor
    components: dict[str, Tensor]
    errors: dict[int, str]
    comparisons: dict[str, tuple[Comparison, ...]] = field(default_factory=dict)
    cost: dict[str, Cost] = field(default_factory=dict)
    dropped: Tensor | None = None

    def total(self, weights: Mapping[str, float]) -> Tensor:
        """Weighted sum of the scorers that are trained on [N], NaN where one of them gave no number."""
        parts = [weights[name] * values for name, values in self.scores.items() if weights[name] != 0]
        return torch.stack(parts).sum(0).masked_fill(~self.valid, torch.nan)

    @property
    def invalid_share(self) -> float:
        """Share of the samples that could not be scored; those of dropped groups that could are not among them."""
        scored = self.valid if self.dropped is None else self.valid | self.dropped
        return 1.0 - scored.double().mean().item()


def without_broken_groups(rewards: Rewards, group: Tensor, allowed: float) -> Rewards:
    """Take groups out of training of which too little is left to compare.

    Args:
        rewards: of N samples.
        group: group of each [N].
        allowed: largest share of a group without a score; a group of which fewer than two samples have one goes too.

    Returns: the rewards with every sample of such groups not valid, and noted in `dropped` where it had a score.

    Raises: RewardError: no group is left.
    """
    _, row = group.unique(return_inverse=True)
    size, scored = torch.bincount(row), torch.bincount(row, weights=rewards.valid.double())
    broken = ((scored < 2) | (1 - scored / size > allowed + _ROUNDING))[row]
    if broken.all():
        raise RewardError(
            f"no group is left: in each, more than reward.max_invalid_in_group = {allowed:g} of the samples could not "
            f"be scored, or all but one; first failures: {_first_failures(rewards)}"
        )
    return replace(rewards, valid=rewards.valid & ~broken, dropped=rewards.valid & broken)


def _first_failures(rewards: Rewards) -> str:
    return "; ".join(f"sample {i}: {text}" for i, text in sorted(rewards.errors.items())[:SHOWN_ERRORS])


def load_scorers(names: Iterable[str], section: Reward, *, device: str, media: str = "image") -> dict[str, Scorer]:
    """Scorers by name, with the options that the recipe gives them; `media` is what a user's own function is given.

    Raises:
        UsageError: a name, an option or a file of weights is wrong.
        RunError: the service of a scorer cannot be reached.
    """
    try:
        return {name: load(name, device=device, media=media, **section.options.get(name, {})) for name in names}
    except NotReached as error:
        raise RunError(str(error)) from error
    except ValueError as error:
        raise UsageError(str(error)) from error


class Patient:
    """A scorer whose caller waits for it, but no longer than `seconds` for a call."""

    def __init__(self, scorer: Scorer, seconds: float) -> None:
        self._scorer, self._seconds = scorer, seconds

    def __call__(self, *args: Any, **kwargs: Any) -> Scores:
        """Raises: RunError: the scorer took too long."""
        workers = DaemonPool(1, name="scorer")
        try:
            return workers.submit(lambda: self._scorer(*args, **kwargs)).result(self._seconds)
        except FutureTimeout as error:
            raise RunError(
                f"the scorer {self._scorer.name!r} took longer than reward.timeout_s = {self._seconds:g} s for "
                f"{len(args[0])} samples of an evaluation; what was scored before is kept"
            ) from error
        finally:
            workers.stop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scorer, name)


def load_patient_scorers(
    names: Iterable[str], section: Reward, *, device: str, media: str = "image"
) -> dict[str, Scorer]:
    """As `load_scorers`; a call that takes longer than the recipe's `reward.timeout_s` ends the run."""
    loaded = load_scorers(names, section, device=device, media=media)
    return {name: cast(Scorer, Patient(scorer, section.timeout_s)) for name, scorer in loaded.items()}


@dataclass(slots=True)
class RewardPool:
    """Scores batches in the background, in the order in which they were handed in.

    Scorers that do not declare themselves thread-safe are called by one thread at a time.
    """

    scorers: dict[str, Scorer]
    section: Reward
    seconds: float = 0.0
    """Time spent inside scorers, all threads added."""
    processes: Processes = ALONE
    """Whose scores `collect` joins."""
    _workers: DaemonPool = field(init=False)
    _locks: dict[str, threading.Lock] = field(init=False)
    _pending: list[Future[dict[str, Scores]]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._workers = DaemonPool(self.section.workers, name="reward")
        self._locks = {name: threading.Lock() for name in self.scorers}

    @classmethod
    def from_recipe(
        cls, section: Reward, *, device: str, media: str = "image", processes: Processes = ALONE
    ) -> RewardPool:
        """Load every scorer that the recipe names, those of weight 0 too; `media` is what they are given."""
        return cls(load_scorers(section.names, section, device=device, media=media), section, processes=processes)

    def submit(
        self,
        samples: Any,
        prompts: Sequence[str],
        metadata: Sequence[Mapping[str, Any]],
        *,
        group: Sequence[int],
        seed: tuple[int, ...],
    ) -> None:
        """Queue N samples as scorers take them: pictures [N, 3, H, W], or texts; they must not be changed afterwards.

        Args:
            samples: the samples.
            prompts: N texts.
            metadata: N mappings.
            group: prompt of each sample within the iteration, [N]; whole groups only, since pairwise scorers compare
                the members of a group with each other.
            seed: (run seed, iteration), of what pairwise scorers draw.
        """
        batch = (samples, list(prompts), list(metadata), list(group), seed)
        self._pending.append(self._workers.submit(self._score, *batch))

    def collect(self) -> Rewards:
        """Wait for everything submitted since the last call and return it in that order, of all processes in theirs.

        Raises: RewardError: a scorer hung for longer than `timeout_s`, is wrong itself, or too large a share of samples
            is invalid.
        """
        pending, self._pending = self._pending, []
        try:
            here = [future.result(timeout=self.section.timeout_s) for future in pending]
        except FutureTimeout as error:
            raise RewardError(f"a reward took longer than reward.timeout_s = {self.section.timeout_s:g} s") from error
        except ScorerError as error:
            raise RewardError(str(error)) from error
        results = self.processes.joined(here)
        rewards = self._merge({name: concatenate([result[name] for result in results]) for name in self.scorers})
        self._refuse_too_many_failures(rewards)
        return rewards

    def abandon(self) -> None:
        """Forget what is queued and stop the threads without waiting for a scorer that hangs."""
        self._pending = []
        self._workers.stop()

    def _score(
        self,
        samples: Any,
        prompts: list[str],
        metadata: list[Mapping[str, Any]],
        group: list[int],
        seed: tuple[int, ...],
    ) -> dict[str, Scores]:
        result = {}
        for name, scorer in self.scorers.items():
            start = time.perf_counter()
            with nullcontext() if scorer.thread_safe else self._locks[name]:
                result[name] = scorer(samples, prompts, metadata, group=group, seed=seed)
            self.seconds += time.perf_counter() - start
        return result

    def _merge(self, scores: dict[str, Scores]) -> Rewards:
        trained = [scores[name] for name, weight in self.section.names.items() if weight != 0]
        valid = torch.stack([part.valid for part in trained]).all(0)
        errors = {i: f"{name}: {text}" for name, part in scores.items() for i, text in part.errors.items()}
        components = {f"{name}.{key}": value for name, part in scores.items() for key, value in part.components.items()}
        comparisons = {name: part.comparisons for name, part in scores.items() if part.comparisons}
        cost = {name: part.cost for name, part in scores.items() if part.cost}
        numbers = {name: part.scores for name, part in scores.items()}
        return Rewards(numbers, valid, components, errors, comparisons, cost)

    def _refuse_too_many_failures(self, rewards: Rewards) -> None:
        share, allowed = rewards.invalid_share, self.section.max_invalid_share
        if share > allowed:
            raise RewardError(
                f"{share:.0%} of the samples could not be scored, more than reward.max_invalid_share = {allowed:g}; "
                f"first failures: {_first_failures(rewards)}"
            )
