"""What a launcher's DeepSpeed configuration says, and which of it holds here.

The recipe decides on batches, precision, clipping, learning rate and optimizer. Of DeepSpeed the stage of ZeRO, the
place of the optimizer's state and the sizes of its buffers are taken; anything that says otherwise is refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from flowgrpo.errors import RecipeError

SWITCH = "ACCELERATE_USE_DEEPSPEED"
"""Variable by which accelerate's launcher asks for DeepSpeed."""


@dataclass(frozen=True, slots=True)
class ZeroSettings:
    """How the optimizer's state is shared out.

    Attributes:
        stage: of ZeRO, 1 or 2.
        offload: that state, and the update, are on the CPU.
        pin_memory: of the buffers there.
        tuning: keys of DeepSpeed's section `zero_optimization` that change no result.
    """

    stage: int
    offload: bool = False
    pin_memory: bool = False
    tuning: Mapping[str, Any] = field(default_factory=dict)


TUNING = ("reduce_bucket_size", "allgather_bucket_size", "reduce_scatter", "contiguous_gradients")
"""Keys of `zero_optimization` that are handed on."""
IDLE = ("stage", "offload_optimizer", "offload_param", "overlap_comm", "allgather_partitions")
"""Keys of it that are read elsewhere, or do nothing where gradients are summed once, after the backward passes."""
STAGES = {
    0: "scripts/launch/multi_gpu.yaml trains with whole copies",
    3: "scripts/launch/fsdp2.yaml shards weights, gradients and optimizer state by FSDP2",
}
"""Stage that is not done here -> what to do instead."""


def launched_zero(max_grad_norm: float) -> ZeroSettings | None:
    """What accelerate's launcher asks for by its environment; None where it does not ask for DeepSpeed.

    Args:
        max_grad_norm: the recipe's.

    Raises:
        RecipeError: the configuration cannot be read, or asks for something that is not done here.
    """
    if os.environ.get(SWITCH, "false").lower() not in ("true", "1", "yes"):
        return None
    from accelerate import DeepSpeedPlugin

    try:
        config: dict[str, Any] = DeepSpeedPlugin().deepspeed_config
    except (ValueError, OSError) as error:
        raise RecipeError(f"the DeepSpeed configuration of the launcher cannot be read: {error}") from error
    try:
        return from_config(config, max_grad_norm)
    except RecipeError as error:
        raise RecipeError(f"{error} (DeepSpeed configuration of the launcher)") from error


def from_config(config: Mapping[str, Any], max_grad_norm: float) -> ZeroSettings:
    """What a configuration in DeepSpeed's own words says.

    Raises:
        RecipeError: it asks for something that is not done here.
    """
    for complaint in _complaints(config, max_grad_norm):
        raise RecipeError(complaint)
    zero = config["zero_optimization"]
    offload = zero.get("offload_optimizer") or {}
    return ZeroSettings(
        stage=zero["stage"],
        offload=offload.get("device") == "cpu",
        pin_memory=bool(offload.get("pin_memory", False)),
        tuning={key: zero[key] for key in TUNING if zero.get(key, "auto") != "auto"},
    )


def _complaints(config: Mapping[str, Any], max_grad_norm: float) -> Iterator[str]:
    """What is wrong, the gravest first."""
    zero = config["zero_optimization"]
    stage = zero.get("stage")
    if isinstance(stage, bool) or stage not in (1, 2):
        yield f"zero_stage: {stage} is not supported, 1 and 2 are; {STAGES.get(stage, 'see docs/scaling.md')}"
    yield from _offloads(zero)
    for key, value in zero.items():
        if key not in (*TUNING, *IDLE) and not key.startswith("stage3_") and _says_something(value):
            yield f"zero_optimization.{key} is not supported; leave it out"
    clipping = config.get("gradient_clipping", "auto")
    if clipping not in ("auto", max_grad_norm):
        yield f"gradient_clipping: {clipping} is not the recipe's train.max_grad_norm = {max_grad_norm}; leave it out"
    for key, value in config.items():
        if key not in ("zero_optimization", "gradient_clipping", *HARMLESS):
            fits, advice = DECIDED.get(key, (_says_nothing, "leave it out"))
            if not fits(value):
                yield f"{key} is not supported; {advice}"


def _offloads(zero: Mapping[str, Any]) -> Iterator[str]:
    parameters = (zero.get("offload_param") or {}).get("device", "none")
    if parameters not in ("none", "auto"):
        yield f"offload_param_device: {parameters} is not supported; scripts/launch/fsdp2.yaml shards the weights"
    state = (zero.get("offload_optimizer") or {}).get("device", "none")
    if state not in ("none", "auto", "cpu"):
        yield f"offload_optimizer_device: {state} is not supported; none and cpu are"


def _says_something(value: Any) -> bool:
    """Whether a value asks for anything: a section does so unless it is switched off."""
    if isinstance(value, Mapping):
        return bool(value) and _says_something(value.get("enabled", True))
    return value not in (None, False, 0, "auto", "none")


def _says_nothing(value: Any) -> bool:
    return not _says_something(value)


HARMLESS = ("steps_per_print", "wall_clock_breakdown", "zero_allow_untested_optimizer")
"""Keys of the configuration that change no result."""
PRECISION = "the recipe's model.dtype decides on precision"
DECIDED: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("fp16", "bf16", "bfloat16", "amp", "torch_autocast"), (_says_nothing, PRECISION)),
    "optimizer": (_says_nothing, "the recipe's train.lr, betas, weight_decay and adam_eps decide"),
    "scheduler": (_says_nothing, "the recipe's train.lr, warmup_updates and lr_decay_updates decide"),
    "train_batch_size": (_says_nothing, "the recipe's train.prompts_per_iteration and group_size decide"),
    "train_micro_batch_size_per_gpu": (_says_nothing, "the recipe's train.micro_batch_size decides"),
    "gradient_accumulation_steps": (lambda value: value in ("auto", 1), "the recipe's train.micro_batch_size decides"),
    "zero_force_ds_cpu_optimizer": (_says_nothing, "the update is torch's AdamW, on the CPU too"),
    "gradient_allreduce_op": (lambda value: value == "sum", "gradients are summed"),
}
"""Key of the configuration -> (which values fit, what decides in its place)."""
