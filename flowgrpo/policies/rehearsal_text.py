"""Text encoders of published size without their weights, for the pipelines' own `encode_prompt`.

The vocabularies of tokenizers are no numbers, and are not in the repository. One that takes every word, mark and line
break for a token stands in for each of them, so how many tokens a text has is the stand-in's, and to which length it
is padded or cut is the pipeline's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.nn import Module

ENCODERS = Path(__file__).parent / "real_encoders.json"
SPECIAL = ("<pad>", "<end>", "<word>", "<|im_start|>", "<|im_end|>")
CHAT = (
    "{% for said in messages %}<|im_start|>{{ said.role }}\n{{ said.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML, as the language models among the encoders have it."""
UNBOUNDED = 1_000_000


def read_encoder(name: str) -> dict[str, Any]:
    """One text encoder: the numbers of its published config, and its published number of parameters."""
    return dict(json.loads(ENCODERS.read_text(encoding="utf-8"))[name])


def make_encoder(kind: str, name: str) -> Module:
    """An encoder of a class of transformers, with random weights where tensors have values."""
    import transformers

    made = getattr(transformers, kind)
    encoder: Module = made(made.config_class(**read_encoder(name)["config"]))
    return encoder.requires_grad_(False).eval()


def text_parts(real: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Encoders in `dtype` and tokenizers of a model, by component; to be called inside `fake_tensors`."""
    parts: dict[str, Any] = {}
    for component, (kind, name) in real["encoders"].items():
        parts[component] = make_encoder(kind, name).to(dtype)
        longest = read_encoder(name)["config"]["max_position_embeddings"] if kind.startswith("CLIP") else UNBOUNDED
        with unset_fake_temporarily():
            parts[component.replace("text_encoder", "tokenizer")] = words_tokenizer(longest)
    return parts


def words_tokenizer(longest: int = UNBOUNDED) -> Any:
    """A tokenizer of transformers with one token per word, mark and line break, and one at the end of a text."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: number for number, token in enumerate(SPECIAL)}
    own = Tokenizer(models.WordLevel(vocabulary, unk_token="<word>"))
    own.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    blanks, tokens = Regex(r"[^\S\n]+"), Regex(r"\n|\w+|[^\w\s]")
    own.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(blanks, "removed"), pre_tokenizers.Split(tokens, "isolated")]
    )
    own.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=own,
        pad_token="<pad>",
        eos_token="<end>",
        unk_token="<word>",
        model_max_length=longest,
        padding_side="right",
        chat_template=CHAT,
    )


def longest_prompt(real: Mapping[str, Any]) -> str:
    """A prompt that fills the text that a model reads."""
    return " ".join(["word"] * int(real["max_sequence_length"]))
