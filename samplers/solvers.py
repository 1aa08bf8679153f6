"""Deterministic steps of a flow model. All compute in at least float32.

``SOLVERS`` holds what a plan names; every entry is called
``solver(x, v, sigma, sigma_next, *, evaluate, history, step, steps)`` and ignores what it does not use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from samplers.plans import unknown_name

Evaluate = Callable[[Tensor, float], Tensor]
History = Sequence[tuple[float, Tensor]]

VARIANTS = ("midpoint", "heun", "corrected")


def euler(x: Tensor, v: Tensor, sigma: float, sigma_next: float, **_: Any) -> Tensor:
    """First order: x + v dt."""
    return x + (sigma_next - sigma) * v


def heun(x: Tensor, v: Tensor, sigma: float, sigma_next: float, *, evaluate: Evaluate, **_: Any) -> Tensor:
    """Second order, two forwards: the mean of the slopes at both ends of an Euler step.

    A step that reaches sigma 0 is an Euler step, so that no network is asked at sigma 0; the order stays 2.

    Args:
        x: latent [B, ...].
        v: velocity at (x, sigma).
        sigma: noise level.
        sigma_next: next noise level.
        evaluate: velocity of given latents at a given sigma.
        **_: further keywords, ignored.

    Returns:
        Tensor: latent at sigma_next.
    """
    predicted = euler(x, v, sigma, sigma_next)
    if sigma_next == 0:
        return predicted
    return x + (sigma_next - sigma) * (v + evaluate(predicted, sigma_next)) / 2


def dpm_solver_pp(
    x: Tensor, history: History, sigma_next: float, *, order: int = 2, variant: str = "midpoint"
) -> Tensor:
    """One multistep DPM-Solver++ step in data prediction, for the rectified flow alpha = 1 - sigma.

    With lambda = ln(alpha / sigma), h = lambda_next - lambda, A = 1 - sigma_next / sigma and B = alpha_next - A / h::

        order 1            x' = (sigma_next / sigma) x + A x0          (this equals the Euler step)
        order 2, midpoint  x' = order 1 + A D1 / 2
        order 2, heun      x' = order 1 + B D1
        order 3            x' = order 1 + B D1 - (B / h - alpha_next / 2) D2

    where D1 and D2 are divided differences of x0 over lambda / h. The limits sigma = 1 (lambda = -inf, its
    differences vanish) and sigma_next = 0 (x' = x0) are exact.

    The third-order step is the published one, whose D2 is half of the second derivative that the expansion asks for:
    it converges with order 2 (measured), at half the error of order 2. The variant ``"corrected"`` doubles D2 and
    converges with order 3.

    Source: DPM-Solver++ (arXiv 2211.01095), multistep algorithms; checked against the solver of MixGRPO.

    Args:
        x: latent [B, ...] at the current sigma.
        history: (sigma, x0) pairs, the current one first, then earlier steps; x0 = x - sigma v.
        sigma_next: next noise level.
        order: 1, 2 or 3; lowered to the number of pairs given.
        variant: ``"midpoint"`` or ``"heun"`` for order 2; ``"corrected"`` (midpoint at order 2) for order 3.

    Returns:
        Tensor: latent at sigma_next.

    Raises:
        ValueError: unknown order or variant, or an empty history.
    """
    if order not in (1, 2, 3) or not history:
        raise ValueError(f"DPM-Solver++ has orders 1, 2, 3 and needs the current (sigma, x0); got order {order}")
    if variant not in VARIANTS:
        raise ValueError(unknown_name("variant of DPM-Solver++", variant, VARIANTS))
    sigma, x0 = history[0]
    if sigma_next == 0:
        return x0
    share = 1 - sigma_next / sigma
    first = (sigma_next / sigma) * x + share * x0
    order = min(order, len(history))
    if order == 1:
        return first
    h = log_snr(sigma_next) - log_snr(sigma)
    slope = (1 - sigma_next) - share / h
    if order == 3:
        d1, d2 = _differences(history, h)
        curvature = (2 if variant == "corrected" else 1) * d2
        return first + slope * d1 - (slope / h - 0.5 * (1 - sigma_next)) * curvature
    d1 = _first_difference(history[0], history[1], h)
    return first + (slope if variant == "heun" else 0.5 * share) * d1


def log_snr(sigma: float) -> float:
    """lambda = ln((1 - sigma) / sigma), -inf at sigma 1 and inf at sigma 0."""
    if sigma >= 1:
        return -math.inf
    return math.log(1 - sigma) - math.log(sigma) if sigma > 0 else math.inf


def dpm_order(order: int, history: int, step: int, steps: int) -> int:
    """Order that a multistep run uses at a step: low at the start and, for stability, at the end.

    Args:
        order: order asked for.
        history: number of earlier x0 predictions.
        step: index of the step.
        steps: number of steps of the run.

    Returns:
        int: 1 at the last step or without history; at most 2 with one earlier prediction, and at the last but one
        of fewer than 15 steps.
    """
    if step == steps - 1 or history == 0:
        return 1
    if history == 1 or (step == steps - 2 and steps < 15):
        return min(order, 2)
    return order


def _first_difference(now: tuple[float, Tensor], before: tuple[float, Tensor], h: float) -> Tensor:
    return (now[1] - before[1]) / ((log_snr(now[0]) - log_snr(before[0])) / h)


def _differences(history: History, h: float) -> tuple[Tensor, Tensor]:
    near = _first_difference(history[0], history[1], h)
    far = _first_difference(history[1], history[2], h)
    r0 = (log_snr(history[0][0]) - log_snr(history[1][0])) / h
    r1 = (log_snr(history[1][0]) - log_snr(history[2][0])) / h
    return near + r0 / (r0 + r1) * (near - far), (near - far) / (r0 + r1)


def _dpm_step(
    x: Tensor,
    v: Tensor,
    sigma: float,
    sigma_next: float,
    *,
    order: int,
    variant: str = "midpoint",
    history: History,
    step: int,
    steps: int,
    **_: Any,
) -> Tensor:
    pairs = ((sigma, x - sigma * v), *history)
    usable = dpm_order(order, len(history), step, steps)
    return dpm_solver_pp(x, pairs, sigma_next, order=usable, variant=variant)


Solver = Callable[..., Tensor]

SOLVERS: dict[str, Solver] = {
    "euler": euler,
    "heun": heun,
    "dpmpp_1": partial(_dpm_step, order=1),
    "dpmpp_2_midpoint": partial(_dpm_step, order=2),
    "dpmpp_2_heun": partial(_dpm_step, order=2, variant="heun"),
    "dpmpp_3": partial(_dpm_step, order=3),
    "dpmpp_3_heun": partial(_dpm_step, order=3, variant="heun"),  # heun where it falls back to order 2
    "dpmpp_3_corrected": partial(_dpm_step, order=3, variant="corrected"),
}
