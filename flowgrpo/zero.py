"""ZeRO-1 and ZeRO-2 by DeepSpeed: each process keeps and updates its share of the optimizer's state.

Gradients accumulate whole on each process, as they do without it. At the end of an optimizer step DeepSpeed sums them,
each process receives the sum of its share, updates its share of the weights, and all gather the new weights. Nothing
waits inside a backward pass, so numbers of micro-batches may differ between the processes.

DeepSpeed flattens all parameters into one tensor and gives each process a consecutive part of it. The update of such
a part is torch's AdamW of its pieces, one for each parameter in it: a parameter without a gradient anywhere is left
alone, and counts its own steps, as without DeepSpeed.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Module, Parameter

from flowgrpo.errors import CheckpointError, RecipeError, RunError
from flowgrpo.processes import BUCKET, Processes
from flowgrpo.zero_settings import ZeroSettings


@dataclass(frozen=True, slots=True)
class Piece:
    """The part of a parameter that is in this process's share.

    Attributes:
        whole: the parameter.
        start: first element of the part, of the flattened parameter.
        at: first element of the part, of this process's share.
        master: the part's float32 weights, which are updated.
    """

    whole: Parameter
    start: int
    at: int
    master: Parameter

    def of(self, tensor: Tensor) -> Tensor:
        """This part of a tensor of the parameter's shape."""
        return tensor.detach().flatten().narrow(0, self.start, self.master.numel())

    def of_share(self, share: Tensor) -> Tensor:
        """This part of a tensor of the share's length."""
        return share.narrow(0, self.at, self.master.numel())


class Zero(torch.optim.Optimizer):
    """AdamW of named parameters whose state is shared out over the processes; every process makes every call.

    Args:
        named: what is trained, float32, in the same order on every process.
        settings: see there.
        processes: over whom.
        max_grad_norm: what the norm of the whole gradient is clipped to.
        adamw: options of torch's AdamW.

    Raises:
        RecipeError: DeepSpeed is not installed.
    """

    def __init__(
        self,
        named: Mapping[str, Parameter],
        settings: ZeroSettings,
        processes: Processes,
        *,
        max_grad_norm: float,
        **adamw: Any,
    ) -> None:
        super().__init__(list(named.values()), {"lr": adamw["lr"]})
        self._named, self._processes = dict(named), processes
        self._present: set[str] = set()
        shell = _Shell(self._named.values(), self._update)
        self._engine = _engine(self._named, shell, settings, max_grad_norm)
        self._zero = self._engine.optimizer
        self.pieces = {name: piece for name, held in named.items() if (piece := _piece(held)) is not None}
        self._adamw = torch.optim.AdamW([piece.master for piece in self.pieces.values()] or [_nothing()], **adamw)
        self.state = self._adamw.state
        self._gate = ExitStack()
        self._hold()

    def sum_and_norm(self) -> float:
        """Sum the gradients over the processes, each its share.

        Returns:
            Norm of the whole gradient; not finite where an element of it is not.
        """
        there = self._processes.exchange([held.grad is not None for held in self._named.values()])
        self._present = {name for name, *has in zip(self._named, *there, strict=True) if any(has)}
        for name in self._present:
            held = self._named[name]
            if held.grad is None:
                held.grad = torch.zeros_like(held)
        self._gate.close()
        return float(self._zero.scaled_global_norm())

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Clip, update and gather the weights, after `sum_and_norm`."""
        self._engine.step()
        self._hold()

    def first_non_finite(self) -> str | None:
        """Name of the first parameter whose summed gradient is not finite; takes the place of `step`."""
        share = self._share_of_gradient()
        bad = [name for name, piece in self.pieces.items() if not piece.of_share(share).isfinite().all()]
        self._hold()
        everywhere = {name for there in self._processes.exchange(bad) for name in there}
        return next((name for name in self._named if name in everywhere), None)

    def gathered(self) -> dict[str, Tensor]:
        """The whole state as `flowgrpo.checkpoint.optimizer_tensors` names it, on process 0; the others get nothing.

        One tensor is gathered after the other and copied to the CPU.
        """
        own = {name: self.state[piece.master] for name, piece in self.pieces.items() if piece.master in self.state}
        said = self._processes.exchange({name: float(state["step"]) for name, state in own.items()})
        steps = {name: count for there in said for name, count in there.items()}
        found: dict[str, Tensor] = {}
        for name in (name for name in self._named if name in steps):
            moments = {field: self._whole(name, own.get(name, {}).get(field)) for field in ("exp_avg", "exp_avg_sq")}
            if self._processes.first:
                state = {"step": torch.tensor(steps[name]), **moments}
                found |= {f"{field}/{name}": held.cpu() for field, held in state.items()}
        return found

    @torch.no_grad()
    def take_over(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `gathered` gave, and the weights that the parameters hold now; every process needs all of it.

        Raises:
            CheckpointError: names or shapes differ.
        """
        self.state.clear()
        for key, held in tensors.items():
            field, name = key.split("/", 1)
            if name not in self._named or (field != "step" and held.shape != self._named[name].shape):
                raise CheckpointError(f"the optimizer state {key} does not fit the model")
            if name in self.pieces:
                piece = self.pieces[name]
                part = held.clone() if field == "step" else piece.of(held).to(piece.master.device, copy=True)
                self.state[piece.master][field] = part
        for piece in self.pieces.values():
            piece.master.copy_(piece.of(piece.whole))

    def _hold(self) -> None:
        """Backward passes leave their gradients where they are, until `sum_and_norm`."""
        self._gate.enter_context(self._engine.coalesce_grad_reduction())

    def _update(self) -> None:
        """What DeepSpeed calls once this process's share of the gradient is clipped."""
        share = self._zero.single_partition_of_fp32_groups[0].grad
        for name, piece in self.pieces.items():
            piece.master.grad = piece.of_share(share) if name in self._present else None
        for group in self._adamw.param_groups:
            group["lr"] = self.param_groups[0]["lr"]
        self._adamw.step()

    def _share_of_gradient(self) -> Tensor:
        if self._zero.cpu_offload:
            offloaded: Tensor = self._zero.single_partition_of_fp32_groups[0].grad
            return offloaded
        return torch.cat([part.flatten() for part in self._zero.averaged_gradients[0]])

    def _whole(self, name: str, part: Tensor | None) -> Tensor:
        """On process 0 the tensor of which each process has a part, or nothing."""
        held = self._named[name]
        device = self._zero.single_partition_of_fp32_groups[0].device
        found = torch.zeros(held.numel(), dtype=torch.float32, device=device)
        if part is not None:
            self.pieces[name].of(found).copy_(part)
        dist.reduce(found, dst=0)
        return found.view(held.shape)


class _Shell(torch.optim.Optimizer):
    """What DeepSpeed takes for the optimizer; it hands each step on."""

    def __init__(self, parameters: Iterable[Parameter], update: Callable[[], None]) -> None:
        super().__init__(list(parameters), {"lr": 0.0})
        self._hand_on = update

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self._hand_on()


def _engine(named: Mapping[str, Parameter], shell: _Shell, settings: ZeroSettings, max_grad_norm: float) -> Any:
    """DeepSpeed's engine of a module that holds the parameters; they become views of one tensor."""
    for name in (name for name, held in named.items() if not held.ndim):
        raise RecipeError(f"DeepSpeed does not take {name}, which has no dimension; scripts/launch/multi_gpu.yaml does")
    if importlib.util.find_spec("deepspeed") is None:
        raise RecipeError(
            "the launch configuration asks for DeepSpeed, which is not installed; pip install 'flowgrpo[deepspeed]'"
        )
    module = Module()
    for number, held in enumerate(named.values()):
        module.register_parameter(f"p{number}", held)
    device = next(iter(named.values())).device
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of setuptools, about the order of imports.
        import deepspeed
        import deepspeed.ops

        if device.type == "cpu":
            # Its own sums in shared memory are compiled when first used, and were seen to hang.
            deepspeed.ops.__compatible_ops__ = {}
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        total = sum(held.numel() for held in named.values())
        config = deepspeed_config(settings, total, max_grad_norm)
        engine, *_ = deepspeed.initialize(model=module, optimizer=shell, config=config)
    if getattr(engine, "gradient_average", True):
        raise RunError("this version of DeepSpeed averages gradients in place of summing them; install 0.19.8 or newer")
    return engine


def deepspeed_config(settings: ZeroSettings, total: int, max_grad_norm: float) -> dict[str, Any]:
    """What DeepSpeed is told.

    Args:
        settings: the launcher's.
        total: number of trained elements.
        max_grad_norm: the recipe's.
    """
    sizes = {"reduce_bucket_size": min(total, BUCKET), "allgather_bucket_size": 2 * BUCKET}
    offload = {"device": "cpu", "pin_memory": settings.pin_memory}
    zero = {"stage": settings.stage, "overlap_comm": False, **sizes, **settings.tuning}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": max_grad_norm,
        "gradient_allreduce_op": "sum",
        "zero_optimization": {**zero, **({"offload_optimizer": offload} if settings.offload else {})},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
    }


def _piece(held: Parameter) -> Piece | None:
    mapping: Any = getattr(held, "_hp_mapping", None)
    if mapping is None:
        return None
    start, at = mapping.lp_fragment_address.start, mapping.hp_fragment_address.start
    return Piece(held, start, at, Parameter(mapping.hp_fragment.detach()))


def _nothing() -> Parameter:
    """For a process whose share is padding: an optimizer needs a parameter."""
    return Parameter(torch.zeros(0))
