"""What is saved loads in plain diffusers at full strength, and comes back; what does not fit is refused."""

from __future__ import annotations

import pytest
import torch
from diffusers import SD3Transformer2DModel
from safetensors.torch import load_file, save_file

from flowgrpo.errors import CheckpointError
from flowgrpo.policy import load_policy
from flowgrpo.saving import LORA_FILE
from tests.policy.helpers import PROMPTS, draw, draw_stock, one_velocity, shake
from tests.tiny import stock_pipeline

OPTIONS = {"steps": 3, "guidance_scale": 3.0}


@pytest.mark.parametrize(("rank", "alpha"), [(2, 6), (4, 2)])
@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_adapter_in_plain_diffusers_gives_the_same_images(folders, section, tmp_path, kind, rank, alpha):
    policy, pipe = load_policy(section(kind, lora_rank=rank, lora_alpha=alpha)), stock_pipeline(folders[kind])
    shake(policy)
    policy.save(tmp_path)
    base = draw_stock(pipe, policy, PROMPTS, **OPTIONS, max_sequence_length=20)
    pipe.load_lora_weights(tmp_path)
    loaded = draw_stock(pipe, policy, PROMPTS, **OPTIONS, max_sequence_length=20)
    images = draw(policy, PROMPTS, **OPTIONS)
    torch.testing.assert_close(images, loaded, rtol=0, atol=1e-5)
    assert (loaded - base).abs().max() > 1e-2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_full_weights_load_as_a_plain_network(folders, section, tmp_path, dtype):
    policy = load_policy(section(adapter="full", dtype=dtype))
    shake(policy, 0.1)
    policy.save(tmp_path)
    network = SD3Transformer2DModel.from_pretrained(tmp_path / "transformer")
    trained = policy.trainable()
    assert dict.fromkeys(trained, True) == {
        name: torch.equal(parameter, trained[name]) for name, parameter in network.named_parameters()
    }
    assert torch.equal(network.pos_embed.pos_embed, policy.parts()["network"].pos_embed.pos_embed)
    pipe = stock_pipeline(folders["sd3"])
    pipe.transformer = network
    if dtype == "float32":
        expected = draw_stock(pipe, policy, PROMPTS, **OPTIONS, max_sequence_length=20)
        torch.testing.assert_close(draw(policy, PROMPTS, **OPTIONS), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("adapter", ["lora", "full"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_saved_weights_come_back_to_the_bit(section, tmp_path, adapter, dtype):
    policy, other = (load_policy(section(adapter=adapter, dtype=dtype), seed=seed) for seed in (0, 1))
    shake(policy)
    policy.save(tmp_path)
    other.load(tmp_path)
    assert torch.equal(one_velocity(other), one_velocity(policy))


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_another_state_is_saved_in_place_of_the_live_one(section, tmp_path, adapter):
    policy = load_policy(section(adapter=adapter))
    average = {name: tensor + 1 for name, tensor in policy.state_dict().items()}
    live = policy.state_dict()
    policy.save(tmp_path, average)
    assert all(torch.equal(policy.trainable()[name], tensor) for name, tensor in live.items())
    policy.load(tmp_path)
    assert all(torch.equal(policy.trainable()[name], tensor) for name, tensor in average.items())


def refused(policy, folder, words: str) -> None:
    """`folder` raises one clear sentence, and the policy keeps its weights."""
    before = policy.state_dict()
    with pytest.raises(CheckpointError, match=words) as caught:
        policy.load(folder)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(policy.trainable()[name], tensor) for name, tensor in before.items())


def test_adapters_that_do_not_fit_are_refused(section, tmp_path):
    policy = load_policy(section())
    load_policy(section(lora_rank=3)).save(tmp_path / "rank")
    load_policy(section(lora_alpha=2)).save(tmp_path / "alpha")
    load_policy(section(lora_targets=("attn.to_q",))).save(tmp_path / "targets")
    load_policy(section("flux")).save(tmp_path / "flux")
    refused(policy, tmp_path / "nothing", f"has no {LORA_FILE}")
    refused(policy, tmp_path / "rank", "made with rank 3 and alpha 6, the recipe has lora_rank 2")
    refused(policy, tmp_path / "alpha", "made with rank 2 and alpha 2, .* lora_alpha 6")
    refused(policy, tmp_path / "targets", "26 of 30 weights missing, 0 unknown")
    refused(policy, tmp_path / "flux", "another model or another choice of trained layers")


def test_damaged_or_stripped_adapters_are_refused(section, tmp_path):
    policy = load_policy(section())
    policy.save(tmp_path)
    file = tmp_path / LORA_FILE
    weights, whole = load_file(file), file.read_bytes()
    save_file(weights, file)
    refused(policy, tmp_path, "made with rank None")
    file.write_bytes(whole[: len(whole) // 2])
    refused(policy, tmp_path, "is damaged")


def test_networks_that_do_not_fit_are_refused(section, tmp_path):
    policy = load_policy(section(adapter="full"))
    refused(policy, tmp_path, "has no transformer/config.json")
    load_policy(section("flux", adapter="full")).save(tmp_path / "flux")
    refused(policy, tmp_path / "flux", "cannot be loaded|another model")
    policy.save(tmp_path)
    file = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    refused(policy, tmp_path, "cannot be loaded")


def test_state_of_another_shape_is_refused(section):
    policy = load_policy(section())
    state = policy.state_dict()
    name = next(iter(state))
    before = policy.state_dict()
    with pytest.raises(CheckpointError, match=r"has shape \(1, 2\), this model needs"):
        policy.load_state_dict({**state, name: torch.zeros(1, 2)})
    assert all(torch.equal(policy.trainable()[key], tensor) for key, tensor in before.items())
