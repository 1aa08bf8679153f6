"""Unmasking with models of the transformers library: ``masked_generate(model, ids, ...)``.

Also the decoding loop of ``model.generate(ids, custom_generate=masked_generate, ...)`` where the class has generate.
What differs between models is said by the caller or by the model's config, and never guessed: the mask id, and by how
many columns logits are shifted.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from samplers.masked import Decoding, MaskedRollout, sample_masked
from samplers.plans import unknown_name

Attention = Literal["2d", "4d"]

ATTENTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "2d": lambda mask: mask.long(),
    "4d": lambda mask: (mask.unsqueeze(1) & mask.unsqueeze(2)).unsqueeze(1),
}
"""Forms of a padding mask bool [n, L]: ids' own shape (LLaDA, BERT), or bool [n, 1, L, L] pairs (Dream)."""

FROM_GENERATE = frozenset(
    {
        *("cache_position", "logits_processor", "logits_to_keep", "past_key_values", "position_ids"),
        *("stopping_criteria", "streamer", "synced_gpus", "token_type_ids", "use_cache"),
    }
)
"""What ``generate`` hands to every decoding loop and this one has no use for: each step sees the whole canvas."""


def transformers_logits(
    model: PreTrainedModel, *, logit_shift: int, attention: Attention = "2d"
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The logits of wanted tokens, for `sample_masked`.

    A model whose forward takes ``logits_to_keep`` computes logits only in columns that some row wants. Padding is
    passed on as a mask, and as position ids that count from each row's first token where forward takes them; without
    padding neither is passed. Position ids are those of rotary and BERT-like models, from 0.

    Args:
        model: forward(input_ids, ...) with an output that has ``logits`` [n, L, V].
        logit_shift: how many columns before its token a logit sits: 0 (LLaDA, MDLM, BERT) or 1 (Dream, DiffuCoder). A
            row's first token has none before it; its own column stands in.
        attention: form of the padding mask.

    Returns:
        Callable: (ids [n, L], positions bool [n, L], attention_mask bool [n, L]) -> [k, V].

    Raises:
        ValueError: logit_shift is not 0 or 1, or an unknown attention.
    """
    if logit_shift not in (0, 1):
        raise ValueError(f"logit_shift must be 0 or 1, got {logit_shift!r}")
    if attention not in ATTENTIONS:
        raise ValueError(unknown_name("attention", attention, ATTENTIONS))
    takes = set(inspect.signature(model.forward).parameters)

    def logits_fn(ids: Tensor, positions: Tensor, attention_mask: Tensor) -> Tensor:
        rows, columns = positions.nonzero(as_tuple=True)
        before = (columns - logit_shift).clamp(min=0)
        columns = torch.where(attention_mask[rows, before], before, columns)
        extra: dict[str, Tensor] = {}
        if not bool(attention_mask.all()):
            extra["attention_mask"] = ATTENTIONS[attention](attention_mask)
            if "position_ids" in takes:
                extra["position_ids"] = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
        if "logits_to_keep" in takes:
            extra["logits_to_keep"], columns = columns.unique(return_inverse=True)
        return model(input_ids=ids, **extra).logits[rows, columns]

    return logits_fn


def masked_generate(
    model: PreTrainedModel,
    input_ids: Tensor,
    decoding: Decoding | None = None,
    *,
    mask_id: int | None = None,
    logit_shift: int | None = None,
    max_new_tokens: int | None = None,
    attention_mask: Tensor | None = None,
    attention: Attention = "2d",
    seed: int | None = None,
    keys: Sequence[tuple[int, ...]] | None = None,
    record: bool = False,
    return_rollout: bool = False,
    generation_config: GenerationConfig | None = None,
    **options: Any,
) -> Tensor | MaskedRollout:
    """Complete or fill in token ids with a masked language model.

    The model should be in eval mode: dropout would be part of what it says.

    Args:
        model: a masked language model that attends in both directions; see `transformers_logits`.
        input_ids: [B, P]: prompts, padded on the left; masks in them are filled in.
        decoding: how to decode.
        mask_id: id of the mask token; None reads ``model.config.mask_token_id``.
        logit_shift: 0 or 1; None reads ``model.config.logit_shift``.
        max_new_tokens: masks to append to every row; None reads ``generation_config``, or appends none.
        attention_mask: bool or 0/1 [B, P], 0 at padding.
        attention: form of the padding mask that the model takes.
        seed: row b's noise belongs to the key (seed, b).
        keys: one noise key per row instead.
        record: as in `sample_masked`.
        return_rollout: return all that is known of the decoding instead of the ids.
        generation_config: given by ``generate``; only its max_new_tokens is read.
        **options: fields of `Decoding`, such as steps, block_length, order, temperature, eos_ids. What ``generate``
            itself passes on (caches, processors, stopping criteria) has no meaning here and is ignored.

    Returns:
        Tensor: ids [B, P + max_new_tokens]; or the rollout.

    Raises:
        ValueError: mask id or shift neither given nor in the config, both seed and keys, nothing to fill, or what
            `sample_masked` refuses.
    """
    mask_id = _stated(model, mask_id, "mask_id", "mask_token_id", "the id of the mask token")
    shift = _stated(model, logit_shift, "logit_shift", "logit_shift", "0 (LLaDA, BERT) or 1 (Dream, DiffuCoder)")
    if seed is not None and keys is not None:
        raise ValueError("give seed or keys, not both")
    if max_new_tokens is None:
        max_new_tokens = getattr(generation_config, "max_new_tokens", None) or 0
    canvas, attended = _canvas(input_ids.to(model.device), attention_mask, mask_id, max_new_tokens)
    options = {name: value for name, value in options.items() if name not in FROM_GENERATE}
    rollout = sample_masked(
        transformers_logits(model, logit_shift=shift, attention=attention),
        canvas,
        decoding,
        mask_id=mask_id,
        keys=keys if seed is None else [(seed, row) for row in range(len(canvas))],
        attention_mask=attended,
        record=record,
        **options,
    )
    return rollout if return_rollout else rollout.ids


def _stated(model: PreTrainedModel, value: int | None, name: str, key: str, meaning: str) -> int:
    """An explicit value, from the caller or the model's config."""
    value = getattr(model.config, key, None) if value is None else value
    if value is None:
        raise ValueError(f"{name} is not known: pass {name}= ({meaning}), the model's config has no {key}")
    return value


def _canvas(ids: Tensor, attention_mask: Tensor | None, mask_id: int, length: int) -> tuple[Tensor, Tensor | None]:
    """Ids and attention mask with ``length`` masks appended."""
    if not length and not bool((ids == mask_id).any()):
        raise ValueError("nothing to fill: pass max_new_tokens, or ids that hold masks")
    canvas = torch.cat([ids, ids.new_full((len(ids), length), mask_id)], dim=1)
    if attention_mask is None:
        return canvas, None
    attended = attention_mask.to(ids.device).bool()
    return canvas, torch.cat([attended, attended.new_ones(len(ids), length)], dim=1)


def _signature() -> inspect.Signature:
    """Parameters as ``generate`` must see them.

    It keeps for a decoding loop what it finds there by name, so the fields of `Decoding` are spelled out. What it
    prepares itself and passes on under the same name must not be found.
    """
    hidden = {"attention_mask", "max_new_tokens", "options"}
    own = [p for p in inspect.signature(masked_generate).parameters.values() if p.name not in hidden]
    options = [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
        for field in fields(Decoding)
    ]
    rest = inspect.Parameter("from_generate", inspect.Parameter.VAR_KEYWORD)
    return inspect.Signature([*own, *options, rest])


masked_generate.__signature__ = _signature()  # type: ignore[attr-defined]
