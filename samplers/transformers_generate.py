"""Unmasking with models of the transformers library: ``masked_generate(model, ids, ...)``.

Also the decoding loop of ``model.generate(ids, custom_generate=masked_generate, ...)`` where the class has generate.
What differs between models is said by the caller or by the model's config, and never guessed: the mask id, and by how
many columns logits are shifted.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import fields
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AttentionInterface, GenerationConfig, PreTrainedModel

from samplers.masked import Decoding, MaskedRollout, sample_masked
from samplers.masked_cache import CachePart, KeyValueCache
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
        columns = _columns_read(rows, columns, attention_mask, logit_shift)
        extra: dict[str, Tensor] = {}
        if not bool(attention_mask.all()):
            extra["attention_mask"] = ATTENTIONS[attention](attention_mask)
            if "position_ids" in takes:
                extra["position_ids"] = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
        if "logits_to_keep" in takes:
            extra["logits_to_keep"], columns = columns.unique(return_inverse=True)
        return model(input_ids=ids, **extra).logits[rows, columns]

    return logits_fn


def _columns_read(rows: Tensor, columns: Tensor, attention_mask: Tensor, shift: int) -> Tensor:
    """Where the logits of tokens sit; a row's first token has none before it, and its own column stands in."""
    before = (columns - shift).clamp(min=0)
    return torch.where(attention_mask[rows, before], before, columns)


@contextmanager
def cached_logits(
    model: PreTrainedModel, cache: KeyValueCache, *, logit_shift: int
) -> Iterator[Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]]:
    """The same with keys and values kept between steps; inside, the model's attention goes through the cache.

    It fits models whose layers call the attention interface of transformers, and whose forward takes ``position_ids``:
    BERT, ModernBERT, and decoders of the library. Code that comes with a checkpoint (LLaDA, Dream) calls torch itself.

    Args:
        model: as in `transformers_logits`.
        cache: a new one per decoding.
        logit_shift: as in `transformers_logits`.

    Yields:
        Callable: (ids [n, L], positions bool [n, L], attention_mask bool [n, L], rows [n]) -> [k, V].

    Raises:
        ValueError: the model does not fit, or logit_shift is not 0 or 1.
    """
    takes = set(inspect.signature(model.forward).parameters)
    if "position_ids" not in takes:
        raise ValueError(f"{type(model).__name__} takes no position_ids, so that columns cannot be computed alone")
    if logit_shift not in (0, 1):
        raise ValueError(f"logit_shift must be 0 or 1, got {logit_shift!r}")
    AttentionInterface.register(CACHED, _attend)
    before = model.config._attn_implementation
    model.set_attn_implementation(CACHED)
    try:
        yield lambda ids, positions, attention_mask, rows: _cached_step(
            model, cache, logit_shift, "logits_to_keep" in takes, ids, positions, attention_mask, rows
        )
    finally:
        model.set_attn_implementation(before)


CACHED = "flowgrpo_key_value_cache"
"""Name of the attention in the library's interface."""
_OPEN: list[KeyValueCache] = []
"""Cache of the forward that is running: the interface has no argument for it."""


def _cached_step(
    model: PreTrainedModel,
    cache: KeyValueCache,
    shift: int,
    keeps: bool,
    ids: Tensor,
    positions: Tensor,
    attention_mask: Tensor,
    rows: Tensor,
) -> Tensor:
    """Logits [k, V] of wanted tokens, from one or two forwards."""
    which, columns = positions.nonzero(as_tuple=True)
    columns = _columns_read(which, columns, attention_mask, shift)
    read = torch.zeros_like(positions).index_put((which, columns), positions.new_ones(()))
    places = attention_mask.long().cumsum(-1).sub(1).clamp(min=0)
    logits: Tensor | None = None
    for index, part in cache.parts(ids, read, attention_mask, rows):
        here = torch.isin(which, index)
        order = torch.zeros(len(ids), dtype=torch.int64, device=ids.device)
        order[index] = torch.arange(len(index), device=ids.device)
        slots = part.slots(order[which[here]], columns[here])
        at = places[index].gather(1, part.columns.clamp(max=ids.shape[1] - 1))
        extra: dict[str, Any] = {"logits_to_keep": slots.unique()} if keeps else {}
        slots = torch.searchsorted(extra["logits_to_keep"], slots) if keeps else slots
        own = _forward(model, cache, part, position_ids=at, **extra)[order[which[here]], slots]
        logits = own.new_empty(len(which), own.shape[1]) if logits is None else logits
        logits[here] = own
    if logits is None:
        raise ValueError("no position is wanted")
    return logits


def _forward(model: PreTrainedModel, cache: KeyValueCache, part: CachePart, **extra: Any) -> Tensor:
    cache.open(part)
    _OPEN.append(cache)
    try:
        logits = model(input_ids=part.ids, **extra).logits
    finally:
        _OPEN.pop()
        cache.open(None)
    if not cache.was_used:
        raise ValueError(f"the layers of {type(model).__name__} do not use the library's attention: no cache for them")
    return logits


def _attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """As the library calls an attention; the mask is the cache's own."""
    causal = bool(getattr(module, "is_causal", False) if is_causal is None else is_causal)
    out = _OPEN[-1].attend(module, query, key, value, scale=scaling, window=sliding_window, causal=causal)
    return out.transpose(1, 2).contiguous(), None


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
    cache: str | None = None,
    refresh: int | None = None,
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
        cache: ``"prefix"`` or ``"dual"``: keep keys and values between the steps of a block, where the model supports
            it; exact for some models and an approximation for others, see `masked_cache`. None computes all columns.
        refresh: with a cache, steps after which all columns are computed again.
        return_rollout: return all that is known of the decoding instead of the ids.
        generation_config: given by ``generate``; max_new_tokens and return_dict_in_generate (a rollout, whose
            ``sequences`` are the ids) are read.
        **options: fields of `Decoding`, such as steps, block_length, order, temperature, eos_ids. What ``generate``
            itself passes on (caches, processors, stopping criteria) has no meaning here and is ignored.

    Returns:
        Tensor: ids [B, P + max_new_tokens]; or the rollout.

    Raises:
        ValueError: mask id or shift neither given nor in the config, both seed and keys, nothing to fill, a cache that
            the model does not support, or what `sample_masked` refuses.
    """
    mask_id = _stated(model, mask_id, "mask_id", "mask_token_id", "the id of the mask token")
    shift = _stated(model, logit_shift, "logit_shift", "logit_shift", "0 (LLaDA, BERT) or 1 (Dream, DiffuCoder)")
    if seed is not None and keys is not None:
        raise ValueError("give seed or keys, not both")
    if max_new_tokens is None:
        max_new_tokens = getattr(generation_config, "max_new_tokens", None) or 0
    canvas, attended = _canvas(input_ids.to(model.device), attention_mask, mask_id, max_new_tokens)
    options = {name: value for name, value in options.items() if name not in FROM_GENERATE}
    with _logits_of(model, shift, attention, cache, refresh) as logits_fn:
        rollout = sample_masked(
            logits_fn,
            canvas,
            decoding,
            mask_id=mask_id,
            keys=keys if seed is None else [(seed, row) for row in range(len(canvas))],
            attention_mask=attended,
            record=record,
            **options,
        )
    whole = return_rollout or bool(getattr(generation_config, "return_dict_in_generate", False))
    return rollout if whole else rollout.ids


def _logits_of(
    model: PreTrainedModel, shift: int, attention: Attention, cache: str | None, refresh: int | None
) -> AbstractContextManager[Callable[..., Tensor]]:
    if cache is not None:
        return cached_logits(model, KeyValueCache(cache, refresh), logit_shift=shift)
    if refresh is not None:
        raise ValueError("refresh belongs to a cache: give cache='prefix' or 'dual'")
    return nullcontext(transformers_logits(model, logit_shift=shift, attention=attention))


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
