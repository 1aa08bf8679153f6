"""Networks whose weights are spread over the processes of a run (FSDP2), and the passes that all make together.

A forward pass of a sharded network gathers weights from every process, a backward pass also sums gradients into their
shares; so each process must take part in each pass, however its own work compares with the others'. Before a pass a
process says so in the exchange that all of them use (`flowgrpo.processes`). Whoever has nothing to compute makes the
pass with a row of its own whose result is multiplied by zero. Nothing is planned ahead: numbers of samples, of decoding
steps and of micro-batches may differ as they like.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Partial, Shard, distribute_tensor
from torch.func import functional_call
from torch.nn import Linear, Module
from torch.nn.utils.parametrize import is_parametrized

from flowgrpo.errors import RecipeError, RunError
from flowgrpo.processes import ALONE, Pass, Processes

Facts = tuple[torch.Size, torch.dtype]


@dataclass(frozen=True, slots=True)
class Settings:
    """What a launcher's configuration says about sharding.

    Attributes:
        reshard: whole weights are freed after each forward pass (ZeRO-3), or kept until the backward pass (ZeRO-2).
        blocks: classes of modules that are gathered one at a time; empty takes those that a network names itself.
    """

    reshard: bool = True
    blocks: tuple[str, ...] = ()


def launched_settings() -> Settings | None:
    """What accelerate's launcher asks for by its environment; None where it asks for whole copies.

    Raises:
        RecipeError: it asks for something that is not done here.
    """
    for name, advice in REFUSED.items():
        if _said(name):
            raise RecipeError(f"the launch configuration sets {name}; {advice}")
    if not _said("ACCELERATE_USE_FSDP"):
        return None
    from accelerate import FullyShardedDataParallelPlugin

    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise RecipeError(f"fsdp_version: {version} of the launch configuration is not supported, 2 is")
    plugin = FullyShardedDataParallelPlugin()
    for name, (held, advice) in UNSUPPORTED.items():
        if held(plugin):
            raise RecipeError(f"{name} of the launch configuration is not supported; {advice}")
    return Settings(bool(plugin.reshard_after_forward), tuple(plugin.transformer_cls_names_to_wrap or ()))


REFUSED = {
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM is not supported; scripts/launch/fsdp2.yaml shards by FSDP2",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor, context and hybrid parallelism are not supported",
}
"""Variable that accelerate's launcher sets -> what to do instead."""
UNSUPPORTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "fsdp_offload_params": (
        lambda plugin: type(plugin.cpu_offload).__name__ == "CPUOffloadPolicy",
        "take more processes, or a lower train.micro_batch_size",
    ),
    "fsdp_activation_checkpointing": (
        lambda plugin: bool(plugin.activation_checkpointing),
        "the recipe's model.gradient_checkpointing does that",
    ),
    "fsdp_auto_wrap_policy: SIZE_BASED_WRAP": (
        lambda plugin: plugin.min_num_params is not None,
        "TRANSFORMER_BASED_WRAP is",
    ),
}
"""Key of the configuration -> (whether a plugin has it, what to do instead)."""


def _said(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("true", "1", "yes")


class Sharded:
    """The sharded networks of a run.

    Args:
        settings: how they are sharded.
        processes: over whom.
        device: where this process's shares are.
    """

    def __init__(self, settings: Settings, processes: Processes, device: torch.device) -> None:
        self.inside = False
        self.idle: Callable[[Pass], Tensor] = _nobody
        """Calls some networks on one row; the result, a scalar, is multiplied by zero."""
        self.settings, self.device = settings, device
        self.processes = replace(processes, networks=self)
        self._mesh = init_device_mesh(device.type, (processes.world,))
        self._units: list[FSDPModule] = []
        self._held: Tensor | None = None
        self._parameters: dict[Module, dict[str, Tensor]] = {}

    def place(self, network: Module) -> Module:
        """Shards a network in place, block by block: no more than one whole block is on the device at a time.

        Raises:
            RecipeError: it is not known what its blocks are.
        """
        for module in [*blocks_of(network, self.settings.blocks), network]:
            fully_shard(module, mesh=self._mesh, reshard_after_forward=self.settings.reshard)
        units = [module for module in network.modules() if isinstance(module, FSDPModule)]
        for unit in units:
            # Denominators are the whole step's already: gradients are added, not averaged.
            unit.set_gradient_divide_factor(1.0)
            unit.set_force_sum_reduction_for_comms(True)
        self._units += units
        self._parameters |= {module: dict(module.named_parameters()) for module in network.modules()}
        return network

    @contextmanager
    def forward(self, networks: Sequence[str], *, reference: bool) -> Iterator[tuple[str, ...]]:
        """A forward pass of some networks, made inside; yields all that must be called, in that order."""
        kind = "reference" if reference else "graph" if torch.is_grad_enabled() else "plain"
        wanted = self.processes.join_pass(Pass(kind, tuple(networks)), self)
        with self._passing():
            yield wanted.networks
        if kind == "graph":
            self._held = None

    def awaited(self, *answers: Tensor) -> list[Tensor]:
        """Results of `forward` whose backward pass waits for the other processes, before anything of the network's."""

        def wait(gradient: Tensor) -> None:
            if not self.inside:  # The first of these results, and nobody who follows.
                self.processes.join_pass(Pass("backward"), self)
                self.inside = True

        views = [answer.view_as(answer) for answer in answers]
        for view in views:
            if view.requires_grad:
                view.register_hook(wait)
        return views

    def whole(self, module: Module, hidden: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """A part of a sharded network for use outside its forward pass, and `awaited` inputs for it.

        Its weights are gathered once, and their gradients summed once, however often it is called.
        """
        own = cast(dict[str, DTensor], self._parameters[module])
        weights = [held.full_tensor(grad_placements=[Partial()]) for held in own.values()]
        hidden, *weights = self.awaited(hidden, *weights)
        held_by_name = dict(zip(own, weights, strict=True))
        if isinstance(module, Linear) and type(module).forward is Linear.forward:
            return _linear(module, held_by_name), hidden
        return lambda rows: functional_call(module, held_by_name, (rows,)), hidden

    def follow(self, wanted: Pass) -> None:
        """See `flowgrpo.processes.Together`."""
        with self._passing():
            if wanted.kind == "backward":
                held, self._held = self._held, None
                if held is None:
                    raise RunError("the processes have lost step: a backward pass without its forward pass")
                held.backward()  # type: ignore[no-untyped-call]
                return
            with torch.set_grad_enabled(wanted.kind == "graph"):
                answer = 0 * self.idle(wanted)
            if wanted.kind == "graph":
                self._held = answer

    def settle(self) -> None:
        """See there. Weights may change from here on, so no whole copy of them stays."""
        if not self.settings.reshard:
            for unit in self._units:
                unit.reshard()

    @contextmanager
    def _passing(self) -> Iterator[None]:
        """Whatever leaves this block by an error leaves `inside` set."""
        self.inside = True
        yield
        self.inside = False


def shared(processes: Processes, device: torch.device) -> tuple[Processes, Sharded | None]:
    """These processes with the sharding that their launcher asks for.

    Raises:
        RecipeError: it asks for something that is not done here.
    """
    settings = launched_settings()
    if settings is None or processes.world == 1:
        return processes, None
    sharded = Sharded(settings, processes, device)
    return sharded.processes, sharded


def passing(
    sharded: Sharded | None, networks: Sequence[str], *, reference: bool
) -> AbstractContextManager[Sequence[str]]:
    """`Sharded.forward`, or nothing where networks are whole."""
    return nullcontext(networks) if sharded is None else sharded.forward(networks, reference=reference)


def blocks_of(network: Module, named: Sequence[str] = ()) -> list[Module]:
    """Modules that are gathered one at a time, inner ones first; none that shares a weight with the rest.

    Args:
        network: to be sharded.
        named: their classes; empty takes the classes that the network says must not be split.

    Raises:
        RecipeError: there is no module of such a class.
    """
    classes = set(named or getattr(network, "_no_split_modules", None) or ())
    uses = Counter(map(id, _every_use(network)))
    found = [
        module
        for module in reversed(list(network.modules()))
        if type(module).__name__ in classes and module is not network and _owns(module, uses)
    ]
    if not found:
        what = f"no {', '.join(sorted(classes))}" if classes else "no class that must not be split"
        raise RecipeError(
            f"{type(network).__name__} has {what}; name the class of its blocks as "
            "fsdp_transformer_layer_cls_to_wrap in the launch configuration"
        )
    return found


def _every_use(module: Module) -> list[Tensor]:
    return [held for _, held in module.named_parameters(remove_duplicate=False)]


def _owns(module: Module, uses: Counter[int]) -> bool:
    own = Counter(map(id, _every_use(module)))
    return bool(own) and all(uses[held] == count for held, count in own.items())


def whole(tensor: Tensor) -> Tensor:
    """A tensor itself, or all of one that is sharded; then every process must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(state: Mapping[str, Tensor], processes: Processes = ALONE) -> dict[str, Tensor]:
    """The whole state on process 0; the other processes get nothing.

    What is sharded is gathered one tensor after the other and copied to the CPU; then every process must call it.
    """
    found = {}
    for name, tensor in state.items():
        held = whole(tensor.detach())
        if processes.first:
            found[name] = held if held is tensor else held.cpu()
    return found


def spread(state: Mapping[str, Tensor], processes: Processes) -> dict[str, Tensor]:
    """What process 0 holds under each name, on every process; of sharded networks its share of each tensor.

    Every process must call it; only that of process 0 is read.
    """
    sharded = processes.networks
    if not isinstance(sharded, Sharded):
        return processes.of_first(lambda: dict(state))
    facts: dict[str, Any] = processes.of_first(
        lambda: {name: (held.shape, held.dtype) if _divisible(held) else held for name, held in state.items()}
    )
    return {
        name: fact if isinstance(fact, Tensor) else _shares(sharded, state.get(name), fact)
        for name, fact in facts.items()
    }


def _divisible(held: Tensor) -> bool:
    """Weights, and not a number of steps or the state of a random generator."""
    return held.ndim > 0 and held.is_floating_point()


def _shares(sharded: Sharded, held: Tensor | None, fact: Facts) -> Tensor:
    shape, dtype = fact
    there = torch.empty(shape, dtype=dtype, device=sharded.device) if held is None else held.to(sharded.device)
    return distribute_tensor(there, sharded._mesh, [Shard(0)])


def _linear(module: Linear, weights: Mapping[str, Tensor]) -> Linear:
    """A plain layer of gathered weights, for `flowgrpo.log_probs` to know it as one."""
    shell: Any = Linear(1, 1, device="meta")
    for leaf in ("weight", "bias"):
        held = weights.get(leaf)
        if is_parametrized(module, leaf):
            parametrizations: Any = module.parametrizations
            held = parametrizations[leaf][0](weights[f"parametrizations.{leaf}.original"])
        delattr(shell, leaf)
        setattr(shell, leaf, held)
    return cast(Linear, shell)


def _nobody(wanted: Pass) -> Tensor:
    raise RunError(f"no network can make a {wanted.kind} pass")
