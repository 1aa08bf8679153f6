"""The training loop: the file to read first.

    prompts -> encode -> sample -> decode -> score -> credit -> select -> update, then again

An iteration is a function of the weights, the optimizer and its number alone: every random choice is keyed by (run
seed, iteration, ...). A run that is killed and resumed therefore equals one that was not. Of several processes each
samples and trains its share of the groups; everything between scores and the gradients' sum sees the whole batch.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from flowgrpo import ema
from flowgrpo.accelerations import refuse_where_sharded
from flowgrpo.checkpoint import Checkpoint, drop_newer, save_checkpoint
from flowgrpo.clock import TIMERS, Clock
from flowgrpo.devices import resolve_device
from flowgrpo.errors import CheckpointError, RewardError
from flowgrpo.guard_rails import new_alarms, watch_of
from flowgrpo.judging import Judge, unjudged
from flowgrpo.likelihoods import likelihood_of
from flowgrpo.media import Collected, Work, load_medium
from flowgrpo.micro_batches import largest_that_fits, with_size
from flowgrpo.objective import check_requirements, clip_warning, resolve_objective
from flowgrpo.parity import gap_problem, refuse
from flowgrpo.processes import join_processes, refuse_idle_processes
from flowgrpo.progress import Progress
from flowgrpo.prompts import Prompt, load_prompts, prompts_for
from flowgrpo.recipe import Recipe
from flowgrpo.recipe_checks import cautions
from flowgrpo.recipe_loading import recipe_hash, write_recipe
from flowgrpo.rewarding import RewardPool
from flowgrpo.run_state import newest, state_of, take_over
from flowgrpo.runfolder import RunFolder, append_jsonl, full_disk_told, read_jsonl, run_folder
from flowgrpo.saving import replace_folder
from flowgrpo.sharding import gathered, shared
from flowgrpo.stopping import Interrupted, SignalFlag, reason_to_stop, signals_flagged
from flowgrpo.trackers import Trackers
from flowgrpo.units import reward_metrics
from flowgrpo.update import Learner
from flowgrpo.zero import Zero
from flowgrpo.zero_settings import launched_zero
from reward_models.cost import Cost


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended: folder, iterations done, why it stopped, and whether a signal did it."""

    folder: Path
    iterations: int
    reason: str
    interrupted: bool


class Trainer:
    """One run of a recipe, from an empty or an interrupted folder to its end.

    Args:
        recipe: every choice of the run.
        origins: where each value of the recipe came from, for the record.
        progress: shows what is going on; silent by default.
    """

    def __init__(
        self, recipe: Recipe, *, origins: Mapping[str, str] | None = None, progress: Progress | None = None
    ) -> None:
        self.recipe = recipe
        self.origins = dict(origins or {})
        device = resolve_device(recipe.run.device)
        self.zero = launched_zero(recipe.train.max_grad_norm)
        self.processes, self.sharded = shared(join_processes(device), device)
        self.progress = progress if progress is not None and self.processes.first else Progress.silent()
        self.iteration = 0
        self.seconds = 0.0
        self._saved = -1
        self.clock = Clock(TIMERS[recipe.run.clock])
        with self.processes.failing_together():
            self._load(recipe)

    def _load(self, recipe: Recipe) -> None:
        refuse_idle_processes(recipe, self.processes)
        self.folder = RunFolder(run_folder(recipe), owned=self.processes.first)
        self.objective = resolve_objective(recipe.objective)
        likelihood = likelihood_of(recipe)
        check_requirements(recipe.objective, likelihood.fields, likelihood.title)
        self.prompts = load_prompts(recipe.data.prompts, limit=recipe.data.limit).prompts
        if self.sharded is not None:
            refuse_where_sharded(recipe)
        self.medium = load_medium(recipe, sharded=self.sharded)
        self.policy = self.medium.policy
        self.pool = RewardPool.from_recipe(
            recipe.reward, device=str(self.policy.device), media=self.medium.media, processes=self.processes
        )
        self.learner = Learner(
            self.policy, recipe, self.objective, self._optimizer(), self._average(), processes=self.processes
        )
        self.judge = Judge.from_recipe(
            recipe, self.medium, self.folder, self.progress, self.learner.average, self.prompts, self.processes
        )

    def run(self) -> RunResult:
        """Train until a stop criterion or a signal; evaluate before and after; write the report.

        Of several processes the first one writes.

        Raises:
            FlowgrpoError: whatever a user can act on; the last checkpoint stays usable.
        """
        with self.processes.failing_together(), full_disk_told(self.folder.path):
            self._start()
            trackers = Trackers.start(self.recipe, self.folder.path) if self.processes.first else Trackers()
        try:
            with self.processes.failing_together(), full_disk_told(self.folder.path):
                return self._train(trackers)
        finally:
            self.pool.abandon()
            trackers.end()

    def _train(self, trackers: Trackers) -> RunResult:
        with signals_flagged() as flag:
            try:
                with self.processes.failing_together():
                    reason = self._loop(flag, trackers)
            except Interrupted as signal_:
                self._checkpoint()
                return self._stopped(f"{signal_} received; `--run.resume auto` (the default) continues", True)
        self.pool.abandon()
        self._say_if_never_clipped()
        state = gathered(self.judge.average or self.policy.trainable(), self.processes)
        if self.processes.first:
            replace_folder(self.folder.adapter, lambda part: self.policy.save(part, state))
        self.judge.after(self.iteration)
        return self._stopped(reason, False)

    def _start(self) -> None:
        resumed = self._resume() if self.recipe.run.resume == "auto" else False
        if self.processes.first:
            self.folder.make()
            if not resumed and self._holds_another_run():
                self.folder.clear()
            self.folder.rewind(self.iteration)
            drop_newer(self.folder.checkpoints, self.iteration)
            write_recipe(self.folder.recipe, self.recipe, self.origins)
        self.folder.event("resume" if resumed else "start", f"at iteration {self.iteration}")
        for keys, caution in cautions(self.recipe):
            self.folder.event("warning", f"{', '.join(keys)}: {caution}")
        texts = [prompt.text for prompt in (*self.prompts, *self.judge.all_prompts())]
        self.processes.refuse_unequal(list(self.policy.trainable().values()))
        self.medium.prepare(list(dict.fromkeys(texts)), progress=self.progress.counter("encoding prompts"))
        if not resumed:
            self.judge.before()

    def _loop(self, flag: SignalFlag, trackers: Trackers) -> str:
        rows = read_jsonl(self.folder.metrics)
        rewards = [row["reward/mean"] for row in rows]
        watch = watch_of(self.recipe, self.pool.scorers)
        first = self.iteration + 1
        while True:
            reason = reason_to_stop(self.recipe.train, iteration=self.iteration, seconds=self.seconds, rewards=rewards)
            reason = self._agreed(reason, flag)
            if reason is not None:
                self._checkpoint()
                return reason
            flag.leave_if_set()
            with self._saving_where_rewards_fail():
                row = self.iterate(self.iteration + 1, flag.leave_if_set, check_parity=self.iteration + 1 == first)
            rows.append(row)
            rewards.append(row["reward/mean"])
            for alarm in new_alarms(rows, watch):
                self.folder.event("warning", alarm.message)
                self.progress.say(f"warning: {alarm.message}")
            trackers.log(row)
            # Judged before saved: whoever is killed in between repeats the iteration and misses no evaluation.
            self.judge.during(self.iteration)
            if self.iteration % self.recipe.run.checkpoint_every == 0:
                self._checkpoint()

    @contextmanager
    def _saving_where_rewards_fail(self) -> Iterator[None]:
        """A dead judge costs no iteration. Of several processes one may fail alone, and saving takes all of them."""
        try:
            yield
        except RewardError as error:
            if self.processes.world > 1:
                raise
            self._checkpoint()
            where = f"after iteration {self.iteration}" if self.iteration else "untrained"
            raise RewardError(f"{error}; the run is saved {where}, and the same command continues") from error

    def _agreed(self, reason: str | None, flag: SignalFlag) -> str | None:
        """Why the first process stops, for clocks differ; a signal that reached any process has reached all."""
        said = self.processes.exchange((reason, flag.received))
        for _, number in said:
            if number is not None:
                flag.received = number
        return said[0][0]

    def iterate(
        self, number: int, leave_if_asked: Callable[[], None] = lambda: None, *, check_parity: bool = False
    ) -> dict[str, Any]:
        """One iteration: sample, score, credit, update, record; its row of metrics.jsonl."""
        self.clock.take()
        scored = self.pool.seconds

        def between(done: int, total: int) -> None:
            self.progress.stage(number, "sampling", done, total)
            leave_if_asked()

        collected = self.medium.collect(
            self._prompts(number),
            self.pool,
            iteration=number,
            clock=self.clock,
            between=between,
            processes=self.processes,
        )
        self.progress.stage(number, "training", 0, 0)
        work = self.medium.work(collected, self.objective, number)
        if self.learner.recipe.train.micro_batch_size == "auto":
            self._fit_micro_batches(work, number)
        if check_parity:
            problems = self.processes.exchange(self.learner.parity_problem(work, number))
            refuse(next(filter(None, problems), None), self.recipe, self.folder)
        learned = self.learner.learn(work, iteration=number, clock=self.clock)
        row = {"iteration": number, **self._facts(collected, work), **learned}
        if check_parity:
            refuse(gap_problem(self.recipe, row), self.recipe, self.folder)
        if self.processes.first and (number == 1 or number % self.recipe.run.checkpoint_every == 0):
            self.medium.record(self.folder, collected, work, number)
        stages = self.clock.take()
        self.iteration, self.seconds = number, self.seconds + stages["total"]
        if self.processes.first:
            self._record(row, {**stages, "scoring": self.pool.seconds - scored}, collected.rewards.cost)
        return row

    def _fit_micro_batches(self, work: Work, number: int) -> None:
        """The largest micro-batch that fits on every process, from now on."""
        size = min(self.processes.exchange(largest_that_fits(self.learner, work, number)))
        self.learner.recipe = with_size(self.recipe, size)
        self.folder.event("micro_batch", f"train.micro_batch_size auto is {size} here")

    def _facts(self, collected: Collected, work: Work) -> dict[str, Any]:
        return {
            "samples": len(collected.group),
            **reward_metrics(self.recipe, collected.rewards, collected.group),
            "advantage/abs_mean": work.advantages.abs().mean().item(),
            "units/kept": int(work.keep.sum()),
            **collected.statistics,
            "forwards/sampling": collected.forwards,
            "decodes": collected.decodes,
            "scored": collected.scored,
        }

    def _prompts(self, number: int) -> list[Prompt]:
        train = self.recipe.train
        chosen = prompts_for(number, seed=train.seed, count=train.prompts_per_iteration, size=len(self.prompts))
        return [self.prompts[index] for index in chosen]

    def _record(self, row: Mapping[str, Any], stages: Mapping[str, float], costs: Mapping[str, Cost]) -> None:
        append_jsonl(self.folder.metrics, [row])
        times = {f"time/{name}": seconds for name, seconds in stages.items()}
        spent = {f"cost/{name}/{key}": value for name, cost in costs.items() for key, value in asdict(cost).items()}
        append_jsonl(self.folder.timing, [{"iteration": self.iteration, "seconds": self.seconds, **times, **spent}])
        self.progress.iteration(row, seconds=self.seconds, train=self.recipe.train)

    def _optimizer(self) -> torch.optim.Optimizer:
        train = self.recipe.train
        named = self.policy.trainable()
        choices: dict[str, Any] = {
            "lr": train.lr,
            "betas": train.betas,
            "weight_decay": train.weight_decay,
            "eps": train.adam_eps,
        }
        if self.zero is not None and self.processes.world > 1:
            return Zero(named, self.zero, self.processes, max_grad_norm=train.max_grad_norm, **choices)
        return torch.optim.AdamW(list(named.values()), **choices, foreach=None if self.sharded is None else True)

    def _average(self) -> ema.Average | None:
        return None if self.recipe.train.ema_decay is None else ema.start(self.policy.trainable())

    def _checkpoint(self) -> None:
        if self._saved == self.iteration:
            return
        self.processes.refuse_unequal(list(self.policy.trainable().values()))
        self._saved = self.iteration
        tensors = state_of(self.learner)
        if not self.processes.first:
            return
        numbers = {"updates": self.learner.updates, "seconds": self.seconds, "recipe": recipe_hash(self.recipe)}
        start = time.perf_counter()
        self.folder.flush()
        save_checkpoint(
            self.folder.checkpoints, Checkpoint(self.iteration, tensors, numbers), keep=self.recipe.run.keep
        )
        seconds = time.perf_counter() - start
        self.folder.event("checkpoint", f"iteration {self.iteration}, written in {seconds:.2f} s")

    def _resume(self) -> bool:
        """Take over the newest good checkpoint of the folder, if there is one."""
        saved, complaints = newest(self.folder.checkpoints, self.processes)
        for complaint in complaints:
            self.folder.event("warning", f"{complaint}; using the one before")
            self.progress.say(f"warning: {complaint}; using the one before")
        if saved is None:
            return False
        if saved.numbers["recipe"] != recipe_hash(self.recipe):
            raise CheckpointError(
                f"{self.folder.path} holds a run of another recipe; give this one another --run.dir, "
                "or start anew with --run.resume never"
            )
        take_over(saved, self.learner)
        self.iteration, self.seconds = saved.iteration, saved.numbers["seconds"]
        self._saved = self.iteration
        self.progress.say(f"resuming {self.folder.path} after iteration {self.iteration}")
        return True

    def _holds_another_run(self) -> bool:
        """Whether there is a run in the folder that this one does not continue: a folder without a recipe is no run.

        Without a checkpoint of this recipe, evaluations of it may be there that a kill interrupted.
        """
        try:
            held = json.loads(self.folder.recipe.read_text(encoding="utf-8"))["hash"]
        except (OSError, ValueError, LookupError, TypeError):
            return False
        return self.recipe.run.resume == "never" or held != recipe_hash(self.recipe)

    def _say_if_never_clipped(self) -> None:
        rows = [row for row in read_jsonl(self.folder.metrics) if not row["on_policy"]]
        largest = max((row["ratio_minus_1/max"] for row in rows if "ratio_minus_1/max" in row), default=None)
        warning = None if largest is None else clip_warning(self.recipe.objective, largest)
        if warning is not None:
            self.folder.event("warning", warning)

    def _stopped(self, reason: str, interrupted: bool) -> RunResult:
        from flowgrpo.report import write_report

        self.folder.event("stop", reason)
        if self.processes.first:
            write_report(self.folder.path)
        self.processes.exchange(None)
        return RunResult(self.folder.path, self.iteration, reason, interrupted)


def check_run(recipe: Recipe, *, progress: Progress | None = None) -> dict[str, Any]:
    """One iteration in a folder that is thrown away, with both start-up checks: what `flowgrpo check --run` shows.

    Returns:
        The iteration's row of metrics, with the seconds that it took under "seconds", and "micro_batch_size".

    Raises:
        FlowgrpoError: what would also end the run.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = recipe.run.model_copy(update={"dir": folder})
        train = recipe.train.model_copy(update={"iterations": 1})
        trainer = Trainer(unjudged(recipe.model_copy(update={"run": run, "train": train})), progress=progress)
        try:
            row = trainer.iterate(1, check_parity=True)
        finally:
            trainer.pool.abandon()
        size = trainer.learner.recipe.train.micro_batch_size
        return {**row, "seconds": trainer.seconds, "micro_batch_size": size}
