"""What a launcher's DeepSpeed configuration may say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flowgrpo.errors import RecipeError
from flowgrpo.zero_settings import ZeroSettings, launched_zero
from tests.launched import launcher_environment

LAUNCH = Path(__file__).resolve().parents[2] / "scripts" / "launch"
ZERO1 = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "1"}
ZERO2 = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}
PLAIN = {"zero_optimization": {"stage": 2}}


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        (PLAIN, ZeroSettings(2)),
        (
            {
                "zero_optimization": {
                    "stage": "auto",
                    "overlap_comm": True,
                    "reduce_bucket_size": 1000,
                    "allgather_bucket_size": "auto",
                    "stage3_max_live_parameters": 7,
                    "offload_optimizer": {"device": "cpu", "pin_memory": True},
                    "offload_param": {"device": "none"},
                },
                "fp16": {"enabled": "auto", "loss_scale": 0},
                "bf16": {"enabled": False},
                "train_batch_size": "auto",
                "train_micro_batch_size_per_gpu": "auto",
                "gradient_accumulation_steps": "auto",
                "gradient_clipping": 1.0,
                "steps_per_print": 100,
            },
            ZeroSettings(1, offload=True, pin_memory=True, tuning={"reduce_bucket_size": 1000}),
        ),
    ],
)
def test_a_file_of_deepspeed_is_read(
    config: dict[str, Any], settings: ZeroSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ds.json"
    file.write_text(json.dumps(config))
    for key, value in {**ZERO1, "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(file)}.items():
        monkeypatch.setenv(key, value)
    assert launched_zero(1.0) == settings


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"zero_optimization": {"stage": 3}}, "zero_stage: 3 is not supported, 1 and 2 are; .*fsdp2.yaml"),
        ({"zero_optimization": {"stage": 0}}, "zero_stage: 0 is not supported, 1 and 2 are; .*multi_gpu.yaml"),
        ({"zero_optimization": {"stage": 2, "mics_shard_size": 8}}, "zero_optimization.mics_shard_size is not"),
        ({"zero_optimization": {"stage": 1, "round_robin_gradients": True}}, "zero_optimization.round_robin_gradients"),
        (
            {"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}},
            "offload_param_device: cpu is not supported; scripts/launch/fsdp2.yaml",
        ),
        (
            {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "nvme"}}},
            "offload_optimizer_device: nvme is not supported; none and cpu are",
        ),
        ({"gradient_clipping": 0.5}, "gradient_clipping: 0.5 is not the recipe's train.max_grad_norm = 1.0"),
        ({"bf16": {"enabled": True}}, "bf16 is not supported; the recipe's model.dtype"),
        ({"fp16": {"enabled": True}}, "fp16 is not supported; the recipe's model.dtype"),
        ({"optimizer": {"type": "Adam"}}, "optimizer is not supported; the recipe's train.lr"),
        ({"scheduler": {"type": "WarmupLR"}}, "scheduler is not supported; the recipe's train.lr, warmup_updates and"),
        ({"train_batch_size": 32}, "train_batch_size is not supported; the recipe's train.prompts_per_iteration"),
        ({"gradient_accumulation_steps": 4}, "gradient_accumulation_steps is not supported; the recipe's"),
        ({"zero_force_ds_cpu_optimizer": True}, "the update is torch's AdamW, on the CPU too"),
        ({"prescale_gradients": True}, "prescale_gradients is not supported; leave it out"),
    ],
)
def test_what_is_not_done_is_refused(
    more: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ds.json"
    file.write_text(json.dumps({**PLAIN, **more}))
    for key, value in {**ZERO2, "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(file)}.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(RecipeError, match=message):
        launched_zero(1.0)


def test_a_file_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched_zero(1.0) is None
    for key, value in {**ZERO2, "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(tmp_path / "none.json")}.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(RecipeError, match="the DeepSpeed configuration of the launcher cannot be read"):
        launched_zero(1.0)


def test_accelerate_reads_the_shipped_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = launcher_environment(LAUNCH / "deepspeed_zero2.yaml")
    for key, value in environment.items():
        if key.startswith("ACCELERATE_"):
            monkeypatch.setenv(key, value)
    assert launched_zero(1.0) == launched_zero(0.3) == ZeroSettings(2)
