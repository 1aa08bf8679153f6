"""Several processes that train as one: which one this is, and the few things that all of them do together.

Every exchange is one all-gather of envelopes. A process that fails puts its failure where the others put their values:
all of them leave at that point with one message, and none waits for a process that is gone.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
import torch.distributed as dist

from flowgrpo.errors import RunError, first_line
from flowgrpo.launches import refuse_idle
from flowgrpo.stopping import Interrupted

if TYPE_CHECKING:
    from flowgrpo.recipe import Recipe

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)

PATIENCE = timedelta(hours=2)
"""How long a process waits for the others."""
BUCKET = 2**25
"""Gradient elements summed at once: 128 MiB in float32 beside the gradients themselves."""
DRIFT = 1e-5
"""Of the sum of a parameter's absolute values: far above rounding, far below one optimizer step."""
VARIABLES = ("RANK", "MASTER_ADDR", "MASTER_PORT")
"""What a launcher sets beside WORLD_SIZE."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """What a process sends in place of a value."""

    rank: int
    message: str
    interrupted: bool


PASSES = ("backward", "plain", "reference", "graph")
"""Kinds of passes, in the order in which they are made where processes want different ones."""


@dataclass(frozen=True, slots=True)
class Pass:
    """What a process sends in place of a value while it waits for the others to make a pass of networks with it.

    Attributes:
        kind: one of `PASSES`.
        networks: those that are called.
    """

    kind: str
    networks: tuple[str, ...] = ()


class Together(Protocol):
    """Networks that no process can call alone; see `flowgrpo.sharding`.

    Attributes:
        inside: a pass is going on, in which the others cannot be told anything.
    """

    inside: bool

    def follow(self, wanted: Pass) -> None:
        """Take part in a pass that others need, with nothing of one's own."""
        ...

    def settle(self) -> None:
        """No process is in a pass."""
        ...


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among those of a run; alone by default, and then everything here is the identity.

    Attributes:
        rank: number of this process, 0 to world - 1; process 0 writes the run folder.
        world: how many there are.
        networks: what they can only call together, if there is such a thing.
    """

    rank: int = 0
    world: int = 1
    networks: Together | None = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, count: int) -> range:
        """This process's part of `count` groups: consecutive ones, as many as any other's or one more or less."""
        return range(self.rank * count // self.world, (self.rank + 1) * count // self.world)

    def exchange(self, value: T) -> list[T]:
        """The value of every process, in the order of their numbers. All must call it.

        A process that comes here first takes part in the passes that the others still have to make.

        Raises:
            Interrupted: a signal has reached one of them.
            RunError: one of them failed, or is gone.
        """
        if self.world == 1:
            return [value]
        found = self._gathered(value)
        if self.networks is not None:
            while (wanted := _wanted(found)) is not None:
                self.networks.follow(wanted)
                found = self._gathered(value)
            self.networks.settle()
        return found

    def join_pass(self, own: Pass, networks: Together) -> Pass:
        """Wait until every process makes this pass too, or takes part in it; what all of them together call."""
        while True:
            wanted = _wanted(self._gathered(own))
            if wanted is None or wanted.kind == own.kind:
                return wanted or own
            networks.follow(wanted)

    def joined(self, values: Sequence[T]) -> list[T]:
        """The values of all processes, one process's after the other's."""
        return [value for values_there in self.exchange(values) for value in values_there]

    def of_first(self, make: Callable[[], T]) -> T:
        """What process 0 makes, on every process; the others do not call `make`."""
        held = [make() if self.first else None]
        self.exchange(None)
        if self.world > 1:
            dist.broadcast_object_list(held, src=0)
        made: Any = held[0]
        return made

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Replace each gradient by its sum over the processes; where none has one, there still is none."""
        if self.world == 1:
            return
        if self.networks is not None:
            self.exchange(None)  # Each backward pass has summed its own.
            return
        present = self.exchange([p.grad is not None for p in parameters])
        somewhere = [p for p, *has in zip(parameters, *present, strict=True) if any(has)]
        for bucket in buckets([p.numel() for p in somewhere], BUCKET):
            _sum_bucket([somewhere[i] for i in bucket])

    def refuse_unequal(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Raises: RunError: the processes do not hold the same weights, to `DRIFT` of their mean size."""
        if self.world == 1 or self.networks is not None:
            return
        sums = self.exchange([(p.double().sum().item(), p.double().abs().sum().item()) for p in parameters])
        for rank, there in enumerate(sums):
            for (total, size), (first_total, first_size) in zip(there, sums[0], strict=True):
                if max(abs(total - first_total), abs(size - first_size)) > DRIFT * first_size:
                    raise RunError(
                        f"process {rank} of {self.world} holds other weights than process 0; every process must read "
                        "the same model files and run the same versions on the same kind of device"
                    )

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """Whatever leaves this block on one process ends the others too, at their next exchange.

        In the middle of a pass of sharded networks nothing can be told: the process ends, and the others notice that.
        """
        try:
            yield
        except BaseException as error:
            if self.world > 1 and not getattr(error, "known_to_all", False):
                _known_to_all(error)
                if self.networks is not None and self.networks.inside:
                    _raise_if_lost(error, self.world)
                else:
                    message = str(error) if isinstance(error, Interrupted) else first_line(error)
                    _send(_Failure(self.rank, message, isinstance(error, Interrupted)), self.world)
            raise

    def _gathered(self, value: Any) -> list[Any]:
        if self.networks is not None:
            self.networks.inside = False
        found = _all_gather(value, self.world)
        failures = [held for held in found if isinstance(held, _Failure)]
        if failures:
            raise _known_to_all(_raised(failures[0], self.world))
        return found


ALONE = Processes()


def refuse_idle_processes(recipe: Recipe, processes: Processes) -> None:
    """Raises: RecipeError: an iteration has fewer groups than there are processes."""
    refuse_idle(recipe, processes.world)


def launched_rank() -> int:
    """Number of this process as the launcher says, 0 without a launcher."""
    return int(os.environ.get("RANK", "0"))


def join_processes(device: torch.device) -> Processes:
    """The processes that a launcher started together with this one; alone without a launcher.

    Args:
        device: where this process trains; gradients on CUDA are summed by NCCL, everything else by gloo.

    Raises:
        RunError: the launcher's variables are incomplete, or the processes do not find each other.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return ALONE
    missing = [name for name in VARIABLES if name not in os.environ]
    if missing:
        raise RunError(
            f"WORLD_SIZE is {world}, but {', '.join(missing)} is not set; start the processes with accelerate launch "
            "or torchrun, or unset WORLD_SIZE"
        )
    if not dist.is_initialized():
        _connect(device, world)
    return Processes(dist.get_rank(), dist.get_world_size())


def _connect(device: torch.device, world: int) -> None:
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise RunError(f"the {world} processes did not find each other: {first_line(error)}") from error
    atexit.register(_leave)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def buckets(sizes: Sequence[int], limit: int) -> list[list[int]]:
    """Consecutive positions whose sizes add up to at most `limit`, or single ones that are larger."""
    found: list[list[int]] = []
    filled = limit
    for position, size in enumerate(sizes):
        if filled + size > limit or not found:
            found.append([])
            filled = 0
        found[-1].append(position)
        filled += size
    return found


def _sum_bucket(parameters: Sequence[torch.nn.Parameter]) -> None:
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([g.flatten().to(torch.promote_types(g.dtype, torch.float32)) for g in gradients])
    dist.all_reduce(flat)
    for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter).to(parameter.dtype)


def _all_gather(value: Any, world: int) -> list[Any]:
    found: list[Any] = [None] * world
    try:
        dist.all_gather_object(found, value)
    except RuntimeError as error:
        raise _gone(error, world) from error
    return found


def _gone(error: BaseException, world: int) -> RunError:
    return _known_to_all(
        RunError(
            f"another of the {world} processes is gone ({first_line(error)}); the run is saved up to its last "
            "checkpoint, and the same command continues it"
        )
    )


def _raise_if_lost(error: BaseException, world: int) -> None:
    """Raises: RunError: the error is that a collective of torch did not reach another process."""
    if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error)):
        raise _gone(error, world) from error


def _wanted(found: Sequence[Any]) -> Pass | None:
    """The pass to be made next, with all networks that any process calls in it."""
    passes = [held for held in found if isinstance(held, Pass)]
    if not passes:
        return None
    kind = min((held.kind for held in passes), key=PASSES.index)
    called = {name for held in passes if held.kind == kind for name in held.networks}
    return Pass(kind, tuple(sorted(called)))


def _send(failure: _Failure, world: int) -> None:
    """Tell the others; where they cannot be reached any more, there is nobody to tell."""
    try:
        _all_gather(failure, world)
    except RunError:
        return


def _raised(failure: _Failure, world: int) -> Exception:
    if failure.interrupted:
        return Interrupted(failure.message)
    return RunError(f"process {failure.rank} of {world}: {failure.message}")


def _known_to_all(error: E) -> E:
    """Mark an error that needs no telling any more."""
    error.known_to_all = True  # type: ignore[attr-defined]
    return error
