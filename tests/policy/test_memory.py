"""What saves memory or time changes no number that it should not, and really saves."""

from __future__ import annotations

import pytest
import torch
from torch.nn import Module

from flowgrpo.errors import RecipeError
from flowgrpo.policies import adapters, conditionings
from flowgrpo.policies.compiling import compile_blocks, repeated_blocks
from flowgrpo.policies.decoder import decoder_on, prepare_decoder
from flowgrpo.policy import encode_once, load_policy
from tests.policy.helpers import KEYS, one_velocity, shake
from tests.policy.test_velocity import batch_sizes


def test_guidance_in_two_passes_is_that_in_one(section):
    one, two = (load_policy(section(negative_prompt="blue", guidance_passes=passes)) for passes in (1, 2))
    gradients = []
    for policy, expected in ((one, [6]), (two, [3, 3])):
        shake(policy, 0.1)
        sizes = batch_sizes(policy)
        one_velocity(policy, guidance_scale=3.0).square().mean().backward()
        assert sizes == expected
        gradients.append(torch.cat([p.grad.flatten() for p in policy.trainable().values()]))
    with torch.no_grad():
        torch.testing.assert_close(one_velocity(one), one_velocity(two), rtol=0, atol=1e-5)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
    assert gradients[0].norm() > 0


def test_without_guidance_there_is_one_pass(section):
    policy = load_policy(section(guidance_passes=2))
    sizes = batch_sizes(policy)
    one_velocity(policy, guidance_scale=1.0)
    assert sizes == [3]


def test_an_adapter_has_the_base_for_its_reference_and_no_second_network(section, monkeypatch):
    monkeypatch.setattr(adapters, "load_reference", lambda *args: pytest.fail("a second network was loaded"))
    policy = load_policy(section(adapter="lora"))
    network = policy.parts()["network"]
    ran: list[Module] = []
    handle = network.register_forward_hook(lambda module, *_: ran.append(module))
    storages = {parameter.data_ptr() for parameter in network.parameters()}
    with policy.reference(), torch.no_grad():
        one_velocity(policy)
    handle.remove()
    assert ran == [network]
    assert {parameter.data_ptr() for parameter in network.parameters()} == storages


def test_the_decoder_is_on_the_device_only_while_it_decodes(section, monkeypatch):
    policy = load_policy(section(offload_decoder=True))
    vae, moves = policy.parts()["decoder"], []
    move, decode = vae.to, vae.decode
    monkeypatch.setattr(vae, "to", lambda place: (moves.append(str(place)), move(place))[1])
    monkeypatch.setattr(vae, "decode", lambda *a, **k: (moves.append("decode"), decode(*a, **k))[1])
    policy.device = torch.device("cpu", 0)
    latents = policy.initial_noise(KEYS)
    pictures = policy.decode(latents)
    assert moves == ["cpu:0", "decode", "cpu"]
    assert torch.equal(pictures, load_policy(section()).decode(latents))
    moves.clear()
    with pytest.raises(KeyError), decoder_on(vae, torch.device("cpu", 0), rests=True):
        raise KeyError
    assert moves == ["cpu:0", "cpu"], "it goes to rest after a failure too"


def test_the_decoder_waits_where_the_recipe_says(section, monkeypatch):
    from diffusers import AutoencoderKL

    moves: list[str] = []
    move = AutoencoderKL.to
    monkeypatch.setattr(AutoencoderKL, "to", lambda self, *a, **k: (moves.append(str(a[0])), move(self, *a, **k))[1])
    for rests in (False, True):
        moves.clear()
        load_policy(section(offload_decoder=rests), device="cpu:0")
        assert ("cpu:0" in moves) is not rests


def test_so_many_latents_are_decoded_at_once_as_the_recipe_says(section, monkeypatch):
    policy = load_policy(section(decode_batch_size=2))
    vae, seen = policy.parts()["decoder"], []
    decode = vae.decode
    monkeypatch.setattr(vae, "decode", lambda z, **k: (seen.append(len(z)), decode(z, **k))[1])
    latents = policy.initial_noise([(i,) for i in range(5)])
    pictures = policy.decode(latents)
    assert seen == [2, 2, 1]
    torch.testing.assert_close(pictures, load_policy(section()).decode(latents), rtol=0, atol=1e-5)


def test_tiles_are_decoded_on_request_alone(section):
    plain, tiled = load_policy(section()), load_policy(section(decode_tiling=True))
    assert not plain.parts()["decoder"].use_tiling
    decoder = tiled.parts()["decoder"]
    decoder.tile_latent_min_size, decoder.tile_sample_min_size = 4, 8  # so that these latents need tiles
    latents = plain.initial_noise(KEYS)
    gap = (tiled.decode(latents) - plain.decode(latents)).abs()
    assert gap.shape[-1] == 16 and gap.max() > 1e-4, "tiles have seams: this is why they are called lossy"


def test_a_decoder_without_tiles_is_refused(section):
    class Plain(Module):
        pass

    with pytest.raises(RecipeError, match=r"model.decode_tiling: a Plain decodes no tiles"):
        prepare_decoder(Plain(), section(decode_tiling=True), torch.device("cpu"))


def test_a_prompt_is_held_once_however_many_groups_it_has(section):
    policy = load_policy(section())
    cond, rows = encode_once(policy, ["dog", "cat", "dog", "dog"])
    assert len(cond) == 2 and rows.tolist() == [0, 1, 0, 0]
    each = policy.encode(["dog", "cat", "dog", "dog"])
    for name, tensor in each.prompt.items():
        assert torch.equal(cond.rows(rows).prompt[name], tensor)


def test_zeros_behind_a_text_are_not_held_and_come_back():
    tokens = torch.randn(1, 50, 8, dtype=torch.bfloat16)
    tokens[:, 7:] = 0
    tokens[0, 3] = 0
    mask = (torch.arange(50) < 7)[None]
    held = conditionings.pack({"tokens": tokens.float(), "mask": mask}, torch.bfloat16)
    assert held["tokens"].kept.shape == (1, 7, 8) and held["mask"].kept.shape == (1, 7)
    assert held["tokens"].kept.untyped_storage().nbytes() == 7 * 8 * 2
    back = conditionings.unpack(held)
    assert torch.equal(back["tokens"], tokens) and torch.equal(back["mask"], mask)
    assert back["tokens"].dtype == torch.bfloat16 and back["mask"].dtype == torch.bool


@pytest.mark.parametrize("value", [0.0, -0.0])
def test_nothing_but_zeros_comes_back_to_the_bit(value):
    tokens = torch.full((1, 4, 2), value)
    back = conditionings.unpack(conditionings.pack({"tokens": tokens}, torch.float32))["tokens"]
    assert torch.equal(back.view(torch.int32), tokens.view(torch.int32))


@pytest.mark.parametrize(
    ("kind", "names"),
    [("sd3", ["JointTransformerBlock"]), ("flux", ["FluxTransformerBlock", "FluxSingleTransformerBlock"])],
)
def test_every_repeated_block_is_compiled_and_nothing_else(section, monkeypatch, kind, names):
    compiled: list[str] = []
    monkeypatch.setattr(Module, "compile", lambda self, *a, **k: compiled.append(type(self).__name__))
    network = load_policy(section(kind, compile="blocks")).parts()["network"]
    blocks = [type(module).__name__ for module in network.modules() if type(module).__name__ in names]
    assert repeated_blocks(network) == names
    assert len(blocks) == 2 and sorted(compiled) == sorted(blocks)


def test_a_network_that_repeats_nothing_is_not_compiled():
    class Plain(Module):
        _repeated_blocks = None

    with pytest.raises(RecipeError, match=r"model.compile: a Plain repeats no block"):
        compile_blocks(Plain())


@pytest.mark.slow
def test_a_compiled_network_is_the_plain_one_to_rounding_with_and_without_a_graph(section):
    plain, compiled = load_policy(section()), load_policy(section(compile="blocks"))
    for policy in (plain, compiled):
        shake(policy, 0.1)
    with torch.no_grad():
        without = one_velocity(compiled)
    with_graph, expected = one_velocity(compiled), one_velocity(plain)
    torch.testing.assert_close(with_graph, without, rtol=0, atol=1e-5)
    torch.testing.assert_close(with_graph, expected, rtol=0, atol=1e-5)
    gradients = []
    for velocity, policy in ((with_graph, compiled), (expected, plain)):
        velocity.square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in policy.trainable().values()]))
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-6)
