"""Through which parameters a network is trained: a LoRA adapter or all of it.

Both give the same four things, so nothing else needs to know which one a recipe chose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Linear, Module, Parameter

from flowgrpo import saving
from flowgrpo.errors import RecipeError, did_you_mean
from flowgrpo.policies.families import Family
from flowgrpo.policies.loading import load_reference
from flowgrpo.policies.precision import DTYPES, make_masters
from flowgrpo.recipe import Model

State = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Trained:
    """The trained part of a network."""

    parameters: dict[str, Parameter]
    """float32 masters by name."""
    reference: Callable[[], Any]
    """Context manager that yields the network to use for the untrained model."""
    save: Callable[[Path, State], None]
    load: Callable[[Path], dict[str, Tensor]]
    """Folder -> state with the names and shapes of `parameters`."""


def attach_lora(pipe: Any, family: Family, model: Model, *, device: torch.device, seed: int) -> Trained:
    """A low-rank adapter on the recipe's or the family's targets, Gaussian A, zero B (the identity at the start).

    Source: LoRA (arXiv 2106.09685); ranks and targets as Flow-GRPO (arXiv 2505.05470) publishes them.
    """
    from peft import LoraConfig

    network = pipe.transformer
    config = LoraConfig(
        r=model.lora_rank,
        lora_alpha=model.lora_alpha,
        init_lora_weights="gaussian",
        target_modules=list(check_targets(network, model.lora_targets or family.lora_targets)),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network.add_adapter(config)
    network.eval()
    masters = make_masters(network, DTYPES[model.dtype])
    return Trained(
        parameters=masters,
        reference=partial(_adapter_off, network),
        save=partial(saving.save_lora, type(pipe), config),
        load=partial(saving.read_lora, config),
    )


def unfreeze(pipe: Any, family: Family, model: Model, *, device: torch.device, seed: int) -> Trained:
    """Every parameter of the transformer; the reference is a frozen copy, made when it is first asked for."""
    network = pipe.transformer.requires_grad_(True)
    masters = make_masters(network, DTYPES[model.dtype])
    copy = cache(lambda: load_reference(pipe, model).to(device))
    return Trained(
        parameters=masters,
        reference=partial(_frozen_copy, copy),
        save=partial(saving.save_network, network),
        load=partial(saving.read_network, network),
    )


ADAPTERS: dict[str, Callable[..., Trained]] = {"lora": attach_lora, "full": unfreeze}


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
def _adapter_off(network: Any) -> Iterator[Module]:
    network.disable_adapters()
    try:
        yield network
    finally:
        network.enable_adapters()


@contextmanager
def _frozen_copy(copy: Callable[[], Module]) -> Iterator[Module]:
    yield copy()
