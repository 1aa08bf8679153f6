"""The velocity: dtypes, guidance, rows at different steps, gradients."""

from __future__ import annotations

import pytest
import torch

from flowgrpo.policy import load_policy
from tests.policy.helpers import KEYS, PROMPTS, one_velocity, shake


def batch_sizes(policy) -> list[int]:
    """Rows of every later forward pass of the network, filled as they happen."""
    seen: list[int] = []
    network = policy.parts()["network"]
    network.register_forward_pre_hook(lambda _, __, inputs: seen.append(len(inputs["hidden_states"])), with_kwargs=True)
    return seen


def test_rows_may_be_at_different_steps(section):
    policy = load_policy(section())
    x, cond, sigma = policy.initial_noise(KEYS), policy.encode(PROMPTS), torch.tensor([1.0, 0.7, 0.2])
    together = policy.velocity(x, sigma, cond, guidance_scale=3.0)
    for row in range(3):
        index = torch.tensor([row])
        alone = policy.velocity(x[index], float(sigma[row]), cond.rows(index), guidance_scale=3.0)
        torch.testing.assert_close(together[index], alone, rtol=0, atol=1e-5)
    shuffled = policy.velocity(x, sigma.flip(0), cond, guidance_scale=3.0)
    assert (together[0] - shuffled[0]).abs().max() > 1e-3


def test_guidance_is_negative_plus_scaled_difference_in_one_batch(section):
    policy = load_policy(section(negative_prompt="blue"))
    sizes = batch_sizes(policy)
    guided = one_velocity(policy, guidance_scale=3.0)
    positive = one_velocity(policy, guidance_scale=1.0)
    negative = policy.velocity(policy.initial_noise(KEYS), 0.6, policy.encode(["blue"] * 3), guidance_scale=0.0)
    assert sizes == [6, 3, 3]
    assert (positive - negative).abs().max() > 1e-3
    torch.testing.assert_close(guided, negative + 3.0 * (positive - negative), rtol=0, atol=1e-5)


def test_embedded_guidance_is_an_input_not_a_branch(section):
    policy = load_policy(section("flux"))
    sizes = batch_sizes(policy)
    assert (one_velocity(policy, guidance_scale=3.5) - one_velocity(policy, guidance_scale=1.0)).abs().max() > 1e-4
    assert sizes == [3, 3]


def test_gradient_flows_through_both_branches(section):
    """d(guided) = (1 - w) d(negative) + w d(positive), each from a pass of its own."""
    policy = load_policy(section(negative_prompt="blue"))
    shake(policy)
    parameters = list(policy.trainable().values())

    def gradient(velocity):
        return torch.cat([part.flatten() for part in torch.autograd.grad(velocity.square().mean(), parameters)])

    x = policy.initial_noise(KEYS)
    combined = gradient(policy.velocity(x, 0.6, policy.encode(PROMPTS), guidance_scale=3.0))

    def branches():
        positive = policy.velocity(x, 0.6, policy.encode(PROMPTS), guidance_scale=1.0)
        return positive, policy.velocity(x, 0.6, policy.encode(["blue"] * 3), guidance_scale=1.0)

    positive, negative = branches()
    torch.testing.assert_close(combined, gradient(negative + 3.0 * (positive - negative)), rtol=1e-4, atol=1e-6)
    positive, negative = branches()
    one_branch = gradient(negative.detach() + 3.0 * (positive - negative.detach()))
    assert (combined - one_branch).norm() > 0.05 * combined.norm()


@pytest.mark.parametrize(
    ("dtype", "adapter"), [("float32", "lora"), ("bfloat16", "lora"), ("float16", "lora"), ("bfloat16", "full")]
)
def test_float32_outside_and_masters_whatever_the_model_dtype(section, dtype, adapter):
    policy = load_policy(section(dtype=dtype, adapter=adapter))
    seen = set()
    block = policy.parts()["network"].transformer_blocks[0]
    block.register_forward_hook(lambda _, __, output: seen.update(part.dtype for part in output))
    v = one_velocity(policy)
    v.square().mean().backward()
    assert v.dtype == torch.float32
    assert seen == {getattr(torch, dtype)}
    for name, parameter in policy.trainable().items():
        assert parameter.dtype == torch.float32, name
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32, name


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_half_precision_agrees_with_float32(section, adapter):
    exact, rounded = (load_policy(section(dtype=dtype, adapter=adapter)) for dtype in ("float32", "bfloat16"))
    for policy in (exact, rounded):
        shake(policy, 0.05)
    with torch.no_grad():
        gap = one_velocity(rounded) - one_velocity(exact)
        assert 0 < gap.norm() < 0.03 * one_velocity(exact).norm()


@pytest.mark.parametrize(
    ("kind", "dtype", "adapter"),
    [
        *(("sd3", dtype, adapter) for dtype in ("float32", "bfloat16") for adapter in ("lora", "full")),
        ("flux", "float32", "lora"),
    ],
)
def test_gradient_checkpointing_changes_memory_alone(section, kind, dtype, adapter):
    runs, gradients = [], []
    for flag in (False, True):
        policy = load_policy(section(kind, dtype=dtype, adapter=adapter, gradient_checkpointing=flag))
        shake(policy, 0.1)
        calls: list[int] = []
        block = policy.parts()["network"].transformer_blocks[0]
        block.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        one_velocity(policy).square().mean().backward()
        runs.append(len(calls))
        gradients.append([parameter.grad for parameter in policy.trainable().values()])
    assert runs == [1, 2], "the block must run again in the backward pass"
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_dropout_is_off_in_training_too(section, adapter):
    policy = load_policy(section(adapter=adapter))
    assert not any(module.training for part in policy.parts().values() for module in part.modules())
    one_velocity(policy).sum().backward()
    assert torch.equal(one_velocity(policy), one_velocity(policy))


def test_noise_belongs_to_its_key(section):
    policy = load_policy(section())
    assert policy.latent_shape == (4, 8, 8)
    three, one = policy.initial_noise(KEYS), policy.initial_noise(KEYS[1:2])
    assert three.dtype == torch.float32 and torch.equal(three[1:2], one)


def test_decoding_in_chunks_gives_the_same_images_without_gradient(section):
    policy = load_policy(section(dtype="bfloat16"))
    latents = policy.initial_noise([(i,) for i in range(5)]).requires_grad_()
    whole, chunks = policy.decode(latents, batch_size=5), policy.decode(latents, batch_size=2)
    assert whole.dtype == torch.float32 and not whole.requires_grad
    assert whole.min() >= 0 and whole.max() <= 1
    torch.testing.assert_close(whole, chunks, rtol=0, atol=1e-5)
