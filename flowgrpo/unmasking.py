"""How an answer came about, step by step: which token stood where after each step, for terminals and pages."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowgrpo.masked_medium import MaskedMedium
from flowgrpo.masked_rollout import answer_lengths_of, decode, texts_of
from flowgrpo.media import load_medium
from flowgrpo.prompts import Prompt
from flowgrpo.recipe import Recipe
from flowgrpo.runfolder import write_atomically
from flowgrpo.seeding import prompt_key

MASK = "▒"
"""What a terminal shows for a mask."""
NEW, OLD = "\x1b[7m", "\x1b[0m"


@dataclass(frozen=True, slots=True)
class Unmasked:
    """One answer and its way there.

    Attributes:
        prompt: what was asked.
        seed: of its noise.
        text: the answer.
        length: its tokens, the end included.
        forwards: canvases that the model saw.
        frames: after each step, the text of every token of the canvas; None for a mask.
    """

    prompt: str
    seed: int
    text: str
    length: int
    forwards: int
    frames: tuple[tuple[str | None, ...], ...]


def unmask(
    recipe: Recipe,
    prompts: Sequence[Prompt],
    *,
    adapter: Path | None,
    seeds: Sequence[int],
    settings: Mapping[str, Any],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Unmasked]:
    """Answer every prompt with every seed, keeping each step.

    Args:
        recipe: names the model; evaluations' settings hold where nothing else is said.
        prompts: what to answer.
        adapter: trained weights, as a run leaves them; None asks the base model.
        seeds: one answer each.
        settings: decoding settings that differ.
        progress: called with (done, total).
    """
    medium: Any = load_medium(recipe, adapter=adapter)
    jobs = [(prompt.text, seed) for prompt in prompts for seed in seeds]
    size = recipe.eval.batch_size
    for first in range(0, len(jobs), size):
        batch = jobs[first : first + size]
        yield from _batch(medium, batch, medium.drawing(**settings))
        progress(first + len(batch), len(jobs))


def _batch(medium: MaskedMedium, jobs: Sequence[tuple[str, int]], drawing: Mapping[str, Any]) -> Iterator[Unmasked]:
    policy = medium.policy
    tokens = [policy.tokens(text) for text, _ in jobs]
    keys = [prompt_key(seed, text, 0) for text, seed in jobs]
    rollout, _ = decode(policy, tokens, keys, drawing, record=True)
    start = max(map(len, tokens))
    lengths, texts = answer_lengths_of(policy, rollout).tolist(), texts_of(policy, rollout.ids, start)
    if rollout.canvases is None:
        raise ValueError("the rollout was not recorded")
    for row, (text, seed) in enumerate(jobs):
        taken = int(rollout.steps[row])
        canvases = [*rollout.canvases[row, 1:taken].tolist(), rollout.ids[row].tolist()]
        frames = tuple(_frame(policy, canvas[start:]) for canvas in canvases)
        yield Unmasked(text, seed, texts[row], lengths[row], int(rollout.forwards[row]), frames)


def _frame(policy: Any, ids: Sequence[int]) -> tuple[str | None, ...]:
    pieces = policy.pieces(ids)
    return tuple(None if i == policy.mask_id else piece for i, piece in zip(ids, pieces, strict=True))


def in_terminal(answer: Unmasked, *, colour: bool) -> str:
    """The steps as lines; what a step changed is shown inverse where there is colour."""
    lines = []
    before: Sequence[str | None] = (None,) * len(answer.frames[0])
    for number, frame in enumerate(answer.frames, start=1):
        cells = [_cell(piece, piece != old and colour) for piece, old in zip(frame, before, strict=True)]
        lines.append(f"{number:4d}  {''.join(cells)}")
        before = frame
    return "\n".join(lines)


def _cell(piece: str | None, changed: bool) -> str:
    shown = MASK if piece is None else "".join(c if c.isprintable() else " " for c in piece)
    return f"{NEW}{shown}{OLD}" if changed else shown


def write_page(answers: Sequence[Unmasked], path: Path) -> None:
    """One self-contained page that plays the steps of each answer; everything in it is escaped.

    Raises:
        RunError: the file cannot be written.
    """
    cards = "\n".join(_card(answer) for answer in answers)
    write_atomically(path, PAGE.replace("@CARDS@", cards))


def _card(answer: Unmasked) -> str:
    rows = "\n".join(
        f'<li style="--step:{number};--steps:{len(answer.frames)}"><b>{number + 1}</b>{_row(answer, number)}</li>'
        for number in range(len(answer.frames))
    )
    facts = f"seed {answer.seed}, {answer.length} tokens, {answer.forwards} forwards"
    return (
        f"<article><p class=prompt><bdi>{html.escape(answer.prompt)}</bdi> <small>{facts}</small></p>"
        f"<p class=answer><bdi>{html.escape(answer.text)}</bdi></p><ol>{rows}</ol></article>"
    )


def _row(answer: Unmasked, number: int) -> str:
    frame = answer.frames[number]
    before: Sequence[str | None] = answer.frames[number - 1] if number else (None,) * len(frame)
    cells = zip(frame, before, strict=True)
    return "".join(
        "<i></i>" if piece is None else f"<span{' class=new' if piece != old else ''}>{html.escape(piece)}</span>"
        for piece, old in cells
    )


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<title>Unmasking, step by step</title>
<style>
body { font: 1rem/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem }
article { border-top: 1px solid color-mix(in srgb, currentColor 25%, transparent); padding: 1rem 0 }
.prompt small { opacity: .65 } .answer { font-weight: 600 } p { margin: .2rem 0; white-space: pre-wrap }
ol { list-style: none; margin: .8rem 0 0; padding: 0; overflow-x: auto }
li { display: flex; font: .9rem/1.6 ui-monospace, monospace; white-space: pre; animation: appear .3s both;
     animation-delay: calc(var(--step) * min(.4s, 12s / var(--steps))) }
li b { width: 4ch; flex: none; opacity: .5; font-weight: 400 }
li i { display: inline-block; width: .9ch; margin: .25em .05ch; border-radius: 2px;
       background: color-mix(in srgb, currentColor 22%, transparent) }
li .new { background: #ffd54a; color: #111; border-radius: 2px }
@keyframes appear { from { opacity: 0 } }
@media (prefers-reduced-motion: reduce) { li { animation: none } }
</style></head><body><h1>Unmasking, step by step</h1>
<p>Each line is the canvas after one step: grey bars are masks, marked tokens are what the step changed.</p>
@CARDS@
</body></html>
"""
