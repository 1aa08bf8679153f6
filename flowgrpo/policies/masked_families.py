"""Masked language models that the policy knows, as literal data. Torch-free: `flowgrpo check` reads it.

A family is known by `model_type` in the model's config.json. What its checkpoints have in common is stated here, so
that a recipe that says otherwise is refused; what differs between them (mask id, ends, template) the recipe states.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowgrpo.errors import did_you_mean

if TYPE_CHECKING:
    from flowgrpo.recipe import Model


@dataclass(frozen=True, slots=True)
class MaskedFamily:
    """One `model_type`.

    Attributes:
        loader: class of transformers that loads it.
        logit_shift: columns between a token and its logits.
        padding_mask: form of the padding mask that it takes.
        lora_targets: endings of the linear layers that get an adapter where the recipe names none.
        remote: whether its code comes with the checkpoint.
    """

    loader: str
    logit_shift: int
    padding_mask: str
    lora_targets: tuple[str, ...]
    remote: bool = False


FAMILIES: dict[str, MaskedFamily] = {
    "llada": MaskedFamily(
        "AutoModel", 0, "2d", ("q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj"), remote=True
    ),
    # DiffuCoder's checkpoints are Dream's class.
    "Dream": MaskedFamily(
        "AutoModel",
        1,
        "4d",
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        remote=True,
    ),
    "bert": MaskedFamily("AutoModelForMaskedLM", 0, "2d", ("query", "key", "value")),
    "modernbert": MaskedFamily("AutoModelForMaskedLM", 0, "2d", ("Wqkv", "Wo")),
}

STATED: dict[str, str] = {
    "mask_id": "the id of its mask token",
    "logit_shift": "0 where a logit sits at its token (LLaDA, BERT), 1 where it sits one before (Dream, DiffuCoder)",
    "padding_mask": "2d (LLaDA, BERT, ModernBERT) or 4d (Dream, DiffuCoder)",
    "eos_ids": "the ids that end an answer",
    "chat_template": "true where prompts go through the tokenizer's chat template, false for raw text",
}
"""Keys of `model` that a recipe of a masked language model must state, and what they are."""
CONFIG_KEYS = {"mask_id": "mask_token_id", "logit_shift": "logit_shift"}
"""Keys of `model` that a model's own config.json may state too."""


def unstated(model: Model) -> Iterator[tuple[str, str]]:
    """(key, sentence) for each property that the recipe leaves open."""
    for key, meaning in STATED.items():
        if getattr(model, key) in (None, ()):
            yield key, f"must be stated for a masked language model, it is never guessed: {meaning}"


def contradictions(model: Model, config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, sentence) for each property in which the recipe and the model's config.json or family disagree."""
    kind = str(config.get("model_type"))
    if kind not in FAMILIES:
        hint = did_you_mean(kind, FAMILIES)
        yield "path", f"{model.path!r} is a {kind!r} model; masked language models are {', '.join(FAMILIES)}{hint}"
        return
    family = FAMILIES[kind]
    for key in ("logit_shift", "padding_mask"):
        given, right = getattr(model, key), getattr(family, key)
        if given is not None and given != right:
            yield key, f"{given} does not fit: models of type {kind} have {right}"
    for key, name in CONFIG_KEYS.items():
        given, right = getattr(model, key), config.get(name)
        if given is not None and right is not None and given != right:
            yield key, f"{given} contradicts the model's config.json, whose {name} is {right}"
    size = config.get("vocab_size")
    for key, ids in (("mask_id", (model.mask_id,)), ("eos_ids", model.eos_ids), ("pad_ids", model.pad_ids)):
        beyond = [i for i in ids if i is not None and size is not None and i >= size]
        if beyond:
            yield key, f"{beyond[0]} is no id of this model, whose vocabulary has {size}"
    if model.mask_id is not None and model.mask_id in (*model.eos_ids, *model.pad_ids):
        yield "mask_id", f"{model.mask_id} is listed as an end or padding token too"
    if "auto_map" in config and family.remote and not model.trust_remote_code:
        why = "this model brings its own code, which runs only when the recipe sets model.trust_remote_code to true"
        yield "trust_remote_code", why
