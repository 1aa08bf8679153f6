"""Golden cases of kernels and solvers that no file holds: other shapes, edge levels, ties, missing optional keys.

Written from the files' `equations` in plain numpy, without any of our code.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

Case = dict[str, Any]
Cases = Iterator[tuple[str, Case]]

SHAPES = ((1, 1), (2, 5), (3, 2, 1, 4), (1, 2, 2, 1, 3))
GRIDS = {
    "one step": [1.0, 0.0],
    "two steps": [1.0, 0.5, 0.0],
    "starts below 1": [0.8, 0.55, 0.3, 0.02, 0.0],
    "second level next to 1": [1.0, 1 - 1e-6, 0.5, 0.0],
    "seven steps": [1.0, 0.97, 0.9, 0.7, 0.4, 0.1, 1e-4, 0.0],
}


def case(stem: str, inputs: Case, outputs: Case) -> tuple[str, Case]:
    return stem, {"inputs": plain(inputs), "outputs": plain(outputs)}


def plain(value: Any) -> Any:
    """Arrays as lists, as a JSON file would hold them."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def rows(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    return values.reshape(-1, *[1] * (like.ndim - 1))


def row_mean(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1).mean(1)


def log_density(x: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return row_mean(-((x - mean) ** 2) / (2 * std**2) - np.log(std) - 0.5 * np.log(2 * np.pi))


def flow_move(x: np.ndarray, v: np.ndarray, grid: np.ndarray, index: np.ndarray, a: float) -> tuple[np.ndarray, ...]:
    """(mean, diffusion g [rows], sqrt(-dt) [rows]) of the Flow-GRPO step; index [rows] or [1]."""
    s, n = grid[index], grid[index + 1]
    g = a * np.sqrt(s / np.where(s == 1, 1 - grid[1], 1 - s))
    on_x, on_v = 1 + g**2 * (n - s) / (2 * s), (1 + g**2 * (1 - s) / (2 * s)) * (n - s)
    return rows(on_x, x) * x + rows(on_v, x) * v, g, np.sqrt(s - n)


def kernel_cases() -> Cases:
    seed = 0
    for grid in map(np.array, GRIDS.values()):
        for shape in SHAPES:
            for index in {0, len(grid) - 2}:
                seed += 1
                yield from _one_step(seed, grid, np.array([index]), shape)
    index = np.array([3, 0, 2])
    yield from _one_step(999, np.array(GRIDS["seven steps"]), index, (3, 2, 2))


def _one_step(seed: int, grid: np.ndarray, index: np.ndarray, shape: tuple[int, ...]) -> Cases:
    x, v, noise = normal(seed, 3, *shape)
    given = {"sigmas": grid, "step_index": index, "sample": x, "model_output": v}
    replay = seed % 2 == 0
    extra = {"prev_sample": noise} if replay else {"noise": noise}
    yield _flow(given | extra | {"noise_level": (0.7, 1.3)[seed % 2]}, noise, replay)
    for level in (0.0, 0.4, 1.0):
        yield _cps(given | extra | {"noise_level": level}, noise, replay)
    if len(index) == 1:
        yield _dance(given | extra | {"step_index": int(index[0]), "eta": 0.25}, noise, replay)


def _flow(inputs: Case, noise: np.ndarray, replay: bool) -> tuple[str, Case]:
    x, v, grid, index = (inputs[key] for key in ("sample", "model_output", "sigmas", "step_index"))
    mean, g, root = flow_move(x, v, grid, index, inputs["noise_level"])
    std = rows(g * root, x)
    drawn = noise if replay else mean + std * noise
    outputs = {"prev_sample": drawn, "prev_sample_mean": mean, "std_dev_t": g, "sqrt_dt": root}
    return case("flow_sde_step", inputs, outputs | {"log_prob": log_density(drawn, mean, std)})


def _cps(inputs: Case, noise: np.ndarray, replay: bool) -> tuple[str, Case]:
    x, v, grid, index = (inputs[key] for key in ("sample", "model_output", "sigmas", "step_index"))
    s, n = grid[index], grid[index + 1]
    std = n * np.sin(inputs["noise_level"] * np.pi / 2)
    left = np.sqrt(np.maximum(n**2 - std**2, 0))
    mean = rows(1 - n, x) * (x - rows(s, x) * v) + rows(left, x) * (x + rows(1 - s, x) * v)
    drawn = noise if replay else mean + rows(std, x) * noise
    outputs = {"prev_sample": drawn, "prev_sample_mean": mean, "log_prob": row_mean(-((drawn - mean) ** 2))}
    return case("flow_cps_step", inputs, outputs | {"std_dev_t": std, "sqrt_dt": np.sqrt(s - n)})


def _dance(inputs: Case, noise: np.ndarray, replay: bool) -> tuple[str, Case]:
    x, v, grid, i = (inputs[key] for key in ("sample", "model_output", "sigmas", "step_index"))
    s, dt = grid[i], grid[i + 1] - grid[i]
    x0 = x - s * v
    score = -(x - (1 - s) * x0) / s**2
    mean, std = x + dt * v - 0.5 * inputs["eta"] ** 2 * score * dt, inputs["eta"] * np.sqrt(-dt)
    drawn = noise if replay else mean + std * noise
    outputs = {"prev_sample": drawn, "pred_original_sample": x0, "prev_sample_mean": mean, "std": std}
    return case("dance_sde_step", inputs, outputs | {"log_prob": log_density(drawn, mean, std)})


def solver_cases() -> Cases:
    """Every order and variant on short, long and truncated grids, and mixed trajectories with and without a tail."""
    long = np.linspace(1, 0, 18)
    seed = 0
    for grid in (*map(np.array, GRIDS.values()), long):
        for order, kind in ((1, "heun"), (2, "midpoint"), (2, "heun"), (3, "midpoint"), (3, "heun")):
            seed += 1
            field = {"a": 0.3 - 0.1 * seed % 0.7, "b": normal(seed, 3), "c": 0.2}
            inputs = {"kind": "pure", "order": order, "solver_type": kind, "sigmas": grid, "field": field}
            inputs["x_init"] = normal(seed + 1, 2, 3)
            yield case("dpmpp_2m", inputs, _pure(inputs))
    for start, width, steps in ((0, 1, 2), (3, 2, 9), (7, 1, 9)):
        yield _mixed(start, width, steps)


def _pure(inputs: Case) -> Case:
    grid, field, x = inputs["sigmas"], inputs["field"], inputs["x_init"]
    steps, xs, x0s = len(grid) - 1, [inputs["x_init"]], []
    for i in range(steps):
        x0s.append(x - grid[i] * (field["a"] * x + field["b"] + field["c"] * grid[i]))
        x = multistep(x, x0s, grid, i, _order(inputs["order"], i, steps), inputs["solver_type"])
        xs.append(x)
    return {"x": np.array(xs), "pred_x0": np.array(x0s)}


def _order(order: int, i: int, steps: int) -> int:
    if order == 1 or i == 0 or i == steps - 1:
        return 1
    return 2 if order == 2 or i == 1 or (i == steps - 2 and steps < 15) else 3


def multistep(x: np.ndarray, m: list[np.ndarray], grid: np.ndarray, i: int, order: int, kind: str) -> np.ndarray:
    """DPM-Solver++ in the file's own symbols; m holds the data predictions, the newest last."""
    s0, st = grid[i], grid[i + 1]
    if st == 0:
        return m[-1]
    with np.errstate(divide="ignore"):
        lam = np.log(1 - grid[: i + 2]) - np.log(grid[: i + 2])
    h, alpha = lam[i + 1] - lam[i], 1 - st
    e = np.exp(-h) - 1
    first = st / s0 * x - alpha * e * m[-1]
    if order == 1:
        return first
    r0 = (lam[i] - lam[i - 1]) / h
    d10 = (m[-1] - m[-2]) / r0
    if order == 2:
        return first + (-0.5 * alpha * e if kind == "midpoint" else alpha * (e / h + 1)) * d10
    r1 = (lam[i - 1] - lam[i - 2]) / h
    d11 = (m[-2] - m[-3]) / r1
    near = 0.0 if np.isinf(r1) else r0 / (r0 + r1)
    d1, d2 = d10 + near * (d10 - d11), (d10 - d11) / (r0 + r1)
    return first + alpha * (e / h + 1) * d1 - alpha * ((e + h) / h**2 - 0.5) * d2


def _mixed(start: int, width: int, steps: int) -> tuple[str, Case]:
    grid = np.array([3 * u / (1 + 2 * u) for u in np.linspace(1, 0, steps + 1)])
    window = list(range(start, start + width))
    field = {"a": -0.4, "b": normal(start, 2, 3), "c": 0.3}
    x = normal(steps, 2, 2, 3)
    noise = {str(i): normal(100 + i, 2, 2, 3) for i in window}
    inputs = {"kind": "trajectory", "sigma_grid": grid, "eta": 0.6, "window": window, "field": field}
    xs, log_probs, times = [x], {}, [int(1000 * s) / 1000 for s in grid[:-1]]
    for i, time in enumerate(times):
        v = field["a"] * x + field["b"] + field["c"] * time
        mean, g, root = flow_move(x, v, grid, np.array([i]), 0.6)
        if i in window:
            std = rows(g * root, x)
            drawn = mean + std * noise[str(i)]
            log_probs[str(i)] = log_density(drawn, mean, std)
        x = drawn if i in window else x + (grid[i + 1] - grid[i]) * v
        xs.append(x)
    outputs = {"sigma_grid": grid, "model_t": times, "latents": np.array(xs), "nfe": steps}
    inputs |= {"x_init": xs[0], "noise": noise}
    return case("mix_sde_step", inputs, outputs | {"window_log_prob": log_probs})
