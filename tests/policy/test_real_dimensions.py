"""Models at their real size without their weights: one is rehearsed here, all by `scripts/check_real_dimensions.py`."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from flowgrpo.assets import CANDIDATES, asset
from flowgrpo.estimates import activations_per_row, encoders_bytes, memory
from flowgrpo.geometry import geometry
from flowgrpo.model_facts import known_model
from flowgrpo.policies.facts import FACTS
from flowgrpo.policies.rehearsal import _check_gradients, read_real, real_names, rehearse
from flowgrpo.policies.rehearsal_checks import problems, recorded_call
from flowgrpo.policies.rehearsal_meter import Meter
from flowgrpo.recipe import Model
from flowgrpo.recipe_loading import load_recipe

TABLE = CANDIDATES[0] / "benchmarks" / "real_dimensions.json"
REHEARSED = "sana-1600m"
SD3 = "StableDiffusion3Pipeline"


def table() -> dict[str, dict]:
    return json.loads(TABLE.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("idle", "refused"),
    [
        ((), False),
        (("blocks.2.attn.add_q_proj",), False),
        (("blocks.1.attn.add_q_proj",), True),
        (("blocks.2.attn.to_q",), True),
        (("blocks.2.attn.add_q_proj", "proj_out"), True),
        (("single.0.attn.to_q",), True),
    ],
)
def test_gradients_reach_all_but_the_last_text_layers(idle, refused):
    layers = [f"blocks.{at}.attn.{layer}" for at in range(3) for layer in ("to_q", "add_q_proj")]
    held = {
        key: SimpleNamespace(grad=None if key in idle else 1.0) for key in (*layers, "single.0.attn.to_q", "proj_out")
    }
    policy = SimpleNamespace(trainable=lambda: held)
    if not refused:
        _check_gradients("toy", policy)
        return
    with pytest.raises(AssertionError, match="no gradient reaches"):
        _check_gradients("toy", policy)


def test_one_model_is_rehearsed_and_agrees_with_the_table():
    row = rehearse(REHEARSED)
    assert problems(REHEARSED, row) == []
    held = table()[REHEARSED]
    assert {key: row[key] for key in ("parameters", "flops", "bytes", "text", "file")} == {
        key: held[key] for key in ("parameters", "flops", "bytes", "text", "file")
    }
    assert row["bytes"]["checkpointed"] < row["bytes"]["training"] / 3
    # The backward pass of an adapter: gradients of inputs alone, and none before the first block.
    assert 1.9 < row["flops"]["training"] / row["flops"]["sampling"] < 2.5


@pytest.mark.parametrize("name", real_names())
def test_packing_and_timestep_of_every_model(name):
    expected = read_real(name)["expected"]
    seen = recorded_call(read_real(name))
    assert seen == {key: expected[key] for key in ("network_input", "timestep_at_half")}


@pytest.mark.parametrize("name", real_names())
def test_the_tables_rows_are_what_was_published(name):
    if name not in table():
        pytest.skip("not in the table yet: scripts/check_real_dimensions.py")
    assert problems(name, table()[name]) == []


def test_every_family_has_a_model_of_real_size():
    assert {read_real(name)["pipeline"] for name in real_names()} == set(FACTS)
    hubs = {(row["pipeline"], hub) for row in table().values() for hub in row["hub"]} - {(SD3, "tiny-sd3")}
    assert all(hub in FACTS[pipeline].hub for pipeline, hub in hubs)


def test_the_embedded_model_is_rehearsed_by_its_own_numbers():
    real, folder = read_real("tiny-sd3"), asset("tiny-sd3")
    parts = {**real["networks"], "vae": real["vae"], "scheduler": real["scheduler"]}
    for part, (kind, config) in parts.items():
        file = "scheduler_config.json" if part == "scheduler" else "config.json"
        stated = json.loads((folder / part / file).read_text(encoding="utf-8"))
        assert stated["_class_name"] == kind
        assert config == {key: stated[key] for key in config}
    row = rehearse("tiny-sd3")
    assert {key: row[key] for key in ("bytes", "flops")} == {
        key: table()["tiny-sd3"][key] for key in ("bytes", "flops")
    }


def test_a_wrong_number_is_named():
    row = table()[REHEARSED]
    assert problems(REHEARSED, {**row, "latent": [16, 64, 64]}) == [
        f"{REHEARSED}: latent is [16, 64, 64], not [32, 32, 32]"
    ]
    counts = row["parameters"]
    heavier = {**counts, "transformer": int(1.05 * counts["transformer"])}
    assert "parameters, published are 1,600,000,000" in problems(REHEARSED, {**row, "parameters": heavier})[0]
    another = {**counts, "text_encoder": counts["text_encoder"] + 1}
    assert "encoders is {'text_encoder': 2614341889}" in problems(REHEARSED, {**row, "parameters": another})[0]
    for key, wrong in (("text", {"tokens": [300, 2048]}), ("media", [3, 512, 512]), ("file", {"files": 1})):
        assert problems(REHEARSED, {**row, key: wrong})[0].startswith(f"{REHEARSED}: {key} is {wrong}, not ")


def test_meter_counts_what_is_alive_at_once():
    meter = Meter()
    known = torch.zeros(1000)
    meter.know(iter([known]))
    with meter:
        first = known + 1
        del first
        second = known.view(10, 100) + 1
        third = second * 2
        product = known.view(10, 100) @ known.view(100, 10)
    assert (meter.now, meter.peak) == (8400, 8400)
    assert meter.flops == 2 * 10 * 100 * 10 == 2 * product.numel() * 100
    del second, third, product
    assert (meter.now, meter.peak) == (0, 8400)


def test_check_knows_a_hub_model_that_was_never_fetched():
    row = table()[REHEARSED]
    facts = known_model(row["hub"][0])
    assert facts is not None and facts.network_parameters == row["parameters"]["transformer"]
    assert facts.negative_branch
    assert facts.adapter_parameters(64, None) == 64 * row["adapter"]["sides"]
    model = Model(path=row["hub"][0], dtype="bfloat16", height=1024, width=1024)
    assert activations_per_row(facts, model) == row["bytes"]["training"] / 2, "guidance made it two rows"
    wide = model.model_copy(update={"width": 2048, "gradient_checkpointing": True})
    assert activations_per_row(facts, wide) == row["bytes"]["checkpointed"]
    assert known_model("nobody/nothing") is None


def test_check_counts_text_encoders_while_prompts_are_encoded():
    """A LoRA on FLUX.1: its encoders lie beside the network before the first iteration, and are gone after it."""
    row = table()["flux.1-dev"]
    facts = known_model(row["hub"][0])
    assert facts is not None
    model = Model(path=row["hub"][0], dtype="bfloat16")
    assert encoders_bytes(facts, model) == 2 * (123_060_480 + 4_762_310_656) + row["bytes"]["encoding"]
    assert encoders_bytes(facts, model.model_copy(update={"dtype": "float32"})) == 2 * encoders_bytes(facts, model)
    recipe = load_recipe(
        "mix_grpo", {"model.path": row["hub"][0], "model.adapter": "lora", "train.ema_decay": None}
    ).recipe
    used = memory(recipe, geometry(recipe, negative_branch=False), facts, trained=1000)
    assert used.start == {
        "weights": 2 * row["parameters"]["transformer"] + 4 * row["parameters"]["vae"] + 4000,
        "text encoders": encoders_bytes(facts, model),
    }
    bare = replace(used, stages={"sampling": 0.0})
    assert bare.peak == sum(used.start.values()) > sum(used.held.values())
