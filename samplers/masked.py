"""The unmasking loop of masked-diffusion language models: one loop, in which every choice is a function.

A canvas of token ids [B, L] holds given tokens and masks. Each step asks the model, guesses a token for every mask in
scope, and reveals the best guesses; the schedule, the order and the remasking say how many, which, and what is taken
back. Rows are independent: schedules, blocks, noise and the end of a row depend on that row alone, and a row that is
finished is not asked again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from samplers.masked_decoding import Decoding
from samplers.masked_ends import Ends, answer_lengths, has_ended, is_one_of, padding
from samplers.masked_logits import Asker, LogitsFn, ask, asker
from samplers.masked_remasking import UnmaskingStep, resolve_remasking, reveal_count
from samplers.masked_schedules import Turn, resolve_schedule, row_turns, transfer_schedule
from samplers.masked_tokens import DRAWS, Guesses, Reader, UniformNoise, keyed_uniform, read, resolve_order

__all__ = ["Decoding", "MaskedRollout", "masked_canvas", "sample_masked", "transfer_schedule"]

TOKEN, ORDER, SCHEDULE = range(3)
"""Purpose of a draw: the last but one entry of its key, before the row's step."""


@dataclass(frozen=True, slots=True)
class MaskedRollout:
    """What an unmasking loop wrote, and what training needs to look at it again.

    Attributes:
        ids: final canvas, int64 [B, L]; given tokens are unchanged.
        generated: positions that were masks at the start, bool [B, L].
        lengths: generated tokens up to and including the first end token, all where there is none [B].
        step: the row's step in which each generated position got its final token, int64 [B, L]; -1 at given tokens
            and where an early stop filled in padding.
        confidence: the order's confidence in that token, at least float32 [B, L]; 0 where ``step`` is -1.
        steps: steps that each row took [B].
        forwards: canvases of each row that the model saw [B]; guidance shows two per step.
        canvases: canvas before each step, int64 [B, K, L], K the most steps of any row, final canvas from a row's end
            on; None unless recorded.
        guesses: the canvas with all masks filled by that step's guesses, int64 [B, K, L]; None unless recorded.
        confidences: confidence of these guesses at the masks of ``canvases``, 0 elsewhere [B, K, L]; None likewise.
    """

    ids: Tensor
    generated: Tensor
    lengths: Tensor
    step: Tensor
    confidence: Tensor
    steps: Tensor
    forwards: Tensor
    canvases: Tensor | None = None
    guesses: Tensor | None = None
    confidences: Tensor | None = None

    @property
    def sequences(self) -> Tensor:
        """``ids``, by the name that outputs of transformers and of diffusers' text pipelines have."""
        return self.ids


@dataclass(frozen=True, slots=True)
class _Run:
    """What stays the same through a rollout."""

    asker: Asker
    decoding: Decoding
    reader: Reader
    ends: Ends
    mask_id: int
    keys: tuple[tuple[int, ...], ...]
    uniform: UniformNoise
    generated: Tensor
    attention: Tensor
    turns: tuple[tuple[Turn, ...], ...]
    record: bool


@dataclass(frozen=True, slots=True)
class _State:
    """Canvas [B, L]; step, confidence and the remasking's memory of what was written last to each position [B, L];
    next turn and steps taken of each row."""

    ids: Tensor
    step: Tensor
    confidence: Tensor
    memory: Tensor
    cursor: tuple[int, ...]
    taken: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Trace:
    """One step of the live rows: who they are, their canvas, and guesses and confidences [n, L] at its masks."""

    rows: tuple[int, ...]
    taken: tuple[int, ...]
    ids: Tensor
    guesses: Tensor
    confidence: Tensor


@torch.no_grad()
def sample_masked(
    logits_fn: LogitsFn,
    ids: Tensor,
    decoding: Decoding | None = None,
    *,
    mask_id: int,
    keys: Sequence[tuple[int, ...]] | None = None,
    attention_mask: Tensor | None = None,
    uniform: UniformNoise = keyed_uniform,
    record: bool = False,
    **options: Any,
) -> MaskedRollout:
    """Fill the masks of a canvas.

    Args:
        logits_fn: logits_fn(ids [n, L]) -> logits [n, L, V] of the token *at* each position (undo a model's shift
            first). Where it takes a second argument it is given the wanted positions, bool [n, L], and returns theirs
            alone, [k, V]; parameters named ``attention_mask`` and ``rows`` are given as well.
        ids: canvas, int64 [B, L]: masks anywhere, so completion and infilling are one thing.
        decoding: how to decode; defaults as in `Decoding`.
        mask_id: id of the mask token; it is never drawn.
        keys: one noise key per row, needed where anything is random. All noise of a row is a function of its key and
            its own step, so it does not depend on the batch that the row is in.
        attention_mask: bool or 0/1 [B, L], False at padding, which is never filled. None: no padding.
        uniform: the noise: uniform(key, shape) -> float64 in [0, 1).
        record: keep every canvas and every guess. Guesses then also cover masks beyond the current block; what is
            written does not change.
        **options: fields of `Decoding`, replacing those of ``decoding``.

    Returns:
        MaskedRollout: on the device of ``ids``.

    Raises:
        ValueError: unknown option or name, arguments that contradict each other, missing keys, padding that the model
            would not hear of, or logits that are not finite.
    """
    decoding = Decoding.of(decoding, **options)
    attention = _attention(ids, attention_mask)
    ids = ids.long()
    run = _prepare(asker(logits_fn), decoding, ids, attention, mask_id, keys, uniform, record)
    zeros = torch.zeros(ids.shape, dtype=torch.float32, device=ids.device)
    none = (0,) * len(ids)
    state = _State(ids.clone(), torch.full_like(ids, -1), zeros, zeros + math.inf, none, none)
    traces: list[_Trace] = []
    while live := tuple(row for row, turns in enumerate(run.turns) if state.cursor[row] < len(turns)):
        state, trace = _advance(run, state, live)
        if record:
            traces.append(trace)
    return _rollout(run, state, traces)


def masked_canvas(prompts: Sequence[Sequence[int]], length: int, *, mask_id: int, pad_id: int) -> tuple[Tensor, Tensor]:
    """Prompts of any lengths, padded on the left and followed by masks.

    Args:
        prompts: token ids of each row.
        length: number of masks after each prompt, at least 1.
        mask_id: id of the mask token.
        pad_id: id that fills the left.

    Returns:
        tuple: ids int64 [B, L] and attention mask bool [B, L], for `sample_masked`.

    Raises:
        ValueError: no prompt, or length < 1.
    """
    if not prompts or length < 1:
        raise ValueError(f"need at least one prompt and one mask, got {len(prompts)} prompts and length {length}")
    widest = max(len(prompt) for prompt in prompts)
    rows = [[pad_id] * (widest - len(prompt)) + [*prompt] + [mask_id] * length for prompt in prompts]
    ids = torch.tensor(rows, dtype=torch.int64)
    padding = torch.tensor([widest - len(prompt) for prompt in prompts])
    return ids, torch.arange(ids.shape[1]) >= padding.unsqueeze(1)


def _attention(ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    if ids.ndim != 2 or ids.is_floating_point() or ids.is_complex():
        raise ValueError(f"ids must be integers of shape [B, L], got {ids.dtype} of shape {tuple(ids.shape)}")
    if attention_mask is None:
        return torch.ones_like(ids, dtype=torch.bool)
    if attention_mask.shape != ids.shape:
        shapes = f"{tuple(attention_mask.shape)} and {tuple(ids.shape)}"
        raise ValueError(f"attention_mask and ids must have one shape, got {shapes}")
    return attention_mask.to(ids.device).bool()


def _prepare(
    asker: Asker,
    decoding: Decoding,
    ids: Tensor,
    attention: Tensor,
    mask_id: int,
    keys: Sequence[tuple[int, ...]] | None,
    uniform: UniformNoise,
    record: bool,
) -> _Run:
    """Check what the arguments say together, and lay out every row's steps."""
    if not bool(attention.all()) and "attention_mask" not in asker.named:
        raise ValueError("the canvas has padding, but the logits function takes no attention_mask")
    if keys is None and decoding.is_random:
        raise ValueError("decoding is random (temperature, order or schedule): give one noise key per row as keys=")
    if keys is not None and len(keys) != len(ids):
        raise ValueError(f"need one noise key per row, got {len(keys)} keys for {len(ids)} rows")
    named = tuple(keys) if keys is not None else tuple((row,) for row in range(len(ids)))
    generated = (ids == mask_id) & attention
    columns: list[list[int]] = [[] for _ in range(len(ids))]
    for row, column in generated.nonzero().tolist():
        columns[row].append(column)
    turns = tuple(_turns(decoding, masked, key, uniform) for masked, key in zip(columns, named, strict=True))
    reader, ends = _reader(decoding, mask_id, ids.device), Ends(decoding.eos_ids, decoding.pad_ids)
    return _Run(asker, decoding, reader, ends, mask_id, named, uniform, generated, attention, turns, record)


def _turns(decoding: Decoding, masked: list[int], key: tuple[int, ...], uniform: UniformNoise) -> tuple[Turn, ...]:
    return row_turns(
        masked,
        block_length=decoding.block_length,
        steps=decoding.steps,
        schedule=resolve_schedule(decoding.schedule),
        uniforms=lambda step, count: uniform((*key, SCHEDULE, step), (count,)),
        idle=not decoding.skip_idle or decoding.revises,
    )


def _reader(decoding: Decoding, mask_id: int, device: torch.device) -> Reader:
    forbidden = torch.tensor(sorted({mask_id, *decoding.forbidden_ids}), dtype=torch.int64, device=device)
    return Reader(
        resolve_order(decoding.order),
        DRAWS[decoding.draw],
        decoding.temperature,
        decoding.top_k,
        decoding.top_p,
        forbidden,
        decoding.entropy_bound is not None,
    )


def _advance(run: _Run, state: _State, live: tuple[int, ...]) -> tuple[_State, _Trace]:
    """One step of every live row."""
    rows = torch.tensor(live, device=state.ids.device)
    turns = [run.turns[row][state.cursor[row]] for row in live]
    taken = tuple(state.taken[row] for row in live)
    ids, generated = state.ids[rows], run.generated[rows]
    masks = generated & (ids == run.mask_id)
    start, stop, quota, left = torch.tensor([(t.start, t.stop, t.quota, t.left) for t in turns], device=ids.device).T
    scope = masks & (torch.arange(ids.shape[1], device=ids.device) < stop.unsqueeze(1))
    tokens, confidence, entropy = _guess(run, ids, masks if run.record else scope, live, taken)
    ranked = _late(run.decoding, tokens, confidence)
    count = reveal_count(ranked, entropy, scope, quota, run.decoding.threshold, run.decoding.entropy_bound)
    dtype = confidence.dtype
    memory = state.memory[rows].to(dtype)
    outcome = resolve_remasking(run.decoding.remasking)(UnmaskingStep(scope, ranked, memory, start, count, left))
    written = torch.where(outcome.write, tokens, ids).masked_fill(outcome.remask, run.mask_id)
    now = torch.tensor(taken, device=ids.device).unsqueeze(1)
    step = torch.where(outcome.write, now, state.step[rows]).masked_fill(outcome.remask, -1)
    cursors = _cursors(run, state, live, turns, written)
    filled, cursors = _stop_early(run, generated, written, live, turns, cursors)
    advanced = _State(
        state.ids.index_copy(0, rows, filled),
        state.step.index_copy(0, rows, step),
        state.confidence.to(dtype).index_copy(0, rows, torch.where(outcome.write, confidence, state.confidence[rows])),
        state.memory.to(dtype).index_copy(0, rows, outcome.memory),
        _put(state.cursor, live, cursors),
        _put(state.taken, live, [steps + 1 for steps in taken]),
    )
    return advanced, _Trace(live, taken, ids, torch.where(masks, tokens, ids), confidence.masked_fill(~masks, 0))


def _guess(
    run: _Run, ids: Tensor, wanted: Tensor, live: tuple[int, ...], taken: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Token, confidence and entropy at the wanted positions, 0 elsewhere [n, L] each."""
    rows = torch.tensor(live, device=ids.device)
    context = {"attention_mask": run.attention[rows], "rows": rows}
    given = ~run.generated[rows]
    guidance = run.decoding.guidance
    logits = ask(run.asker, ids, wanted, given=given, mask_id=run.mask_id, guidance=guidance, context=context)

    def noise(purpose: int, row: int, shape: Sequence[int]) -> Tensor:
        return run.uniform((*run.keys[live[row]], purpose, taken[row]), shape)

    guesses = read(
        run.reader,
        logits,
        wanted.sum(-1).tolist(),
        lambda row, shape: noise(TOKEN, row, shape),
        lambda row, shape: noise(ORDER, row, shape),
    )
    if not bool(guesses.confidence.isfinite().all()):
        where = wanted.nonzero()[(~guesses.confidence.isfinite()).nonzero()[0, 0]].tolist()
        raise ValueError(f"confidence is not finite at row {live[where[0]]}, column {where[1]}: check the logits")
    return _spread(guesses, wanted)


def _spread(guesses: Guesses, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    def on_canvas(values: Tensor) -> Tensor:
        return torch.zeros(wanted.shape, dtype=values.dtype, device=values.device).masked_scatter(wanted, values)

    return on_canvas(guesses.tokens), on_canvas(guesses.confidence), on_canvas(guesses.entropy)


def _late(decoding: Decoding, tokens: Tensor, confidence: Tensor) -> Tensor:
    """Confidence with the guesses of ``late_ids`` below all others."""
    if not decoding.late_ids:
        return confidence
    return confidence.masked_fill(is_one_of(tokens, decoding.late_ids), torch.finfo(confidence.dtype).min)


def _cursors(run: _Run, state: _State, live: tuple[int, ...], turns: Sequence[Turn], ids: Tensor) -> tuple[int, ...]:
    """Next turn of each row: the following one, or the next block's first where this block has no mask any more."""
    stops = torch.tensor([turn.stop for turn in turns], device=ids.device).unsqueeze(1)
    inside = torch.arange(ids.shape[1], device=ids.device) < stops
    generated = run.generated[torch.tensor(live, device=ids.device)]
    clean = ~(generated & inside & (ids == run.mask_id)).any(-1)
    following = []
    for row, turn, done in zip(live, turns, clean.tolist(), strict=True):
        cursor = state.cursor[row] + 1
        while done and cursor < len(run.turns[row]) and run.turns[row][cursor].stop == turn.stop:
            cursor += 1
        following.append(cursor)
    return tuple(following)


def _stop_early(
    run: _Run,
    generated: Tensor,
    ids: Tensor,
    live: tuple[int, ...],
    turns: Sequence[Turn],
    cursors: tuple[int, ...],
) -> tuple[Tensor, tuple[int, ...]]:
    """Rows whose answer has ended are filled with padding and take no further turn."""
    if not run.ends.tokens:
        return ids, cursors
    masks = generated & (ids == run.mask_id)
    ended = has_ended(run.ends, ids, generated, masks).tolist()
    if run.decoding.revises:  # earlier tokens may still change until the block is done
        upcoming = [(*run.turns[row], None)[cursor] for row, cursor in zip(live, cursors, strict=True)]
        settled = [after is None or after.stop != turn.stop for after, turn in zip(upcoming, turns, strict=True)]
        ended = [over and done for over, done in zip(ended, settled, strict=True)]
    over = masks & torch.tensor(ended, device=ids.device).unsqueeze(1)
    stopped = (len(run.turns[row]) if done else cursor for row, cursor, done in zip(live, cursors, ended, strict=True))
    return torch.where(over, padding(run.ends, ids, generated), ids), tuple(stopped)


def _put(values: tuple[int, ...], rows: Sequence[int], new: Sequence[int]) -> tuple[int, ...]:
    changed = dict(zip(rows, new, strict=True))
    return tuple(changed.get(row, value) for row, value in enumerate(values))


def _rollout(run: _Run, state: _State, traces: Sequence[_Trace]) -> MaskedRollout:
    steps = torch.tensor(state.taken, device=state.ids.device)
    rollout = MaskedRollout(
        ids=state.ids,
        generated=run.generated,
        lengths=answer_lengths(run.ends, state.ids, run.generated),
        step=state.step,
        confidence=state.confidence.masked_fill(state.step < 0, 0),
        steps=steps,
        forwards=steps * (1 if run.decoding.guidance == 0 else 2),
    )
    return replace(rollout, **_recorded(state, traces)) if run.record else rollout


def _recorded(state: _State, traces: Sequence[_Trace]) -> dict[str, Tensor]:
    """Traces as tensors [B, K, L]; a row that has ended repeats its final canvas."""
    most = max(state.taken, default=0)
    canvases = state.ids.unsqueeze(1).repeat(1, most, 1)
    guesses = canvases.clone()
    confidences = torch.zeros(canvases.shape, dtype=state.confidence.dtype, device=canvases.device)
    for trace in traces:
        where = torch.tensor(trace.rows), torch.tensor(trace.taken)
        canvases[where], guesses[where], confidences[where] = trace.ids, trace.guesses, trace.confidence
    return {"canvases": canvases, "guesses": guesses, "confidences": confidences}
