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
    from samplers.masked import MaskedRollout, masked_canvas, sample_masked
    from samplers.masked_decoding import Decoding
    from samplers.masked_remasking import REMASKINGS
    from samplers.masked_schedules import SCHEDULES, transfer_schedule
    from samplers.masked_tokens import ORDERS, keyed_uniform
    from samplers.noise import keyed_noise
    from samplers.plans import Cost, Plan, Step, cost
    from samplers.rollout import FlowRollout, Transition, merge, transition
    from samplers.sigmas import dance_sigmas, dynamic_mu, flow_match_sigmas, linear_sigmas
    from samplers.solvers import SOLVERS, dpm_solver_pp

_HOMES = {
    "Cost": "plans",
    "Decoding": "masked_decoding",
    "FlowRollout": "rollout",
    "Gaussian": "gaussian",
    "KERNELS": "kernels",
    "MaskedRollout": "masked",
    "ORDERS": "masked_tokens",
    "Plan": "plans",
    "REMASKINGS": "masked_remasking",
    "SCHEDULES": "masked_schedules",
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
    "keyed_uniform": "masked_tokens",
    "linear_sigmas": "sigmas",
    "masked_canvas": "masked",
    "merge": "rollout",
    "resolve_kernel": "kernels",
    "sample_flow": "flow",
    "sample_masked": "masked",
    "transfer_schedule": "masked_schedules",
    "transition": "rollout",
}

__all__ = [
    "KERNELS",
    "ORDERS",
    "REMASKINGS",
    "SCHEDULES",
    "SOLVERS",
    "Cost",
    "Decoding",
    "FlowRollout",
    "Gaussian",
    "MaskedRollout",
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
    "keyed_uniform",
    "linear_sigmas",
    "masked_canvas",
    "merge",
    "resolve_kernel",
    "sample_flow",
    "sample_masked",
    "transfer_schedule",
    "transition",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'samplers' has no attribute {name!r}")
    return getattr(importlib.import_module(f"samplers.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_HOMES)
