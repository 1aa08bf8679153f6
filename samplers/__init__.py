"""How noise becomes a sample, and the density of every random decision on the way.

Names are loaded on first use, so that ``samplers.plans`` can be imported without torch and nothing but torch is
needed for the rest (diffusers only by ``samplers.diffusers_schedulers``).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from samplers.flow import Velocity, sample_flow
    from samplers.gaussian import Gaussian
    from samplers.kernels import KERNELS, resolve_kernel
    from samplers.noise import keyed_noise
    from samplers.plans import Cost, Plan, Step, cost
    from samplers.rollout import FlowRollout, Transition, merge, transition
    from samplers.sigmas import dance_sigmas, dynamic_mu, flow_match_sigmas, linear_sigmas
    from samplers.solvers import SOLVERS, dpm_solver_pp

_HOMES = {
    "Cost": "plans",
    "FlowRollout": "rollout",
    "Gaussian": "gaussian",
    "KERNELS": "kernels",
    "Plan": "plans",
    "SOLVERS": "solvers",
    "Step": "plans",
    "Transition": "rollout",
    "Velocity": "flow",
    "cost": "plans",
    "dance_sigmas": "sigmas",
    "dpm_solver_pp": "solvers",
    "dynamic_mu": "sigmas",
    "flow_match_sigmas": "sigmas",
    "keyed_noise": "noise",
    "linear_sigmas": "sigmas",
    "merge": "rollout",
    "resolve_kernel": "kernels",
    "sample_flow": "flow",
    "transition": "rollout",
}

__all__ = [
    "KERNELS",
    "SOLVERS",
    "Cost",
    "FlowRollout",
    "Gaussian",
    "Plan",
    "Step",
    "Transition",
    "Velocity",
    "cost",
    "dance_sigmas",
    "dpm_solver_pp",
    "dynamic_mu",
    "flow_match_sigmas",
    "keyed_noise",
    "linear_sigmas",
    "merge",
    "resolve_kernel",
    "sample_flow",
    "transition",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'samplers' has no attribute {name!r}")
    return getattr(importlib.import_module(f"samplers.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_HOMES)
