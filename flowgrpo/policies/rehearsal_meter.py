"""The machine on which a model is rehearsed: tensors without memory, and a meter of FLOPs and bytes.

Token ids, masks and noise levels are real tensors and keep their values; weights, latents and what comes of them have
a shape and a dtype alone.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.nn import Module, Parameter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from flowgrpo.policies import conditionings
from flowgrpo.quiet import quiet_libraries

Given = dict[str, Any] | None


class Meter(TorchDispatchMode):
    """Counts FLOPs, the bytes of tensors that are made and not yet gone, and the most bytes that there were at once.

    torch's own FLOP counter follows modules with hooks that hold their inputs, so bytes beside it would be too many.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self.now = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Given = None) -> Any:
        """Runs `func` and counts what it did and returned."""
        result = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        self.flops += 0 if count is None else count(*args, **(kwargs or {}), out_val=result)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._enter(leaf.untyped_storage())
        return result

    def know(self, tensors: Iterator[Tensor]) -> None:
        """Leaves tensors that were there before out of the count, when a view of them comes by."""
        self._known.update(tensor.untyped_storage()._cdata for tensor in tensors)

    def _enter(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._leave, key, size)

    def _leave(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


@dataclass(frozen=True, slots=True)
class Cost:
    """FLOPs of a pass, and the most bytes that it held beside weights and adapter."""

    flops: int
    bytes: int


def measured(parts: Iterable[Module], run: Callable[[], Any]) -> Cost:
    """What `run` costs beside the weights of `parts`, and gradients that are there already."""
    meter = Meter()
    for part in parts:
        meter.know(iter([*part.parameters(), *part.buffers()]))
        meter.know(held.grad for held in part.parameters() if held.grad is not None)
    with meter:
        run()
    return Cost(meter.flops, meter.peak)


class KnownValues(TorchDispatchMode):
    """Over `FakeTensorMode`: real tensors, and whole numbers made of nothing (a mask of ones), are computed.

    What is computed of these alone stays real. A fake tensor can then be indexed by a real mask, and a network chosen
    by a real noise level.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Given = None) -> Any:
        """Runs `func` for real where its values are known."""
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(isinstance(leaf, FakeTensor) for leaf in tensors):
            if func is torch.ops.aten.index.Tensor:
                args = (args[0], _positions(args[1]))
            return func(*args, **kwargs)
        fake = None if tensors else func(*args, **kwargs)
        if isinstance(fake, Tensor) and fake.is_floating_point():
            return fake
        with unset_fake_temporarily():
            return func(*args, **kwargs)


def _positions(indices: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Real masks as the positions that they choose: how many these are, a fake one could not say."""
    found: list[Tensor | None] = []
    for index in indices:
        if index is None or isinstance(index, FakeTensor) or index.dtype != torch.bool:
            found.append(index)
            continue
        with unset_fake_temporarily():
            found += index.nonzero().unbind(1)
    return found


@contextmanager
def fake_tensors() -> Iterator[None]:
    """Inside, tensors that are made have no memory and no values; those of token ids, say, keep theirs."""
    with (
        patch.object(conditionings, "_packed", partial(_packed, conditionings._packed)),
        patch.object(Module, "_apply", _exchange),
        FakeTensorMode(allow_non_fake_inputs=True),
        KnownValues(),
        quiet_libraries(),
    ):
        yield


def _packed(pack: Callable[[Tensor], conditionings.Packed], tensor: Tensor) -> conditionings.Packed:
    """A row of text that waits in memory; where the zeros behind a fake one begin, nobody knows."""
    return conditionings.Packed(tensor, tensor.shape[1]) if isinstance(tensor, FakeTensor) else pack(tensor)


def _exchange(
    module: Module,
    function: Callable[[Tensor], Tensor],
    recurse: bool = True,
    made: dict[Parameter, Parameter] | None = None,
) -> Module:
    """`Module._apply` by new parameters: torch swaps the contents of old ones, which fake tensors do not allow.

    `made` are the new ones so far, by the old: what two layers share, they share afterwards too.
    """
    made = {} if made is None else made
    for child in module.children() if recurse else ():
        _exchange(child, function, made=made)
    for name, held in module._parameters.items():
        if held is not None:
            if held not in made:
                made[held] = Parameter(function(held.detach()), requires_grad=held.requires_grad)
            module._parameters[name] = made[held]
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = function(buffer)
    return module
