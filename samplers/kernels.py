"""Stochastic steps of a flow model: (x, v) at sigma -> the distribution of x at sigma_next.

Symbols: x = (1 - sigma) x0 + sigma eps, v = eps - x0, dt = sigma_next - sigma < 0. A kernel is a pure function that
ignores what it does not use, so that all are called alike::

    kernel(x, v, sigma, sigma_next, *, eta, sigma_max) -> Gaussian(mean, std)

Shapes: x, v [B, ...]; sigma, sigma_next a float, [B] (rows at different steps) or broadcastable to x. The state is
computed in at least float32 (half precision is upcast, float64 stays), coefficients in float64.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from samplers.gaussian import Gaussian
from samplers.plans import unknown_name

Level = float | Tensor
Kernel = Callable[..., Gaussian]


def euler(x: Tensor, v: Tensor, sigma: Level, sigma_next: Level, **_: Any) -> Gaussian:
    """Deterministic step: mean = x + v dt, std = 0.

    Args:
        x: latent [B, ...].
        v: velocity [B, ...].
        sigma: noise level in (0, 1].
        sigma_next: next noise level, below sigma.
        **_: arguments of the stochastic kernels, ignored.

    Returns:
        Gaussian: mean [B, ...], std 0.

    Raises:
        ValueError: sigma_next is not below sigma (checked for floats).
    """
    x, v, sigma, sigma_next = prepare(x, v, sigma, sigma_next)
    dt = sigma_next - sigma
    return Gaussian(x + v * dt.to(x.dtype), torch.zeros_like(dt, dtype=x.dtype))


def flow_sde(
    x: Tensor, v: Tensor, sigma: Level, sigma_next: Level, eta: float, sigma_max: Level | None = None, **_: Any
) -> Gaussian:
    """Euler-Maruyama step of the Flow-GRPO SDE.

        g = eta sqrt(sigma / (1 - sigma_c)),  sigma_c = sigma_max where sigma = 1, else sigma
        mean = x (1 + g^2 dt / (2 sigma)) + v (1 + g^2 (1 - sigma) / (2 sigma)) dt
        std = g sqrt(-dt)

    Source: Flow-GRPO (arXiv 2505.05470), eq. 9, with the substitution at sigma = 1 of its published code. The same
    step is used by MixGRPO and TempFlow-GRPO. Marginals are preserved as steps grow, up to the substitution.

    Args:
        x: latent [B, ...].
        v: velocity [B, ...].
        sigma: noise level in (0, 1].
        sigma_next: next noise level, below sigma.
        eta: noise strength a >= 0 (0.7 in the paper).
        sigma_max: stands for sigma in 1 - sigma where sigma = 1: the second point of the grid.
        **_: further keywords, ignored.

    Returns:
        Gaussian: mean [B, ...], std broadcastable to it.

    Raises:
        ValueError: sigma_next is not below sigma, or sigma is 1 and sigma_max is missing (checked for floats).
    """
    if sigma_max is None:
        if not isinstance(sigma, Tensor) and sigma == 1:
            raise ValueError("flow_sde at sigma 1 needs sigma_max, the second point of the sigma grid")
        sigma_max = sigma
    x, v, sigma, sigma_next, sigma_max = prepare(x, v, sigma, sigma_next, sigma_max)
    dt = sigma_next - sigma
    variance = eta * eta * sigma / (1 - torch.where(sigma == 1, sigma_max, sigma))
    on_x = 1 + variance * dt / (2 * sigma)
    on_v = (1 + variance * (1 - sigma) / (2 * sigma)) * dt
    return Gaussian(x * on_x.to(x.dtype) + v * on_v.to(x.dtype), (variance * -dt).sqrt().to(x.dtype))


def dance_sde(x: Tensor, v: Tensor, sigma: Level, sigma_next: Level, eta: float, **_: Any) -> Gaussian:
    """Euler-Maruyama step with constant diffusion, DanceGRPO.

        x0 = x - sigma v,  score = -(x - (1 - sigma) x0) / sigma^2
        mean = x + v dt - eta^2 score dt / 2
        std = eta sqrt(-dt)

    Source: DanceGRPO (arXiv 2505.07818), eq. 8, its rectified-flow step. Marginals are preserved as steps grow.

    Args:
        x: latent [B, ...].
        v: velocity [B, ...].
        sigma: noise level in (0, 1].
        sigma_next: next noise level, below sigma.
        eta: diffusion coefficient >= 0 (0.3 in the paper).
        **_: further keywords, ignored.

    Returns:
        Gaussian: mean [B, ...], std broadcastable to it.

    Raises:
        ValueError: sigma_next is not below sigma (checked for floats).
    """
    x, v, sigma, sigma_next = prepare(x, v, sigma, sigma_next)
    dt = sigma_next - sigma
    # x - (1 - sigma) x0 = sigma (x + (1 - sigma) v), so one sigma of the score cancels.
    pull = eta * eta * dt / (2 * sigma)
    on_v = dt + pull * (1 - sigma)
    return Gaussian(x * (1 + pull).to(x.dtype) + v * on_v.to(x.dtype), eta * (-dt).sqrt().to(x.dtype))


def cps(x: Tensor, v: Tensor, sigma: Level, sigma_next: Level, eta: float, **_: Any) -> Gaussian:
    """Coefficients-preserving step: part of the predicted noise is exchanged for fresh noise.

        x0 = x - sigma v,  x1 = x + (1 - sigma) v
        mean = (1 - sigma_next) x0 + sigma_next cos(eta pi / 2) x1
        std = sigma_next sin(eta pi / 2)

    Source: Coefficients-Preserving Sampling (arXiv 2509.05952) and the Flow-GRPO code. At constant eta it keeps
    posterior means and therefore shrinks the variance: it does not converge to the marginals as steps grow.

    Args:
        x: latent [B, ...].
        v: velocity [B, ...].
        sigma: noise level in (0, 1].
        sigma_next: next noise level, below sigma.
        eta: noise strength in [0, 1]; 0 is the ODE step, 1 renews all noise (0.8 is recommended).
        **_: further keywords, ignored.

    Returns:
        Gaussian: mean [B, ...], std broadcastable to it, 0 at sigma_next = 0.

    Raises:
        ValueError: eta outside [0, 1]; sigma_next is not below sigma (checked for floats).
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"cps takes eta in [0, 1] (an angle of eta * 90 degrees), got {eta}")
    x, v, sigma, sigma_next = prepare(x, v, sigma, sigma_next)
    x0 = x - sigma.to(x.dtype) * v
    x1 = x + (1 - sigma).to(x.dtype) * v
    kept = sigma_next * (math.cos(eta * math.pi / 2) if eta < 1 else 0.0)
    return Gaussian(
        (1 - sigma_next).to(x.dtype) * x0 + kept.to(x.dtype) * x1,
        (sigma_next * math.sin(eta * math.pi / 2)).to(x.dtype),
    )


def wan_sde(
    x: Tensor, v: Tensor, sigma: Level, sigma_next: Level, eta: float, sigma_max: Level | None = None, **_: Any
) -> Gaussian:
    """Euler-Maruyama step of a reverse SDE whose diffusion is linear in the noise level.

        g = eta sigma_max sigma
        mean = x (1 + g^2 dt / (2 sigma)) + v (1 + g^2 (1 - sigma) / (2 sigma)) dt
        std = g sqrt(-dt)

    Source: the video scripts of the Flow-GRPO code (Wan 2.1), where sigma_max is the second point of the grid and
    eta = 1; drift as in Flow-GRPO (arXiv 2505.05470), eq. 9. Marginals are preserved as steps grow.

    Args:
        x: latent [B, ...].
        v: velocity [B, ...].
        sigma: noise level in (0, 1].
        sigma_next: next noise level, below sigma.
        eta: noise strength >= 0, 1 in the published code.
        sigma_max: the second point of the grid; None is 1.
        **_: further keywords, ignored.

    Returns:
        Gaussian: mean [B, ...], std broadcastable to it.

    Raises:
        ValueError: sigma_next is not below sigma (checked for floats).
    """
    x, v, sigma, sigma_next, top = prepare(x, v, sigma, sigma_next, 1.0 if sigma_max is None else sigma_max)
    dt = sigma_next - sigma
    diffusion = eta * top * sigma
    pull = diffusion**2 * dt / (2 * sigma)
    on_v = dt + pull * (1 - sigma)
    return Gaussian(x * (1 + pull).to(x.dtype) + v * on_v.to(x.dtype), (diffusion * (-dt).sqrt()).to(x.dtype))


KERNELS: dict[str, Kernel] = {
    "euler": euler,
    "flow_sde": flow_sde,
    "dance_sde": dance_sde,
    "cps": cps,
    "wan_sde": wan_sde,
}


def resolve_kernel(kernel: str | Kernel) -> Kernel:
    """A kernel by name, by import path ``"package.module:function"``, or itself.

    Args:
        kernel: key of ``KERNELS``, import path, or function.

    Returns:
        Kernel: the function.

    Raises:
        ValueError: no kernel of that name; the message names the nearest match.
    """
    if callable(kernel):
        return kernel
    if kernel in KERNELS:
        return KERNELS[kernel]
    module, _, function = kernel.partition(":")
    if not function:
        raise ValueError(unknown_name("kernel", kernel, KERNELS) + " (or your own as package.module:function)")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"cannot load the kernel {kernel!r}: {error}") from error


def prepare(x: Tensor, v: Tensor, sigma: Level, sigma_next: Level, *levels: Level) -> tuple[Tensor, ...]:
    """Bring a step's arguments to working precision and shape.

    Args:
        x: latent [B, ...].
        v: velocity, same shape.
        sigma: noise level: float, [B], or broadcastable to x.
        sigma_next: next noise level, likewise.
        *levels: further noise levels, likewise.

    Returns:
        tuple: x and v in at least float32; the levels in float64, broadcastable to x.

    Raises:
        ValueError: shapes of x and v differ, levels [n] are not one per row, or sigma_next >= sigma (checked for
            floats: a tensor on an accelerator would have to be waited for).
    """
    if x.shape != v.shape:
        raise ValueError(f"x and v must have one shape, got {tuple(x.shape)} and {tuple(v.shape)}")
    if not isinstance(sigma, Tensor) and not isinstance(sigma_next, Tensor) and not sigma_next < sigma:
        raise ValueError(f"sigma_next must be below sigma, got sigma={sigma} and sigma_next={sigma_next}")
    dtype = working_dtype(x.dtype, v.dtype)
    return x.to(dtype), v.to(dtype), *(_level(level, x) for level in (sigma, sigma_next, *levels))


def working_dtype(*dtypes: torch.dtype) -> torch.dtype:
    """The dtype that kernels and solvers compute in: the widest given, at least float32."""
    widest = torch.float32
    for dtype in dtypes:
        widest = torch.promote_types(widest, dtype)
    return widest


def _level(level: Level, x: Tensor) -> Tensor:
    wide = torch.float32 if x.device.type == "mps" else torch.float64  # that backend has no float64
    level = torch.as_tensor(level, dtype=wide, device=x.device)
    if level.ndim != 1:
        return level
    if len(level) not in (1, len(x)):
        raise ValueError(f"noise levels are a number or one per row: got {len(level)} for x of shape {tuple(x.shape)}")
    return level.reshape(-1, *[1] * (x.ndim - 1))
