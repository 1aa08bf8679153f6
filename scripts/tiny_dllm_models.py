"""The parts of tiny-dllm: a tokenizer of characters, and a small ModernBERT that fills in masks."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import ModernBertConfig, ModernBertForMaskedLM, PreTrainedTokenizerFast

PAD, BOS, EOS, MASK, UNK = SPECIAL = ("<pad>", "<bos>", "<eos>", "<mask>", "<unk>")
WORDS = ("numbers", "target", "sudoku")
"""Words of the tasks' prompts that are one token each; everything else is read by characters."""
LONGEST = 128
LAYERS, WIDTH, HEADS, INNER = 4, 128, 4, 256
INITIAL = 0.08
"""Standard deviation of new weights, about 1/sqrt(WIDTH): with the 0.02 of wide models attention is slow to form."""
THETA = 1000.0
"""Base of the rotary positions: texts have some forty tokens, not thousands."""


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Printable ASCII by characters, a few words, and the special tokens; texts begin with <bos>, nothing is lost."""
    entries = [*SPECIAL, *WORDS, "\n", *map(chr, range(32, 127))]
    ids = {entry: i for i, entry in enumerate(entries)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("|".join([*WORDS, r"[\s\S]"])), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, ids[BOS])])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        mask_token=MASK,
        unk_token=UNK,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=LONGEST,
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> ModernBertForMaskedLM:
    """A new model; every layer sees the whole text, in both directions.

    Its config says what samplers and policies must know: the ids of special tokens, that logits stand at their own
    token, and the form of the padding mask.
    """
    rope = {"rope_type": "default", "rope_theta": THETA}
    config = ModernBertConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        initializer_range=INITIAL,
        max_position_embeddings=LONGEST,
        layer_types=["full_attention"] * LAYERS,
        rope_parameters={"full_attention": dict(rope), "sliding_attention": dict(rope)},
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        cls_token_id=tokenizer.bos_token_id,
        sep_token_id=tokenizer.eos_token_id,
        mask_token_id=tokenizer.mask_token_id,
        logit_shift=0,
        attention_form="2d",
    )
    return ModernBertForMaskedLM(config)


def save(model: ModernBertForMaskedLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a folder that AutoModelForMaskedLM and AutoTokenizer read, weights in float32."""
    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
