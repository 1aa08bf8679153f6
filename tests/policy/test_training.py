"""What is trained, what is not, and the untrained model beside it."""

from __future__ import annotations

import pytest
import torch

from flowgrpo.policy import load_policy
from tests.policy.helpers import one_velocity, shake

ADAPTERS = ["lora", "full"]


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_only_the_named_parameters_get_gradients(section, adapter):
    policy = load_policy(section(adapter=adapter))
    trained = {id(parameter) for parameter in policy.trainable().values()}
    free = {id(p) for part in policy.parts().values() for p in part.parameters() if p.requires_grad}
    assert trained == free and len(trained) == len(policy.trainable())


def test_lora_sits_on_the_published_layers(section):
    """Stable Diffusion 3: 8 projections per joint block; the last block has no output for the text."""
    names = list(load_policy(section()).trainable())
    layers = {name.rsplit(".lora_", 1)[0] for name in names}
    assert len(names) == 2 * len(layers) == 2 * (8 + 7)
    assert "transformer_blocks.0.attn.to_out.0" in layers
    assert not any(".attn2." in layer for layer in layers)


def test_lora_on_chosen_layers(section):
    names = load_policy(section(lora_targets=("attn.to_q", "ff.net.2"))).trainable()
    assert {name.split(".", 2)[2].rsplit(".lora_")[0] for name in names} == {"attn.to_q", "ff.net.2"}


def test_full_training_covers_the_whole_network(section, folders):
    from diffusers import SD3Transformer2DModel

    plain = SD3Transformer2DModel.from_pretrained(folders["sd3"], subfolder="transformer")
    for dtype in ("float32", "bfloat16"):
        trained = load_policy(section(adapter="full", dtype=dtype)).trainable()
        assert list(trained) == [name for name, _ in plain.named_parameters()]
        for name, parameter in plain.named_parameters():
            assert torch.equal(trained[name], parameter), "masters must not be rounded to the model's dtype"


def test_first_weights_follow_the_seed(section):
    first, same, other = (load_policy(section(), seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    lora_a = torch.cat([tensor.flatten() for name, tensor in first.items() if "lora_A" in name])
    assert lora_a.std().item() == pytest.approx(1 / 2, rel=0.1), "Gaussian of std 1 / rank"
    assert all(not tensor.any() for name, tensor in first.items() if "lora_B" in name)


def test_loading_does_not_touch_the_global_random_state(section):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    load_policy(section(), seed=1)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_reference_is_the_untrained_model(section, adapter, dtype):
    policy = load_policy(section(adapter=adapter, dtype=dtype))
    with torch.no_grad():
        start = one_velocity(policy)
        shake(policy)
        trained = one_velocity(policy)
        with policy.reference():
            assert torch.equal(one_velocity(policy), start)
        assert torch.equal(one_velocity(policy), trained)
        assert (trained - start).abs().max() > 1e-2
    assert all(parameter.requires_grad for parameter in policy.trainable().values())


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_an_error_inside_the_reference_leaves_the_policy_trained(section, adapter):
    policy = load_policy(section(adapter=adapter))
    shake(policy)
    trained = one_velocity(policy)
    with pytest.raises(KeyError), policy.reference():
        raise KeyError
    assert torch.equal(one_velocity(policy), trained)
    one_velocity(policy).sum().backward()
    assert all(parameter.grad is not None for parameter in policy.trainable().values())


def test_a_second_network_is_made_only_when_a_reference_is_asked_for(section, monkeypatch):
    from flowgrpo.policies import adapters

    made = []
    original = adapters.load_reference
    monkeypatch.setattr(adapters, "load_reference", lambda *args: made.append(1) or original(*args))
    policy = load_policy(section(adapter="full"))
    one_velocity(policy)
    assert made == []
    for _ in range(2):
        with policy.reference():
            one_velocity(policy)
    assert made == [1]


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_training_state_goes_round(section, adapter):
    policy, other = (load_policy(section(adapter=adapter, dtype="bfloat16"), seed=seed) for seed in (0, 3))
    shake(policy)
    state = policy.state_dict()
    other.load_state_dict(state)
    assert torch.equal(one_velocity(other), one_velocity(policy))
    shake(policy)
    assert all(torch.equal(other.trainable()[name], tensor) for name, tensor in state.items()), "state is a copy"
