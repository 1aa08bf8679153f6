"""How many masks each step of an unmasking loop reveals, and the steps of one row, block by block.

A schedule is ``schedule(masks, steps, uniforms) -> [tokens revealed in each step]``; the numbers are >= 0 and add up
to ``masks``. ``uniforms(step, count) -> [count]`` is the noise of schedules that are random; the others ignore it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from samplers.plans import unknown_name

Uniforms = Callable[[int, int], Tensor]
Schedule = Callable[[int, int, Uniforms], list[int]]


def even(masks: int, steps: int, uniforms: Uniforms) -> list[int]:
    """Equal shares, the remainder one each to the first steps. Source: LLaDA (arXiv 2502.09992), its published code."""
    share, rest = divmod(masks, steps)
    return [share + (step < rest) for step in range(steps)]


def maskgit(masks: int, steps: int, uniforms: Uniforms, *, gamma: Callable[[float, int], float]) -> list[int]:
    """floor(masks gamma(r)) masks stay after the share r of all steps. Source: MaskGIT, as MDPO's code has it.

    Args:
        masks: number of masks.
        steps: number of steps.
        uniforms: ignored.
        gamma: (r in (0, 1], masks) -> share of masks that stay, falling to 0.

    Returns:
        list: tokens revealed in each step.
    """
    # The floor of 1e-6 is the source's; it decides single tokens where rounding leaves masks * gamma at a whole number.
    stay = [math.floor(masks * min(max(gamma((i + 1) / steps, masks), 1e-6), 1.0)) for i in range(steps)]
    return [before - after for before, after in zip([masks, *stay[:-1]], stay, strict=True)]


def proportional(masks: int, steps: int, uniforms: Uniforms, *, alpha: Callable[[Tensor], Tensor]) -> list[int]:
    """Of the remaining masks the share (alpha(s) - alpha(t)) / (1 - alpha(t)), rounded half to even.

    That is the expected reverse step of the forward process that keeps tokens with probability alpha(t), from time t
    to s < t. Evaluated in float32, as its source (the dllm library) does; ties depend on it.

    Args:
        masks: number of masks.
        steps: number of steps.
        uniforms: ignored.
        alpha: float32 times in [0, 1] -> probability that a token is unmasked.

    Returns:
        list: tokens revealed in each step.
    """
    kept = alpha(torch.tensor([(steps - i) / steps for i in range(steps + 1)], dtype=torch.float32))
    shares = 1 - (1 - kept[1:]) / (1 - kept[:-1])
    revealed = []
    for share in shares:
        revealed.append(min(int((masks * share).round()), masks))
        masks -= revealed[-1]
    return revealed


def dream(masks: int, steps: int, uniforms: Uniforms) -> list[int]:
    """int(remaining (1 - s/t)) on t from 1 to 0.001, and all that remain in the last step. Source: Dream's code.

    Truncation pushes tokens to the end: with as many steps as masks the first step reveals none and the last two.
    """
    revealed = []
    for share in _dream_shares(steps):
        revealed.append(int(masks * share))
        masks -= revealed[-1]
    return revealed


def bernoulli(masks: int, steps: int, uniforms: Uniforms) -> list[int]:
    """Each remaining mask falls with probability 1 - s/t on the grid of `dream`; with order ``"random"`` this is the
    plain reverse process (``origin`` in Dream's code)."""
    revealed = []
    for step, share in enumerate(_dream_shares(steps)):
        revealed.append(int((uniforms(step, masks) < float(share)).sum()))
        masks -= revealed[-1]
    return revealed


def _dream_shares(steps: int) -> Tensor:
    """Share of the remaining masks to reveal in each step, float32 as in the source."""
    times = torch.linspace(1, 1e-3, steps + 1, dtype=torch.float32)
    return torch.cat([1 - times[1:-1] / times[:-2], torch.ones(1, dtype=torch.float32)])


def _power(r: float, masks: int, *, exponent: float) -> float:
    return 1 - r**exponent


def _cosine(r: float, masks: int) -> float:
    return math.cos(math.pi / 2 * r)


def _exponential(r: float, masks: int) -> float:
    return 1 - 2 ** (-math.log2(max(masks, 1)) * (1 - r))


def _alpha_linear(t: Tensor) -> Tensor:
    return 1 - t


def _alpha_cosine(t: Tensor) -> Tensor:
    return 1 - torch.cos(math.pi / 2 * (1 - t))


SCHEDULES: dict[str, Schedule] = {
    "even": even,
    "maskgit_linear": partial(maskgit, gamma=partial(_power, exponent=1.0)),
    "maskgit_square": partial(maskgit, gamma=partial(_power, exponent=2.0)),
    "maskgit_cube": partial(maskgit, gamma=partial(_power, exponent=3.0)),
    "maskgit_cosine": partial(maskgit, gamma=_cosine),
    "maskgit_exponential": partial(maskgit, gamma=_exponential),
    "alpha_linear": partial(proportional, alpha=_alpha_linear),
    "alpha_cosine": partial(proportional, alpha=_alpha_cosine),
    "dream": dream,
    "bernoulli": bernoulli,
}


def resolve_schedule(schedule: str | Schedule) -> Schedule:
    """A schedule by name, or itself; ValueError with the nearest match for an unknown name."""
    if callable(schedule):
        return schedule
    if schedule not in SCHEDULES:
        raise ValueError(unknown_name("schedule", schedule, SCHEDULES))
    return SCHEDULES[schedule]


def transfer_schedule(masks: Tensor | Sequence[int], steps: int, schedule: str | Schedule = "even") -> Tensor:
    """Tokens revealed per step and row.

    Args:
        masks: number of masks of each row, integers [B]; or bool [B, L], True where masked.
        steps: number of steps, at least 1.
        schedule: name in ``SCHEDULES`` or function; ``"even"`` is LLaDA's. Random schedules have no table.

    Returns:
        Tensor: int64 [B, steps]; each row adds up to its masks, zeros included.

    Raises:
        ValueError: unknown or random schedule, or steps < 1.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    counts = torch.as_tensor(masks)
    counts = counts.sum(-1) if counts.dtype == torch.bool else counts
    rule = resolve_schedule(schedule)
    rows = [rule(int(count), steps, _no_noise) for count in counts]
    return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), steps)


def _no_noise(step: int, count: int) -> Tensor:
    raise ValueError("this schedule is random: it belongs to a row's noise and has no table")


@dataclass(frozen=True, slots=True)
class Turn:
    """One step of one row.

    Attributes:
        start: first column of the block.
        stop: one past the block's last column.
        quota: masks to reveal in this step.
        left: masks of the block that stay after it.
    """

    start: int
    stop: int
    quota: int
    left: int


def row_turns(
    masked: Sequence[int],
    *,
    block_length: int | None,
    steps: int | None,
    schedule: Schedule,
    uniforms: Uniforms,
    idle: bool,
) -> tuple[Turn, ...]:
    """The steps of one row.

    Blocks are counted from the row's first mask, so that left padding does not move them; blocks without masks are
    left out. Steps are dealt to blocks evenly, the remainder to the first.

    Args:
        masked: columns of the row's masks, increasing; may be empty.
        block_length: columns per block; None makes one block of all.
        steps: steps of the row in all; None reveals one mask per step.
        schedule: how a block's masks spread over its steps.
        uniforms: the row's noise; ``step`` counts over the row.
        idle: keep steps that reveal nothing.

    Returns:
        tuple: turns in order.

    Raises:
        ValueError: fewer steps than blocks.
    """
    turns: list[Turn] = []
    blocks = _blocks(masked, block_length)
    if steps is not None and steps < len(blocks):
        raise ValueError(f"steps must be at least the number of blocks with masks, got {steps} for {len(blocks)}")
    taken = 0
    for i, (start, stop, count) in enumerate(blocks):
        length = count if steps is None else steps // len(blocks) + (i < steps % len(blocks))
        quotas = schedule(count, length, _from_step(uniforms, taken))
        taken += length
        lefts = [count - sum(quotas[: j + 1]) for j in range(length)]
        pairs = zip(quotas, lefts, strict=True)
        turns += [Turn(start, stop, quota, left) for quota, left in pairs if quota or idle]
    return tuple(turns)


def _blocks(masked: Sequence[int], block_length: int | None) -> list[tuple[int, int, int]]:
    """(start, stop, number of masks) of each block that has masks."""
    if not masked:
        return []
    first = masked[0]
    width = block_length or masked[-1] + 1 - first
    counts: dict[int, int] = {}
    for column in masked:
        block = (column - first) // width
        counts[block] = counts.get(block, 0) + 1
    return [(first + block * width, first + (block + 1) * width, count) for block, count in counts.items()]


def _from_step(uniforms: Uniforms, first: int) -> Uniforms:
    return lambda step, count: uniforms(first + step, count)
