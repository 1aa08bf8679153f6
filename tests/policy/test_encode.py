"""Prompts are encoded once, alone, and without the encoders staying in memory."""

from __future__ import annotations

import gc
import warnings
import weakref

import pytest
import torch

from flowgrpo.policy import load_policy

KINDS = ["sd3", "sd3_t5", "flux"]


def encoder_calls(policy) -> list[int]:
    calls: list[int] = []
    policy._pipe.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("kind", KINDS)
def test_each_distinct_prompt_is_encoded_once(section, kind):
    policy = load_policy(section(kind, negative_prompt="blue"))
    calls, negative = encoder_calls(policy), int(kind != "flux")
    cond = policy.encode(["dog", "cat", "dog"])
    policy.encode(["cat", "dog"])
    assert len(cond) == 3 and len(calls) == 2 + negative
    for rows in cond.prompt.values():
        assert rows.device.type == "cpu" and not rows.requires_grad
        assert torch.equal(rows[0], rows[2]) and not torch.equal(rows[0], rows[1])


@pytest.mark.parametrize(("kind", "dtype"), [("sd3", "bfloat16"), ("sd3_t5", "float32"), ("flux", "float32")])
def test_a_row_does_not_depend_on_its_company(section, kind, dtype):
    company = load_policy(section(kind, dtype=dtype)).encode(["cat", "a red dog", "b", "dog"])
    alone = load_policy(section(kind, dtype=dtype)).encode(["dog"])
    for name, rows in alone.prompt.items():
        assert rows.dtype == getattr(torch, dtype)
        assert torch.equal(rows[0], company.prompt[name][3])


def test_rows_are_picked_in_order(section):
    cond = load_policy(section()).encode(["a", "b", "c"])
    picked = cond.rows(torch.tensor([2, 0, 2]))
    assert len(picked) == 3
    assert torch.equal(picked.prompt["tokens"], cond.prompt["tokens"][[2, 0, 2]])
    assert torch.equal(picked.negative["tokens"], cond.negative["tokens"])


@pytest.mark.parametrize("kind", KINDS)
def test_dropped_encoders_leave_memory_and_come_back_for_a_new_prompt(section, kind):
    policy, fresh = load_policy(section(kind)), load_policy(section(kind))
    known = policy.encode(["dog"])
    alive = [weakref.ref(getattr(policy._pipe, part)) for part in ("text_encoder", "text_encoder_2")]
    policy.drop_encoders()
    gc.collect()
    assert [ref() for ref in alive] == [None, None]
    assert torch.equal(policy.encode(["dog"]).prompt["tokens"], known.prompt["tokens"])
    assert policy._pipe.text_encoder is None, "a known prompt needs no encoder"
    assert torch.equal(policy.encode(["cat"]).prompt["tokens"], fresh.encode(["cat"]).prompt["tokens"])
    policy.drop_encoders()
    assert policy._pipe.text_encoder is None


def test_a_cut_prompt_is_named_once(section):
    """A CLIP tokenizer of 12 tokens reads 10 letters; the T5 reads max_sequence_length = 20."""
    policy = load_policy(section("sd3_t5"))
    long = "a" * 15
    with pytest.warns(UserWarning, match=rf"tokenizer reads 12 of its 17 tokens, tokenizer_2 .*17 tokens\): '{long}'"):
        policy.encode([long, "dog"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy.encode([long])
    with pytest.warns(UserWarning, match="tokenizer_3 reads 20 of its 26 tokens"):
        policy.encode(["b" * 25])


def test_sequence_length_of_the_recipe_counts(section):
    for kind, expected in (("sd3", 12 + 7), ("sd3_t5", 12 + 7), ("flux", 7)):
        cond = load_policy(section(kind, max_sequence_length=7)).encode(["dog"])
        assert cond.prompt["tokens"].shape == (1, expected, 32)
