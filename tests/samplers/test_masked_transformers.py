"""Unmasking with models of the transformers library, on tiny random ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedModel,
)
from transformers.modeling_outputs import MaskedLMOutput

from samplers import MaskedRollout, masked_canvas
from samplers.transformers_generate import masked_generate, transformers_logits

VOCABULARY, MASK, PAD = 20, 19, 0
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
PROMPTS = [[3, 4, 5, 6], [7], [2, 2]]


@pytest.fixture(scope="module")
def bert() -> BertForMaskedLM:
    torch.manual_seed(0)
    config = BertConfig(**SIZES, num_attention_heads=2, max_position_embeddings=32, initializer_range=0.4)
    return BertForMaskedLM(config).eval()


@pytest.fixture(scope="module")
def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES, num_attention_heads=2, num_key_value_heads=2, initializer_range=0.4)
    return LlamaForCausalLM(config).eval()


def padded() -> tuple[torch.Tensor, torch.Tensor]:
    ids, attention = masked_canvas(PROMPTS, 1, mask_id=MASK, pad_id=PAD)
    return ids[:, :-1], attention[:, :-1]


@pytest.mark.parametrize("options", [{"steps": 3}, {"steps": 3, "temperature": 1.0}, {"remasking": "rcr", "steps": 4}])
def test_left_padding_changes_nothing(bert: BertForMaskedLM, options: dict) -> None:
    ids, attention = padded()
    keys = [(1, row) for row in range(3)]
    call = {"mask_id": MASK, "logit_shift": 0, "max_new_tokens": 6} | options
    batch = masked_generate(bert, ids, attention_mask=attention, keys=keys, **call)
    for row, prompt in enumerate(PROMPTS):
        alone = masked_generate(bert, torch.tensor([prompt]), keys=keys[row : row + 1], **call)
        assert batch[row, -6:].tolist() == alone[0, -6:].tolist()


def test_generate_runs_our_loop(llama: LlamaForCausalLM) -> None:
    ids, attention = padded()
    options = {"mask_id": MASK, "logit_shift": 1, "steps": 3, "temperature": 0.7, "top_k": 5, "seed": 3}
    direct = masked_generate(llama, ids, attention_mask=attention, max_new_tokens=6, return_rollout=True, **options)
    through = llama.generate(
        ids,
        attention_mask=attention.long(),
        max_new_tokens=6,
        pad_token_id=PAD,
        custom_generate=masked_generate,
        **options,
    )
    assert torch.equal(direct.ids, through) and torch.equal(through[:, :4], ids)
    assert direct.steps.tolist() == [3, 3, 3]


def test_generate_refuses_a_misspelt_option(llama: LlamaForCausalLM) -> None:
    with pytest.raises(ValueError, match="setps"):
        llama.generate(torch.tensor([[3]]), custom_generate=masked_generate, mask_id=MASK, logit_shift=1, setps=3)
    with pytest.raises(ValueError, match="did you mean 'steps'"):
        masked_generate(llama, torch.tensor([[3]]), mask_id=MASK, logit_shift=1, max_new_tokens=2, setps=3)


@pytest.mark.parametrize("shift", [0, 1])
def test_the_shift_picks_the_column_of_the_logit(llama: LlamaForCausalLM, shift: int) -> None:
    """Against the whole row of logits."""
    ids = torch.tensor([[MASK, 4, MASK, 6, MASK]])
    attention = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad():
        logits = transformers_logits(llama, logit_shift=shift)(ids, ids == MASK, attention)
        want = llama(input_ids=ids).logits[0, [0, 2 - shift, 4 - shift]]
    torch.testing.assert_close(logits, want, rtol=1e-5, atol=1e-5)


def test_the_first_token_behind_padding_has_no_column_before_it(llama: LlamaForCausalLM) -> None:
    ids = torch.tensor([[PAD, PAD, MASK, 4, 5]])
    attention = torch.tensor([[False, False, True, True, True]])
    with torch.no_grad():
        shifted = transformers_logits(llama, logit_shift=1)(ids, ids == MASK, attention)
        alone = transformers_logits(llama, logit_shift=1)(ids[:, 2:], ids[:, 2:] == MASK, attention[:, 2:])
    torch.testing.assert_close(shifted, alone, rtol=1e-5, atol=1e-5)


def test_logits_are_computed_only_in_wanted_columns(llama: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    widths: list[int] = []
    head = llama.lm_head.forward

    def spy(hidden: torch.Tensor) -> torch.Tensor:
        widths.append(hidden.shape[1])
        return head(hidden)

    monkeypatch.setattr(llama.lm_head, "forward", spy)
    masked_generate(
        llama, torch.tensor([[3, 4, 5]]), mask_id=MASK, logit_shift=0, max_new_tokens=4, block_length=2, steps=4
    )
    assert widths == [2, 1, 2, 1]


def test_dream_s_form_of_the_padding_mask(bert: BertForMaskedLM) -> None:
    """Pairs of real tokens; what padding attends to does not matter."""
    seen: list[torch.Size] = []

    class Watched(BertForMaskedLM):
        def forward(self, input_ids=None, attention_mask=None, position_ids=None):
            seen.append(attention_mask.shape)
            return super().forward(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids)

    watched = Watched(bert.config).eval()
    watched.load_state_dict(bert.state_dict())
    ids, attention = padded()
    call = {"attention_mask": attention, "mask_id": MASK, "logit_shift": 0, "max_new_tokens": 4, "steps": 1}
    flat, pairs = (masked_generate(watched, ids, attention=form, **call) for form in ("2d", "4d"))
    assert torch.equal(flat, pairs) and seen == [torch.Size([3, 8]), torch.Size([3, 1, 8, 8])]


def test_infilling_needs_no_new_tokens(bert: BertForMaskedLM) -> None:
    ids = torch.tensor([[3, MASK, 5, MASK]])
    filled = masked_generate(bert, ids, mask_id=MASK, logit_shift=0)
    assert filled[0, [0, 2]].tolist() == [3, 5] and MASK not in filled[0].tolist()


def test_mask_and_shift_come_from_the_config_or_are_asked_for(bert: BertForMaskedLM) -> None:
    ids = torch.tensor([[3, MASK]])
    with pytest.raises(ValueError, match="mask_id is not known"):
        masked_generate(bert, ids, logit_shift=0)
    with pytest.raises(ValueError, match="logit_shift is not known"):
        masked_generate(bert, ids, mask_id=MASK)
    bert.config.mask_token_id, bert.config.logit_shift = MASK, 0
    try:
        stated = masked_generate(bert, ids)
    finally:
        del bert.config.mask_token_id, bert.config.logit_shift
    assert torch.equal(stated, masked_generate(bert, ids, mask_id=MASK, logit_shift=0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to fill"),
        ({"max_new_tokens": 2, "logit_shift": 2}, "logit_shift must be 0 or 1"),
        ({"max_new_tokens": 2, "attention": "3d"}, "unknown attention '3d'"),
        ({"max_new_tokens": 2, "seed": 1, "keys": [(1,)]}, "seed or keys"),
        ({"max_new_tokens": 2, "temperature": 1.0}, "noise key"),
    ],
)
def test_wrong_calls_are_refused(bert: BertForMaskedLM, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        masked_generate(bert, torch.tensor([[3]]), **({"mask_id": MASK, "logit_shift": 0} | options))


def modernbert(layers: int) -> ModernBertForMaskedLM:
    """Full and local attention in turn; the window is narrower than the canvas."""
    torch.manual_seed(0)
    config = ModernBertConfig(
        **{**SIZES, "num_hidden_layers": layers},
        num_attention_heads=2,
        max_position_embeddings=32,
        local_attention=8,
        initializer_range=0.4,
        layer_types=["sliding_attention", "full_attention"][:layers],
        **{f"{name}_token_id": 0 for name in ("pad", "bos", "eos", "cls", "sep")},
    )
    return ModernBertForMaskedLM(config).eval()


def both(model: PreTrainedModel, cache: str, **options: Any) -> tuple[MaskedRollout, MaskedRollout]:
    """Decoded with and without a cache: prompts of unequal lengths, blocks, rows that end at different times."""
    ids, attention = padded()
    call = {
        **{"mask_id": MASK, "logit_shift": 0, "max_new_tokens": 8, "block_length": 4, "steps": 6, "eos_ids": (7,)},
        **{
            "attention_mask": attention,
            "return_rollout": True,
            "keys": [(1, row) for row in range(3)],
            "record": False,
        },
        **options,
    }
    extra = {"cache": cache, "refresh": call.pop("refresh", None)}
    return masked_generate(model, ids, **call), masked_generate(model, ids, **call, **extra)


@pytest.mark.parametrize("cache", ["prefix", "dual"])
@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}, {"threshold": 0.3, "steps": None}], ids=str)
def test_a_cache_is_exact_where_nothing_kept_hears_the_block(
    llama: LlamaForCausalLM, cache: str, options: dict[str, Any]
) -> None:
    """Causal models of any depth, and models of one layer; step by step, with the shift too."""
    for model, shift in ((llama, 1), (llama, 0), (modernbert(1), 0)):
        before = model.config._attn_implementation
        plain, kept = both(model, cache, logit_shift=shift, **options)
        assert torch.equal(plain.ids, kept.ids) and torch.equal(plain.step, kept.step)
        torch.testing.assert_close(plain.confidence, kept.confidence, rtol=1e-4, atol=1e-5)
        assert model.config._attn_implementation == before


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_a_cache_of_a_deep_bidirectional_model_is_exact_only_as_often_as_it_is_renewed(cache: str) -> None:
    deep = modernbert(2)
    for options in ({"refresh": 1}, {"steps": 2}):  # renewed in each step, or one step per block
        plain, kept = both(deep, cache, **options)
        assert torch.equal(plain.ids, kept.ids)
        torch.testing.assert_close(plain.confidence, kept.confidence, rtol=1e-4, atol=1e-5)
    plain, kept = both(deep, cache, eos_ids=(), steps=8)
    assert (plain.confidence - kept.confidence).abs().max() > 1e-3
    first = (plain.step == 0) | (plain.step == 4)
    same = first & (kept.step == plain.step) & (plain.step == 0)
    assert same.any() and torch.allclose(plain.confidence[same], kept.confidence[same], atol=1e-5)


def test_a_cached_step_computes_the_block_alone(bert: BertForMaskedLM, monkeypatch: pytest.MonkeyPatch) -> None:
    widths: list[int] = []
    embed = bert.bert.embeddings.forward

    def spy(input_ids: torch.Tensor, **rest: Any) -> torch.Tensor:
        widths.append(input_ids.shape[1])
        return embed(input_ids=input_ids, **rest)

    monkeypatch.setattr(bert.bert.embeddings, "forward", spy)
    call = {"mask_id": MASK, "logit_shift": 0, "max_new_tokens": 4, "block_length": 2, "steps": 4}
    masked_generate(bert, torch.tensor([[3, 4, 5]]), cache="dual", **call)
    assert widths == [7, 2, 7, 2]
    widths.clear()
    masked_generate(bert, torch.tensor([[3, 4, 5]]), cache="prefix", **call)
    assert widths == [7, 4, 7, 2]
    widths.clear()
    masked_generate(bert, torch.tensor([[3, 4, 5]]), cache="dual", remasking="rcr", **call | {"block_length": None})
    assert widths == [7, 4, 4, 4]


def test_models_without_the_library_s_attention_have_no_cache(bert: BertForMaskedLM) -> None:
    class Own(BertForMaskedLM):
        def forward(self, input_ids=None, position_ids=None):
            return MaskedLMOutput(logits=torch.zeros(*input_ids.shape, VOCABULARY))

    call = {"mask_id": MASK, "logit_shift": 0, "max_new_tokens": 2}
    with pytest.raises(ValueError, match="do not use the library's attention"):
        masked_generate(Own(bert.config), torch.tensor([[3]]), cache="dual", **call)
    for options, message in (
        ({"cache": "duall"}, "did you mean 'dual'"),
        ({"cache": "dual", "refresh": 0}, "refresh must be at least 1"),
        ({"refresh": 2}, "refresh belongs to a cache"),
    ):
        with pytest.raises(ValueError, match=message):
            masked_generate(bert, torch.tensor([[3]]), **options, **call)
