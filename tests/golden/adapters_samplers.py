"""Golden adapters of the samplers: file stem -> function(inputs) -> outputs, in torch's default dtype."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from samplers import FlowRollout, Gaussian, Plan, Step, sample_flow, transition
from samplers.kernels import cps, dance_sde, euler, flow_sde
from samplers.plans import window

Case = dict[str, Any]

SOLVER_NAMES = {
    (1, "midpoint"): "dpmpp_1",
    (1, "heun"): "dpmpp_1",
    (2, "midpoint"): "dpmpp_2_midpoint",
    (2, "heun"): "dpmpp_2_heun",
    (3, "midpoint"): "dpmpp_3",
    (3, "heun"): "dpmpp_3_heun",
}


def flow_sde_step(case: Case) -> Case:
    """At noise level 0 there is no density: nan, as in the source."""
    gaussian, x_next, sqrt_dt = _upstream_step(case, flow_sde)
    return {
        "prev_sample": x_next,
        "prev_sample_mean": gaussian.mean,
        "log_prob": gaussian.log_prob(x_next),
        "std_dev_t": gaussian.std.flatten() / sqrt_dt,
        "sqrt_dt": sqrt_dt,
    }


def flow_cps_step(case: Case) -> Case:
    gaussian, x_next, sqrt_dt = _upstream_step(case, cps)
    return {
        "prev_sample": x_next,
        "prev_sample_mean": gaussian.mean,
        "log_prob": gaussian.log_prob(x_next, density="unscaled"),
        "std_dev_t": gaussian.std.flatten(),
        "sqrt_dt": sqrt_dt,
    }


def dance_sde_step(case: Case) -> Case:
    sigmas, i = case["sigmas"], case["step_index"]
    x, v = torch.tensor(case["sample"]), torch.tensor(case["model_output"])
    gaussian = dance_sde(x, v, sigmas[i], sigmas[i + 1], case["eta"])
    x_next = _drawn(case, gaussian)
    return {
        "prev_sample": x_next,
        "pred_original_sample": x - sigmas[i] * v,
        "log_prob": gaussian.log_prob(x_next),
        "prev_sample_mean": gaussian.mean,
        "std": float(gaussian.std),
    }


def mix_sde_step(case: Case) -> Case:
    return _mix_step(case) if case["kind"] == "step" else _mix_trajectory(case)


def dpmpp_2m(case: Case) -> Case:
    return _pure_solver(case) if case["kind"] == "pure" else _flash_trajectory(case)


def _upstream_step(case: Case, kernel: Any) -> tuple[Gaussian, Tensor, Tensor]:
    """One step of rows that may be at different indices; (distribution, drawn latent, sqrt(-dt))."""
    sigmas, index = torch.tensor(case["sigmas"]), torch.tensor(case["step_index"])
    sigma, sigma_next = sigmas[index], sigmas[index + 1]
    x, v = torch.tensor(case["sample"]), torch.tensor(case["model_output"])
    gaussian = kernel(x, v, sigma, sigma_next, eta=case["noise_level"], sigma_max=case["sigmas"][1])
    return gaussian, _drawn(case, gaussian), (sigma - sigma_next).sqrt()


def _drawn(case: Case, gaussian: Gaussian) -> Tensor:
    given = case.get("prev_sample")
    return gaussian.sample(torch.tensor(case["noise"])) if given is None else torch.tensor(given)


def _mix_step(case: Case) -> Case:
    sigmas, i = case["sigmas"], case["index"]
    x, v = torch.tensor(case["x"]), torch.tensor(case["v"])
    gaussian = flow_sde(x, v, sigmas[i], sigmas[i + 1], case["eta"], sigmas[1])
    shared = {"pred_x0": x - sigmas[i] * v, "mean": gaussian.mean, "std": float(gaussian.std)}
    if case["deterministic"]:
        return shared | {"prev_sample": euler(x, v, sigmas[i], sigmas[i + 1]).mean}
    x_next = _drawn(case, gaussian)
    return shared | {"prev_sample": x_next, "log_prob": gaussian.log_prob(x_next)}


@dataclass
class Field:
    """The recorded velocity field v = a x + b + c t; remembers what it was asked."""

    field: Case
    truncate: bool

    def __post_init__(self) -> None:
        self.latents: list[Tensor] = []
        self.times: list[float] = []

    def __call__(self, x: Tensor, sigma: float, rows: Tensor) -> Tensor:
        time = int(1000 * sigma) / 1000 if self.truncate else sigma
        self.latents.append(x)
        self.times.append(time)
        return self.field["a"] * x + torch.tensor(self.field["b"]) + self.field["c"] * time


def _run(case: Case, plan: Plan, field: Field) -> FlowRollout:
    """The engine on the recorded field, with the recorded noise of each (row, step)."""

    def recorded_noise(key: tuple[int, ...], shape: Sequence[int]) -> Tensor:
        return torch.tensor(case["noise"][str(key[-1])][key[0]])

    x = torch.tensor(case["x_init"])
    keys = [(row,) for row in range(len(x))]
    return sample_flow(field, x, plan, eta=case.get("eta", 0.0), keys=keys, noise=recorded_noise)


def _trajectory(case: Case, plan: Plan) -> Case:
    field = Field(case["field"], truncate=True)
    rollout = _run(case, plan, field)
    replay = transition(rollout, rollout.velocities, torch.arange(len(rollout.inputs)))
    log_prob = replay.gaussian.log_prob(replay.x_next)
    return {
        "sigma_grid": list(plan.sigmas),
        "model_t": field.times,
        "latents": torch.stack([*field.latents, rollout.samples]),
        "window_log_prob": {str(i): log_prob[rollout.edge_step == i] for i in case["window"]},
        "nfe": len(field.times),
    }


def _mix_trajectory(case: Case) -> Case:
    trained = Step(kind="sde", trained=True)
    grid = case["sigma_grid"]
    steps = tuple(trained if i in case["window"] else Step() for i in range(len(grid) - 1))
    return _trajectory(case, Plan(tuple(grid), steps))


def _flash_trajectory(case: Case) -> Case:
    """Our tail grid is compared; the run itself uses the recorded one, whose truncated times are exact."""
    start, last = case["window"][0], case["window"][-1]
    knots = int(max((case["T"] - last) * case["compress_ratio"], 1))  # the source counts knots, we count steps
    plan = window(case["sigmas"], start, last + 1 - start, tail_steps=max(1, knots - 1))
    solver = SOLVER_NAMES[case["order"], case["solver_type"]]
    steps = [replace(step, solver=solver) if i > last else step for i, step in enumerate(plan.steps)]
    outputs = _trajectory(case, Plan(tuple(case["sigma_grid"]), tuple(steps)))
    return outputs | {"sigma_grid": list(plan.sigmas), "n_post_knots": len(plan.sigmas) - 1 - last}


def _pure_solver(case: Case) -> Case:
    step = Step(solver=SOLVER_NAMES[case["order"], case["solver_type"]])
    plan = Plan(tuple(case["sigmas"]), (step,) * (len(case["sigmas"]) - 1))
    field = Field(case["field"], truncate=False)
    rollout = _run(case, plan, field)
    pairs = zip(field.latents, plan.sigmas, strict=False)
    x0 = [x - sigma * field(x, sigma, torch.arange(len(x))) for x, sigma in list(pairs)]
    return {"x": torch.stack([*field.latents[: len(x0)], rollout.samples]), "pred_x0": torch.stack(x0)}


ADAPTERS = {
    "flow_sde_step": flow_sde_step,
    "flow_cps_step": flow_cps_step,
    "dance_sde_step": dance_sde_step,
    "mix_sde_step": mix_sde_step,
    "dpmpp_2m": dpmpp_2m,
}
