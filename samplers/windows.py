"""Where the stochastic window of an iteration starts: MixGRPO's rules and Flow-GRPO-Fast's. Pure Python.

Every rule is a function of the iteration (and the run seed) alone, so that resuming and all ranks agree, and gives a
window of full width within [low, high).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Any


def window_start(
    iteration: int,
    *,
    steps: int,
    width: int,
    stride: int,
    tau: int,
    stop: int | None = None,
) -> int:
    """First step of the sliding window: min(k * stride, stop - width) with k = iteration // tau.

    Source: MixGRPO (arXiv 2507.21802), Algorithm 1, which moves one window over all steps and stays at the end.

    Args:
        iteration: training iteration, from 0.
        steps: number T of sampling steps.
        width: window width, in 1 ... stop.
        stride: steps that the window moves at a time; 0 freezes it.
        tau: iterations between two moves, >= 1.
        stop: one past the last step that may be stochastic; None means steps - 1.

    Returns:
        int: start of the window, in 0 ... stop - width.

    Raises:
        ValueError: the window does not fit, or a number is out of range.
    """
    return progressive(iteration, low=0, high=steps - 1 if stop is None else stop, width=width, stride=stride, tau=tau)


def random_window_start(seed: int, iteration: int, *, width: int, low: int, high: int) -> int:
    """First step of a window drawn uniformly in [low, high - width]: one draw for all ranks and all groups.

    Flow-GRPO-Fast draws per rank, which gives the members of one group different windows; this depends on
    (seed, iteration) alone.

    Args:
        seed: run seed.
        iteration: training iteration.
        width: window width, at least 1.
        low: first step that may be stochastic.
        high: one past the last step that may be stochastic.

    Returns:
        int: start of the window.

    Raises:
        ValueError: the window does not fit.
    """
    check_window(width, low, high)
    digest = hashlib.blake2b(f"window {seed} {iteration}".encode(), digest_size=8).digest()
    return low + int.from_bytes(digest, "little") % (high - width - low + 1)


def progressive(iteration: int, *, low: int, high: int, width: int, stride: int, tau: int, **_: Any) -> int:
    """Moves by `stride` every `tau` iterations and stays at the last place (MixGRPO, Algorithm 1).

    Args:
        iteration: training iteration, from 0.
        low: first step of the first window.
        high: one past the last step of the last window.
        width: window width.
        stride: steps per move, >= 0.
        tau: iterations between two moves, >= 1.
        **_: what other rules need, ignored.

    Returns:
        int: start of the window, in low ... high - width.
    """
    _check_motion(iteration, low, high, width, stride, tau)
    return min(low + iteration // tau * stride, high - width)


def rollover(iteration: int, *, low: int, high: int, width: int, stride: int, tau: int, **_: Any) -> int:
    """As `progressive`, and after the last place that lies on the stride the window starts again at `low`.

    Args:
        iteration: training iteration, from 0.
        low: first step of the first window.
        high: one past the last step that a window may hold.
        width: window width.
        stride: steps per move, >= 1.
        tau: iterations between two moves, >= 1.
        **_: what other rules need, ignored.

    Returns:
        int: start of the window.
    """
    _check_motion(iteration, low, high, width, stride, tau)
    places = 1 if stride == 0 else (high - width - low) // stride + 1
    return low + iteration // tau % places * stride


def frozen(iteration: int, *, low: int, high: int, width: int, **_: Any) -> int:
    """Stays at `low`.

    Args:
        iteration: ignored.
        low: first step of the window.
        high: one past the last step that a window may hold.
        width: window width.
        **_: what other rules need, ignored.

    Returns:
        int: low.
    """
    check_window(width, low, high)
    return low


def exp_decay(
    iteration: int,
    *,
    low: int,
    high: int,
    width: int,
    stride: int,
    tau: int,
    decay: float,
    decay_from: int,
    **_: Any,
) -> int:
    """As `progressive`, but ever faster: a window at step l stays ceil(tau exp(-decay max(0, l - decay_from))).

    Source: MixGRPO (arXiv 2507.21802), its first versions and code: decay 0.1 from step 13.

    Args:
        iteration: training iteration, from 0.
        low: first step of the first window.
        high: one past the last step of the last window.
        width: window width.
        stride: steps per move.
        tau: iterations at a place before `decay_from`.
        decay: k of the exponential, >= 0.
        decay_from: step from which the stays shorten.
        **_: what other rules need, ignored.

    Returns:
        int: start of the window, in low ... high - width.
    """
    _check_motion(iteration, low, high, width, stride, tau)

    def stay(start: int) -> int:
        return math.ceil(tau * math.exp(-decay * max(0, start - decay_from)))

    return _walk(iteration, stay, low, high - width, stride)


def linear_decay(iteration: int, *, low: int, high: int, width: int, stride: int, tau: int, **_: Any) -> int:
    """As `progressive`, but ever faster: stays shorten evenly from tau at `low` to 1 at `high`, rounded down.

    Source: MixGRPO (arXiv 2507.21802), the linear decay of its ablation and code, where tau is 10.

    Args:
        iteration: training iteration, from 0.
        low: first step of the first window.
        high: one past the last step of the last window.
        width: window width.
        stride: steps per move.
        tau: iterations at the first place.
        **_: what other rules need, ignored.

    Returns:
        int: start of the window, in low ... high - width.
    """
    _check_motion(iteration, low, high, width, stride, tau)

    def stay(start: int) -> int:
        gone = (start - low) / (high - low)
        return max(1, int(tau * (1 - gone) + gone))

    return _walk(iteration, stay, low, high - width, stride)


def random(iteration: int, *, low: int, high: int, width: int, seed: int, **_: Any) -> int:
    """Drawn anew in every iteration by (seed, iteration): `random_window_start`.

    Args:
        iteration: training iteration.
        low: first step that a window may hold.
        high: one past the last one.
        width: window width.
        seed: run seed.
        **_: what other rules need, ignored.

    Returns:
        int: start of the window.
    """
    return random_window_start(seed, iteration, width=width, low=low, high=high)


WINDOWS: dict[str, Callable[..., int]] = {
    "random": random,
    "progressive": progressive,
    "rollover": rollover,
    "frozen": frozen,
    "exp_decay": exp_decay,
    "linear_decay": linear_decay,
}


def check_window(width: int, low: int, high: int) -> None:
    """Raises ValueError unless a window of that width fits into the steps [low, high)."""
    if not 1 <= width <= high - low or low < 0:
        raise ValueError(f"a window of width {width} does not fit into the steps [{low}, {high})")


def _walk(iteration: int, stay: Callable[[int], int], first: int, last: int, stride: int) -> int:
    """The place where an iteration finds itself: each is held for its stay, the last for ever."""
    for start in range(first, last, stride) if stride else ():
        iteration -= stay(start)
        if iteration < 0:
            return start
    return last if stride else first


def _check_motion(iteration: int, low: int, high: int, width: int, stride: int, tau: int) -> None:
    check_window(width, low, high)
    if iteration < 0 or tau < 1 or stride < 0:
        raise ValueError(f"need iteration >= 0, tau >= 1, stride >= 0; got {iteration}, {tau}, {stride}")
