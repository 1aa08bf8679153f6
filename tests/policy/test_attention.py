"""Attention by name: the layers really change, or the name is refused."""

from __future__ import annotations

import importlib.machinery

import pytest
import torch
from diffusers.models import attention_processor

from flowgrpo import attention
from flowgrpo.errors import RecipeError
from flowgrpo.policy import load_policy
from tests.policy.helpers import one_velocity


def kinds(policy) -> set[str]:
    return {type(processor).__name__ for processor in policy.parts()["network"].attn_processors.values()}


@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_sdpa_is_the_default_computation(section, kind):
    default, named = load_policy(section(kind)), load_policy(section(kind, attention="sdpa"))
    assert torch.equal(one_velocity(default), one_velocity(named))


def test_a_backend_name_reaches_every_layer_that_reads_one(section):
    network = load_policy(section("flux", attention="_native_math")).parts()["network"]
    chosen = {processor._attention_backend.value for processor in network.attn_processors.values()}
    assert chosen == {"_native_math"}


def test_missing_xformers_names_the_extra(section):
    with pytest.raises(RecipeError, match=r"pip install 'flowgrpo\[xformers\]'"):
        load_policy(section(attention="xformers"))


def test_xformers_exchanges_the_processors_of_stable_diffusion_3(section, monkeypatch):
    spec = importlib.machinery.ModuleSpec("xformers", None)
    monkeypatch.setattr(attention.importlib.util, "find_spec", lambda name: spec)
    assert kinds(load_policy(section(attention="xformers"))) == {"XFormersJointAttnProcessor"}


@pytest.mark.parametrize(("kind", "name"), [("sd3", "flash"), ("sd3", "sdpaa"), ("flux", "natve")])
def test_names_that_would_do_nothing_are_refused(section, kind, name):
    """`set_attention_backend("flash")` on Stable Diffusion 3 raises nothing and changes nothing."""
    with pytest.raises(RecipeError, match=f"model.attention: .*'{name}'"):
        load_policy(section(kind, attention=name))


def test_a_layer_that_keeps_its_processor_is_noticed(section, monkeypatch):
    network = load_policy(section()).parts()["network"]
    monkeypatch.setattr(type(network), "set_attn_processor", lambda self, processor: None)
    monkeypatch.setitem(attention.PROCESSORS, "joint", "FusedJointAttnProcessor2_0")
    assert hasattr(attention_processor, "FusedJointAttnProcessor2_0")
    with pytest.raises(RecipeError, match="'joint' was not taken by 3 of 3 layers"):
        attention.set_attention(network, "joint")
