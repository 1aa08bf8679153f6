"""Files of accelerate as `check` reads them, held against what a run is told by accelerate's launcher."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import ClusterConfig

from flowgrpo.errors import UsageError
from flowgrpo.launch_files import KEYS, read_launch
from flowgrpo.launches import Launch
from flowgrpo.sharding import launched_settings
from flowgrpo.zero_settings import launched_zero
from tests.launched import launcher_environment

LAUNCH = Path(__file__).resolve().parents[2] / "scripts" / "launch"
FSDP = "distributed_type: FSDP\nnum_processes: 2\nfsdp_config:\n  fsdp_version: 2\n"
ZERO = "distributed_type: DEEPSPEED\nnum_processes: 2\ndeepspeed_config:\n"
MULTI = "distributed_type: MULTI_GPU\nnum_processes: 2\n"
FILE = "  deepspeed_config_file: ds.json\n"
TAKEN = {
    MULTI: "whole",
    "distributed_type: 'NO'\n": "whole",
    MULTI + "mixed_precision: bf16\nuse_cpu: false\nrdzv_backend: static\n": "whole",
    FSDP: "shared",
    FSDP + "  fsdp_reshard_after_forward: false\n": "gathered",
    FSDP + "  reshard_after_forward: n\n": "gathered",
    FSDP + "  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP\n  fsdp_offload_params: false\n": "shared",
    ZERO + "  zero_stage: 2\n": "zero",
    ZERO + "  zero_stage: '1'\n  gradient_accumulation_steps: 1\n  gradient_clipping: 1.0\n": "zero",
    ZERO + "  zero_stage: 1\n  offload_optimizer_device: cpu\n": "zero_offloaded",
    "distributed_type: DEEPSPEED\nnum_processes: 2\ndeepspeed_config: {}\n": "zero",
    ZERO + FILE: "zero_offloaded",
    ZERO + FILE + "  zero3_init_flag: false\n": "zero_offloaded",
}
"""Text -> how weights are held."""
REFUSED = {
    "a: [": "line 1: not valid YAML: expected the node content",
    "- a\n": "has no distributed_type",
    "compute_environment: LOCAL_MACHINE": "has no distributed_type",
    "distributed_type: MEGATRON_LM\nnum_processes: 2\n": "MEGATRON_LM is not supported; known are NO, ",
    "distributed_type: fsdp\nnum_processes: 2\n": "fsdp is not supported; .*did you mean 'FSDP'",
    "distributed_type: MULTI_GPU\n": "num_processes is missing; .*--processes N",
    MULTI + "nonsense: 3\n": "'nonsense' is no key that accelerate takes",
    "distributed_type: MULTI_GPU\nnum_proceses: 8\n": "did you mean 'num_processes'",
    MULTI + "mixed_precision: bf17\n": "mixed_precision is 'bf17'; accelerate takes \"no\"",
    "distributed_type: FSDP\nnum_processes: 2\n": "fsdp_version must be 2",
    "distributed_type: FSDP\nnum_processes: 2\nfsdp_config: {fsdp_version: 1}\n": "fsdp_version must be 2",
    FSDP + "  fsdp_offload_params: true\n": "fsdp_offload_params is not supported; take more processes",
    FSDP + "  fsdp_activation_checkpointing: true\n": "the recipe's model.gradient_checkpointing does that",
    FSDP + "  fsdp_auto_wrap_policy: SIZE_BASED_WRAP\n  fsdp_min_num_params: 100\n": "SIZE_BASED_WRAP is not supported",
    FSDP + "  fsdp_reshard_after_forward: maybe\n": "fsdp_reshard_after_forward is 'maybe'; true or false",
    FSDP + "parallelism_config:\n  parallelism_config_tp_size: 2\n": "parallelism_config: tensor",
    ZERO + "  zero_stage: 3\n": "zero_stage: 3 is not supported, 1 and 2 are; .*fsdp2.yaml",
    ZERO + "  zero_stage: true\n": "zero_stage: True is not supported",
    ZERO + "  zero_stage: 2\n  offload_optimizer_device: nvme\n": "offload_optimizer_device: nvme is not supported",
    ZERO + "  zero_stage: 2\n  offload_param_device: cpu\n": "offload_param_device: cpu is not supported",
    ZERO + "  zero_stage: 2\n  gradient_accumulation_steps: 4\n": "the recipe's train.micro_batch_size decides",
    ZERO + "  zero_stage: 2\n  gradient_clipping: 0.5\n": "0.5 is not the recipe's train.max_grad_norm = 1.0",
    ZERO + FILE + "  zero_stage: 2\n": "zero_stage does not go with deepspeed_config_file",
    ZERO + "  deepspeed_config_file: other.json\n": "other.json cannot be read",
    ZERO + "  deepspeed_config_file: empty.json\n": "empty.json has no section zero_optimization",
    ZERO + "  deepspeed_config_file: fp16.json\n": "fp16 is not supported; the recipe's model.dtype",
}
"""Text -> what is said of it."""
CONFIGS = {
    "ds": {"zero_optimization": {"stage": "auto", "offload_optimizer": {"device": "cpu"}}, "train_batch_size": "auto"},
    "empty": {},
    "fp16": {"zero_optimization": {"stage": 2}, "fp16": {"enabled": True}},
}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, config in CONFIGS.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(config), encoding="utf-8")
    return tmp_path / "launch.yaml"


@contextlib.contextmanager
def launched(file: Path) -> Iterator[None]:
    """The variables that a process of a run is started with; raises what accelerate does."""
    told = launcher_environment(file)
    before = dict(os.environ)
    os.environ.update({key: value for key, value in told.items() if key.startswith(("ACCELERATE_", "FSDP_"))})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def held_by_a_run(file: Path) -> str:
    with launched(file):
        zero, sharding = launched_zero(1.0), launched_settings()
    if zero is not None:
        return "zero_offloaded" if zero.offload else "zero"
    if sharding is not None:
        return "shared" if sharding.reshard else "gathered"
    return "whole"


@pytest.mark.parametrize("text", TAKEN)
def test_what_a_run_takes_is_taken(text: str, file: Path) -> None:
    file.write_text(text, encoding="utf-8")
    assert read_launch(str(file), None, max_grad_norm=1.0).weights == TAKEN[text] == held_by_a_run(file)


@pytest.mark.parametrize("text", REFUSED)
def test_what_a_run_refuses_is_refused(text: str, file: Path) -> None:
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=REFUSED[text]) as said:
        read_launch(str(file), None, max_grad_norm=1.0)
    assert str(said.value).startswith(f"--launch: {file}: ") and "\n" not in str(said.value)
    if "MEGATRON" in text:
        return  # accelerate wants its package first
    with contextlib.suppress(Exception):  # accelerate's may be any
        held_by_a_run(file)
        pytest.fail("a run would start")


def test_the_keys_are_those_of_accelerate() -> None:
    assert {field.name for field in fields(ClusterConfig)} | {"dynamo_backend", "fp16"} == KEYS


@pytest.mark.parametrize(
    ("name", "launch"),
    [
        ("single", Launch(1, "whole")),
        ("multi_gpu", Launch(8, "whole")),
        ("multi_node", Launch(16, "whole")),
        ("fsdp2", Launch(8, "shared")),
        ("zero2", Launch(8, "gathered")),
        ("deepspeed_zero2", Launch(8, "zero")),
    ],
)
def test_shipped_configurations(name: str, launch: Launch) -> None:
    path = str(LAUNCH / f"{name}.yaml")
    assert read_launch(path, None, max_grad_norm=1.0) == launch
    assert read_launch(path, 4, max_grad_norm=1.0) == Launch(4, launch.weights)


def test_without_a_configuration() -> None:
    assert read_launch(None, None, max_grad_norm=1.0) == Launch()
    assert read_launch(None, 2, max_grad_norm=1.0) == Launch(2, "whole")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing\.yaml: cannot be read: .*No such file"):
        read_launch(str(tmp_path / "nothing.yaml"), None, max_grad_norm=1.0)


@pytest.mark.parametrize("count", ["many", "0", "-1", "true", "1.5", "'8'"])
def test_numbers_of_processes(count: str, file: Path) -> None:
    file.write_text(f"distributed_type: MULTI_GPU\nnum_processes: {count}\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"num_processes is .*; a whole number from 1"):
        read_launch(str(file), None, max_grad_norm=1.0)


@pytest.mark.parametrize("word", ["NO", "'NO'"])
def test_no_is_one_process_whatever_the_number(word: str, file: Path) -> None:
    """YAML reads the bare word as false; accelerate starts one process all the same."""
    file.write_text(f"distributed_type: {word}\nnum_processes: 8\n", encoding="utf-8")
    assert read_launch(str(file), None, max_grad_norm=1.0) == Launch()
