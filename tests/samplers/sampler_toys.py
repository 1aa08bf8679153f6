"""Velocities, grids and plans that the sampler tests share."""

from __future__ import annotations

import torch
from torch import Tensor

from samplers import Plan, Step, flow_match_sigmas
from samplers.plans import all_steps, branch, single_branch, window

GRID = flow_match_sigmas(6, shift=3.0)

PLANS = {
    "ode": Plan(GRID, (Step(),) * 6),
    "all_steps": all_steps(GRID),
    "shared_start": all_steps(GRID, children=3),
    "window": window(GRID, 1, 2),
    "window_heun": window(GRID, 2, 2, children=2, solver="heun"),
    "window_dpm3": window(GRID, 1, 2, solver="dpmpp_3"),
    "flash": window(GRID, 1, 2, tail_steps=2),
    "branch": branch(GRID, [0, 2]),
    "branch_mix": branch(GRID, [1], 3, sde_steps=[3], split_noise=None),
    "single_branch": single_branch(GRID, 3),
    "single_branch_heun": single_branch(GRID, 2, steps=[1, 3], solver="heun"),
}


def smooth(x: Tensor, sigma: float, rows: Tensor) -> Tensor:
    """A velocity that mixes elements within a row and knows its root, in the dtype of x."""
    bias = rows.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1)) / 10
    return torch.tanh(1.3 * x + 0.5 * x.mean(dim=-1, keepdim=True) + bias) - sigma * x


def latents(count: int, *, seed: int = 0, shape: tuple[int, ...] = (2, 3)) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def root_keys(count: int, *, first: int = 0) -> list[tuple[int, ...]]:
    return [(17, first + i) for i in range(count)]
