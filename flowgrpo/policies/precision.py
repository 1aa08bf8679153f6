"""The one place that decides dtypes.

Frozen weights and every forward pass have the recipe's `model.dtype`; trained parameters are float32 masters that the
forward pass sees through a cast (gradients arrive in float32); the decoder is float32, since it is small beside the
network and its rounding would reach the rewards. Buffers keep the precision of the file.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import Module, Parameter
from torch.nn.utils import parametrize

Place = Callable[[Module], Module]
"""Brings a network to where it works, in place: to one device, or in shares to those of all processes."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class _Cast(Module):
    """A parameter as the forward pass sees it."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, master: Tensor) -> Tensor:
        return master.to(self.dtype)


def component_dtypes(dtype: torch.dtype, *, full: bool) -> dict[str, torch.dtype]:
    """Component -> dtype to load it in; `full` says that the whole transformer is trained."""
    return {"default": dtype, "transformer": torch.float32 if full else dtype, "vae": torch.float32}


def make_masters(network: Module, dtype: torch.dtype, place: Place = lambda network: network) -> dict[str, Parameter]:
    """Turns every parameter of `network` that requires a gradient into a float32 master, cast to `dtype` in use.

    Args:
        network: changed in place.
        dtype: of the forward pass.
        place: is then given the network.

    Returns:
        The masters where they work, by their name in the plain network, in the network's order.
    """
    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    for name in trained:
        owner, leaf = _owner(network, name)
        parameter = getattr(owner, leaf)
        parameter.data = parameter.data.float()
        if dtype != torch.float32:
            parametrize.register_parametrization(owner, leaf, _Cast(dtype), unsafe=True)
    placed = {plain_name(name): parameter for name, parameter in place(network).named_parameters()}
    return {name: placed[name] for name in trained}


def freeze(network: Module, dtype: torch.dtype) -> Module:
    """Parameters in `dtype`, no gradients, dropout off; buffers stay as they are."""
    for parameter in network.parameters():
        parameter.data = parameter.data.to(dtype)
    return network.requires_grad_(False).eval()


def plain_name(name: str) -> str:
    """The name of a master in the plain network, from its name in the network that casts it."""
    return name.replace("parametrizations.", "").removesuffix(".original")


def _owner(network: Module, name: str) -> tuple[Module, str]:
    path, _, leaf = name.rpartition(".")
    return network.get_submodule(path), leaf
