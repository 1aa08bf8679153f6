"""Golden cases of credit and objective that no file holds: odd group sizes, ties, deep and lopsided trees, one step.

Written from the files' `equations` in plain Python and numpy, without any of our code.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from perturbed_steps import GRIDS, Case, Cases, case, flow_move, log_density, normal, row_mean, rows


def advantage_cases() -> Cases:
    groups = {
        "one prompt": "aaaaa",
        "every prompt once": "abcde",
        "pairs": "abab",
        "uneven": "aabbbcaab",
    }
    for seed, prompts in enumerate(groups.values()):
        rewards = {"normal": normal(seed, len(prompts)), "ties": np.arange(len(prompts)) % 2 * 0.1}
        rewards["equal"] = np.full(len(prompts), 0.1)
        rewards["per step"] = normal(seed + 9, len(prompts), 3)
        for name, values in rewards.items():
            for kind in ("grpo", "rwr", "sft", "dpo"):
                if kind == "dpo" and (name == "per step" or prompts == "abcde" or "c" in prompts):
                    continue  # the source has no pair for a group of one, and no steps
                for scope in (False, True):
                    yield _flow_grpo(list(prompts), values, kind, scope)
    for sizes in ((1, 5, 4, 1.0, 0.5), (3, 4, 6, 0.3, 0.0), (2, 2, 2, 1.0, -1.0)):
        yield _dance_grpo(*sizes)


def _flow_grpo(prompts: list[str], rewards: np.ndarray, kind: str, scope: bool) -> tuple[str, Case]:
    columns = rewards.reshape(len(prompts), -1)
    made = np.stack([_column(prompts, column, kind, scope) for column in columns.T], 1).reshape(rewards.shape)
    first = [columns[[p == name for p in prompts], 0] for name in sorted(set(prompts))]
    spreads = [0.0 if len(set(part)) == 1 else part.std() for part in first]
    flat = columns.flatten()
    outputs = {
        "advantages": made,
        "clipped": made.clip(-1.2, 1.2),
        "avg_group_size": len(prompts) / len(first),
        "num_prompts": len(first),
        "zero_std_ratio": np.mean([spread == 0 for spread in spreads]),
        "reward_std_mean": np.mean(spreads),
        "fallback_batch_advantages": ((flat - flat.mean()) / (flat.std() + 1e-4)).reshape(rewards.shape),
    }
    inputs = {"prompts": prompts, "rewards": rewards, "global_std": scope, "type": kind, "adv_clip_max": 1.2}
    return case("flow_grpo_advantages", inputs, outputs)


def _column(prompts: list[str], rewards: np.ndarray, kind: str, scope: bool) -> np.ndarray:
    out = np.zeros(len(rewards))
    for name in set(prompts):
        rows_of = [i for i, prompt in enumerate(prompts) if prompt == name]
        own = rewards[rows_of]
        spread = rewards.std() if scope else own.std()
        high = int(own.argmax()), int(own.argmin())
        pair = (1, 0) if high[0] == high[1] else high
        signs = [(i == pair[0]) - (i == pair[1]) for i in range(len(own))]
        kinds = {"grpo": (own - own.mean()) / (spread + 1e-4), "rwr": own, "sft": own == own.max(), "dpo": signs}
        out[rows_of] = kinds[kind]
    return out


def _dance_grpo(groups: int, size: int, best: int, vq: float, mq: float) -> tuple[str, Case]:
    rewards = {name: normal(seed, groups * size) for name, seed in (("vq", 5), ("mq", 6))}
    parts = {}
    for name, values in rewards.items():
        table = values.reshape(groups, size)
        spread = table.std(1, ddof=1, keepdims=True)
        parts[name] = ((table - table.mean(1, keepdims=True)) / (spread + 1e-8)).flatten()
    total = vq * parts["vq"] + mq * parts["mq"]
    order = total.argsort(kind="stable").tolist()
    inputs = {"num_generations": size, "groups": groups, "bestofn": best, "vq_coef": vq, "mq_coef": mq}
    inputs |= {f"{name}_rewards": values for name, values in rewards.items()}
    outputs = {f"{name}_advantages": values for name, values in parts.items()}
    chosen = order[-(best // 2) :] + order[: best // 2]
    return case("dance_grpo_advantages", inputs, outputs | {"total_scores": total, "selected_indices": chosen})


def distance_cases() -> Cases:
    """KL and Guard, with rows at different steps, wide policies and clipped units."""
    for seed, grid in enumerate(map(np.array, GRIDS.values())):
        for shape in ((1, 2), (3, 2, 2)):
            for index in {0, max(0, len(grid) - 3)}:
                yield _kl(seed, grid, np.full(shape[0], index), shape)
                if grid[index + 1] > 0:
                    yield _guard(seed, grid, index, shape, clip=(1e-6, 0.02, 10.0)[seed % 3])


def _kl(seed: int, grid: np.ndarray, index: np.ndarray, shape: tuple[int, ...]) -> tuple[str, Case]:
    x, v, ref = (normal(seed + 20 * k, *shape) for k in range(3))
    (mean, g, root), (other, _, _) = (flow_move(x, velocity, grid, index, 0.7) for velocity in (v, ref))
    gap = row_mean((mean - other) ** 2)
    inputs = {"sde_type": "sde", "sigmas": grid, "step_index": index, "noise_level": 0.7, "sample": x}
    inputs |= {"model_output": v, "model_output_ref": ref}
    outputs = {"prev_sample_mean": mean, "prev_sample_mean_ref": other, "std_dev_t": g, "sqrt_dt": root}
    scales = {"kl_code": (gap / (2 * g**2)).mean(), "kl_with_dt": (gap / (2 * (g * root) ** 2)).mean()}
    return case("flow_grpo_kl", inputs, outputs | scales)


def _guard(seed: int, grid: np.ndarray, i: int, shape: tuple[int, ...], clip: float) -> tuple[str, Case]:
    """`upstream` is left out: with one row it is the per-sample form, with more it is the source's defect."""
    index = np.full(shape[0], i)
    x, v_old = normal(seed, *shape), normal(seed + 1, *shape)
    v = v_old + 0.3 * normal(seed + 2, *shape)
    (old, g, root), (new, _, _) = (flow_move(x, velocity, grid, index, 0.7) for velocity in (v_old, v))
    std = rows(g * root, x)
    drawn = old + std * normal(seed + 3, *shape)
    advantages = normal(seed + 4, shape[0]) * 2
    log_probs = [log_density(drawn, mean, std) for mean in (old, new)]
    gap, s = log_probs[1] - log_probs[0], (g * root)[0]
    eps, count, on_v = (drawn - old) / std, x[0].size, _slope(grid, i)
    inputs = {"sigmas": grid, "step_index": i, "noise_level": 0.7, "clip_range": clip, "adv_clip_max": 1.5}
    inputs |= {"sample": x, "model_output_old": v_old, "model_output_new": v, "next_sample": drawn}
    outputs: dict[str, Any] = {"log_prob_old": log_probs[0], "log_prob_new": log_probs[1]}
    forms = {
        "plain": (gap, (drawn - new) / std**2 * on_v / count, 1.0),
        "per_sample": (s * (gap + row_mean((new - old) ** 2) / (2 * s**2)), eps * on_v / count, 1 / root[0] ** 2),
    }
    a = advantages.clip(-1.5, 1.5)
    for name, (log_ratio, slope, weight) in forms.items():
        r = np.exp(log_ratio)
        cut = np.clip(r, 1 - clip, 1 + clip)
        used = (-a * r >= -a * cut).astype(float)
        outputs[f"ratio_{name}"] = r
        outputs[f"loss_{name}"] = weight * np.maximum(-a * r, -a * cut).mean()
        outputs[f"grad_{name}"] = rows(-a * r * used * weight / len(a), x) * slope
    stem, made = case("grpo_guard_ratio", inputs | {"advantages": advantages}, outputs)
    return stem, made


def _slope(grid: np.ndarray, i: int) -> float:
    """d mean / d v of the Flow-GRPO step."""
    one = np.ones((1, 1))
    return float(flow_move(0 * one, one, grid, np.array([i]), 0.7)[0][0, 0])


def window_cases() -> Cases:
    for steps, width, tau, stride, rule in ((9, 3, 2, 2, "paper_clamp"), (5, 4, 1, 3, "paper_clamp")):
        left = [min(m // tau * stride, steps - width) for m in range(30)]
        yield _window(rule, steps, width, tau, stride, left)
    for overlap, first, back in ((2, 0, True), (1, 2, False), (0, 1, True), (2, 3, False)):
        steps, width, tau = 12, 3, 2
        stride = width - overlap
        places = max(1, (steps - first - width) // stride + 1)
        turns = [m // tau % places if back else min(m // tau, places - 1) for m in range(40)]
        left = [first + k * stride for k in turns]
        extra = {"overlap": overlap, "init": first, "roll_back": back}
        yield _window("unirl_stateless", steps, width, tau, stride, left, **extra)
    stays = [max(1, int(10 * (1 - place / 18) + place / 18)) for place in range(14)]
    left = [place for place, stay in enumerate(stays) for _ in range(stay)][:60]
    extra = {"strategy": "decay", "max_interval": 10, "min_interval": 1, "max_timesteps": 18}
    yield _window("mixgrpo_code", 20, 5, 25, 1, left, **extra)


def _window(rule: str, steps: int, width: int, tau: int, stride: int, left: list[int], **extra: Any) -> Any:
    inputs = {"rule": rule, "T": steps, "window_size": width, "shift_interval": tau, "stride": stride}
    inputs |= {"strategy": "progressive", "iterations": len(left)} | extra
    return case("mix_window", inputs, {"left": left, "size": [width] * len(left)})
