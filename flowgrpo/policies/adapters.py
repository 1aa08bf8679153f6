"""Through which parameters a network is trained: a LoRA adapter or all of it.

Both give the same four things, so nothing else needs to know which one a recipe chose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Linear, Module, Parameter

from flowgrpo import saving
from flowgrpo.errors import RecipeError, did_you_mean
from flowgrpo.policies.experts import HIGH, networks_of
from flowgrpo.policies.facts import FACTS
from flowgrpo.policies.loading import load_reference
from flowgrpo.policies.precision import DTYPES, Place, make_masters
from flowgrpo.recipe import Model

State = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Trained:
    """The trained part of a pipeline."""

    parameters: dict[str, Parameter]
    """float32 masters by name."""
    reference: Callable[[], AbstractContextManager[Mapping[str, Module]]]
    """Context manager that yields the networks to use for the untrained model, by component."""
    save: Callable[[Path, State], None]
    load: Callable[[Path], dict[str, Tensor]]
    """Folder -> state with the names and shapes of `parameters`."""


@dataclass(frozen=True, slots=True)
class TrainedPart:
    """The trained part of one network."""

    parameters: dict[str, Parameter]
    reference: Callable[[], AbstractContextManager[Module]]
    save: Callable[[Path, State], None]
    load: Callable[[Path], dict[str, Tensor]]


def attach(pipe: Any, model: Model, *, place: Place, seed: int) -> Trained:
    """Makes what the recipe trains trainable, in every network of the pipeline, and brings these where they work.

    The names and files of the first network are plain; those of a second one start with, and lie in, its component.

    Raises:
        RecipeError: an adapter target is in no network.
    """
    make = ADAPTERS[model.adapter]
    seeds = {name: seed + number for number, name in enumerate(networks_of(pipe))}
    parts = {name: make(pipe, name, model, place=place, seed=own) for name, own in seeds.items()}
    return Trained(
        parameters={_key(name, key): held for name, part in parts.items() for key, held in part.parameters.items()},
        reference=partial(_references, parts),
        save=partial(_save_parts, parts),
        load=partial(_load_parts, parts),
    )


def attach_lora(pipe: Any, component: str, model: Model, *, place: Place, seed: int) -> TrainedPart:
    """A low-rank adapter on the recipe's or the family's targets, Gaussian A, zero B (the identity at the start).

    Source: LoRA (arXiv 2106.09685); ranks and targets as Flow-GRPO (arXiv 2505.05470) publishes them.
    """
    from peft import LoraConfig

    network = getattr(pipe, component)
    config = LoraConfig(
        r=model.lora_rank,
        lora_alpha=model.lora_alpha,
        init_lora_weights="gaussian",
        target_modules=list(check_targets(network, model.lora_targets or FACTS[type(pipe).__name__].lora_targets)),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network.add_adapter(config)
    network.eval()
    masters = make_masters(network, DTYPES[model.dtype], place)
    return TrainedPart(
        parameters=masters,
        reference=partial(adapter_off, network),
        save=partial(saving.save_lora, type(pipe), config),
        load=partial(saving.read_lora, config),
    )


def unfreeze(pipe: Any, component: str, model: Model, *, place: Place, seed: int) -> TrainedPart:
    """Every parameter of the transformer; the reference is a frozen copy, made when it is first asked for."""
    network = getattr(pipe, component).requires_grad_(True)
    masters = make_masters(network, DTYPES[model.dtype], place)
    copy = cache(lambda: place(load_reference(network, component, model)))
    return TrainedPart(
        parameters=masters,
        reference=partial(frozen_copy, copy),
        save=partial(saving.save_network, network),
        load=partial(saving.read_network, network),
    )


ADAPTERS: dict[str, Callable[..., TrainedPart]] = {"lora": attach_lora, "full": unfreeze}


def _key(component: str, name: str) -> str:
    return name if component == HIGH else f"{component}.{name}"


def _folder(folder: Path, component: str) -> Path:
    return folder if component == HIGH else folder / component


@contextmanager
def _references(parts: Mapping[str, TrainedPart]) -> Iterator[Mapping[str, Module]]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(part.reference()) for name, part in parts.items()}


def _save_parts(parts: Mapping[str, TrainedPart], folder: Path, state: State) -> None:
    for name, part in parts.items():
        part.save(_folder(folder, name), {key: state[_key(name, key)] for key in part.parameters})


def _load_parts(parts: Mapping[str, TrainedPart], folder: Path) -> dict[str, Tensor]:
    loaded = {name: part.load(_folder(folder, name)) for name, part in parts.items()}
    return {_key(name, key): tensor for name, state in loaded.items() for key, tensor in state.items()}


def check_targets(network: Module, targets: tuple[str, ...]) -> tuple[str, ...]:
    """The targets themselves, once each of them is known to end the name of a linear layer.

    Raises:
        RecipeError: a target matches nothing.
    """
    names = [name for name, module in network.named_modules() if isinstance(module, Linear)]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            depth = target.count(".") + 1
            endings = sorted({".".join(name.split(".")[-depth:]) for name in names})
            hint = did_you_mean(target, endings) or f"; layers end in {', '.join(endings)}"
            raise RecipeError(f"model.lora_targets: no linear layer of the network ends in {target!r}{hint}")
    return targets


@contextmanager
def adapter_off(network: Any) -> Iterator[Module]:
    network.disable_adapters()
    try:
        yield network
    finally:
        network.enable_adapters()


@contextmanager
def frozen_copy(copy: Callable[[], Module]) -> Iterator[Module]:
    yield copy()
