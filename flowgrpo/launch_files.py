"""Launch configurations of accelerate, read for `check`, which imports no torch; accelerate would.

A run is told by its launcher instead (`flowgrpo.sharding`, `flowgrpo.zero_settings`); what it refuses is refused here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from flowgrpo.errors import RecipeError, UsageError, did_you_mean, first_line
from flowgrpo.launches import Launch, Weights
from flowgrpo.zero_settings import from_config

WHOLE = ("NO", "MULTI_GPU", "MULTI_CPU")
"""Values of distributed_type that leave every process a whole copy; False is how YAML reads a bare NO."""
KINDS = (*WHOLE, "FSDP", "DEEPSPEED")
PRECISIONS = ("no", "fp16", "bf16", "fp8")
"""What accelerate knows; the recipe's model.dtype decides all the same."""
KEYS = frozenset(
    [
        "compute_environment",
        "distributed_type",
        "mixed_precision",
        "use_cpu",
        "debug",
        "num_processes",
        "machine_rank",
        "num_machines",
        "gpu_ids",
        "main_process_ip",
        "main_process_port",
        "rdzv_backend",
        "same_network",
        "main_training_function",
        "enable_cpu_affinity",
        "fp8_config",
        "deepspeed_config",
        "fsdp_config",
        "parallelism_config",
        "megatron_lm_config",
        "mpirun_config",
        "downcast_bf16",
        "tpu_name",
        "tpu_zone",
        "tpu_use_cluster",
        "tpu_use_sudo",
        "command_file",
        "commands",
        "tpu_vm",
        "tpu_env",
        "dynamo_config",
        "dynamo_backend",
        "fp16",
    ]
)
"""What accelerate takes; it does not start with any other."""
WRAPS = ("TRANSFORMER_BASED_WRAP", "NO_WRAP")
SWITCHES = {
    "fsdp_offload_params": "take more processes, or a lower train.micro_batch_size",
    "fsdp_activation_checkpointing": "the recipe's model.gradient_checkpointing does that",
}
"""What must not be on -> what to do instead."""
TRUE, FALSE = ("true", "1", "yes", "y", "t", "on"), ("false", "0", "no", "n", "f", "off")
ONE_FILE = (
    "gradient_accumulation_steps",
    "gradient_clipping",
    "zero_stage",
    "offload_optimizer_device",
    "offload_param_device",
    "offload_optimizer_nvme_path",
    "offload_param_nvme_path",
    "zero3_save_16bit_model",
    "mixed_precision",
)
"""Keys of deepspeed_config that accelerate refuses beside deepspeed_config_file."""


def read_launch(file: str | None, processes: int | None, *, max_grad_norm: float) -> Launch:
    """What a configuration file says, the number of processes replaced by `processes` where that is given.

    Args:
        file: YAML or JSON as `accelerate launch --config_file` takes it; None is no file.
        processes: how many.
        max_grad_norm: the recipe's, which a configuration may repeat.

    Raises:
        UsageError: the file is missing, is no such configuration, or asks for something that a run refuses.
    """
    if file is None:
        return Launch(processes or 1)
    try:
        said = _read(Path(file))
        return Launch(processes or _count(said), _weights(said, max_grad_norm))
    except (RecipeError, UsageError) as error:
        raise UsageError(f"--launch: {file}: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise UsageError(f"{line}not valid YAML: {error.problem or error.context}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"cannot be read: {first_line(error)}") from error
    if not isinstance(said, dict) or "distributed_type" not in said:
        raise UsageError("has no distributed_type: it is no configuration of accelerate's launcher")
    for key in said:
        if key not in KEYS:
            raise UsageError(f"{key!r} is no key that accelerate takes{did_you_mean(str(key), KEYS)}")
    precision = said.get("mixed_precision")
    if precision is not None and str(precision).lower() not in PRECISIONS:
        right = ", ".join(f'"{name}"' for name in PRECISIONS)
        raise UsageError(f"mixed_precision is {precision!r}; accelerate takes {right}")
    return said


def _count(said: Mapping[str, Any]) -> int:
    alone = _kind(said) == "NO"
    count = said.get("num_processes", 1 if alone else None)
    if count is None:
        raise UsageError("num_processes is missing; write it there, or give --processes N")
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise UsageError(f"num_processes is {count!r}; a whole number from 1 would be right")
    return 1 if alone else count


def _kind(said: Mapping[str, Any]) -> str:
    kind = str(said["distributed_type"] or "NO")
    if kind not in KINDS:
        near = did_you_mean(kind.upper(), KINDS)
        raise UsageError(f"distributed_type {kind} is not supported; known are {', '.join(KINDS)}{near}")
    return kind


def _weights(said: Mapping[str, Any], max_grad_norm: float) -> Weights:
    kind = _kind(said)
    if said.get("parallelism_config"):
        raise UsageError("parallelism_config: tensor, context and hybrid parallelism are not supported")
    if kind == "DEEPSPEED":
        zero = from_config(_deepspeed(_section(said, "deepspeed_config")), max_grad_norm)
        return "zero_offloaded" if zero.offload else "zero"
    return _fsdp(_section(said, "fsdp_config")) if kind == "FSDP" else "whole"


def _section(said: Mapping[str, Any], name: str) -> dict[str, Any]:
    held = said.get(name)
    if held is not None and not isinstance(held, dict):
        raise UsageError(f"{name} must be a mapping of keys")
    return {key: value for key, value in (held or {}).items() if value is not None}


def _fsdp(section: Mapping[str, Any]) -> Weights:
    told = {key if str(key).startswith("fsdp") else f"fsdp_{key}": value for key, value in section.items()}
    if str(told.get("fsdp_version", 1)) != "2":
        raise UsageError("fsdp_config.fsdp_version must be 2")
    for key, advice in SWITCHES.items():
        if _switch(key, told.get(key, False)):
            raise UsageError(f"{key} is not supported; {advice}")
    wrap = str(told.get("fsdp_auto_wrap_policy", WRAPS[0])).upper()
    if wrap not in WRAPS:
        raise UsageError(f"fsdp_auto_wrap_policy: {wrap} is not supported; {' and '.join(WRAPS)} are")
    key = "fsdp_reshard_after_forward"
    return "shared" if _switch(key, told.get(key, True)) else "gathered"


def _switch(key: str, value: Any) -> bool:
    word = str(value).lower()
    if word not in (*TRUE, *FALSE):
        raise UsageError(f"{key} is {value!r}; true or false would be right")
    return word in TRUE


def _deepspeed(section: Mapping[str, Any]) -> dict[str, Any]:
    """DeepSpeed's own configuration, as accelerate makes it."""
    file = section.get("deepspeed_config_file", "none")
    if file != "none":
        return _deepspeed_file(Path(str(file)), section)
    clipping = section.get("gradient_clipping", "auto")
    return {
        "gradient_accumulation_steps": _number(section.get("gradient_accumulation_steps", "auto"), int),
        "gradient_clipping": _number(clipping, float),
        "zero_optimization": {
            "stage": _number(section.get("zero_stage", 2), int),
            "offload_optimizer": {"device": section.get("offload_optimizer_device", "none")},
            "offload_param": {"device": section.get("offload_param_device", "none")},
        },
    }


def _deepspeed_file(path: Path, section: Mapping[str, Any]) -> dict[str, Any]:
    twice = [key for key in ONE_FILE if key in section]
    if twice:
        raise UsageError(f"deepspeed_config.{twice[0]} does not go with deepspeed_config_file; write it in {path}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"deepspeed_config_file {path} cannot be read: {first_line(error)}") from error
    zero = config.get("zero_optimization") if isinstance(config, dict) else None
    if not isinstance(zero, dict):
        raise UsageError(f"deepspeed_config_file {path} has no section zero_optimization")
    stage = zero.get("stage", "auto")
    return {**config, "zero_optimization": {**zero, "stage": 2 if stage == "auto" else stage}}


def _number(value: Any, kind: type[int] | type[float]) -> Any:
    """A number that YAML or its quotes made a word of; words of DeepSpeed's stay."""
    try:
        return value if isinstance(value, bool) else kind(value)
    except (TypeError, ValueError):
        return value
