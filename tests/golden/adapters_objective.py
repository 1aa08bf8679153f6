"""Golden adapters of the objective: file stem -> function(inputs) -> outputs, in torch's default dtype."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from flowgrpo.advantages import clamped, combined_advantages, group_advantages, group_statistics
from flowgrpo.kl import mean_gap, mean_gap_no_dt
from flowgrpo.likelihood_flow import flow_record
from flowgrpo.ratios import guard, plain
from flowgrpo.records import Record
from flowgrpo.select import best_of_n
from flowgrpo.surrogates import clipped
from flowgrpo.weights import inverse_dt, noise_level
from samplers import Gaussian
from samplers.kernels import cps, flow_sde

Case = dict[str, Any]


def flow_grpo_advantages(case: Case) -> Case:
    """Rewards may have a column per step: each is normalised by itself, the first is what statistics are of."""
    rewards = torch.tensor(case["rewards"])
    columns = rewards.reshape(len(rewards), -1)
    group = torch.tensor([sorted(set(case["prompts"])).index(prompt) for prompt in case["prompts"]])
    options = {"kind": case["type"], "std": "global" if case["global_std"] else "group"}
    values = torch.stack([_advantages(column, group, **options) for column in columns.T], 1).reshape(rewards.shape)
    flat, everyone = columns.flatten(), torch.ones(len(rewards), dtype=torch.bool)
    statistics = group_statistics(columns[:, 0], everyone, group)
    return {
        "advantages": values,
        "clipped": clamped(values, case["adv_clip_max"]),
        "avg_group_size": statistics["group_size"],
        "num_prompts": statistics["groups"],
        "zero_std_ratio": statistics["zero_std_groups"],
        "reward_std_mean": statistics["group_std"],
        "fallback_batch_advantages": _advantages(flat, torch.zeros(len(flat))).reshape(rewards.shape),
    }


def _advantages(rewards: Tensor, group: Tensor, **options: Any) -> Tensor:
    return group_advantages(rewards, torch.ones(len(rewards), dtype=torch.bool), group, **options)


def dance_grpo_advantages(case: Case) -> Case:
    """Sets, not orders, of selected samples are compared: the source shuffles them right after."""
    rewards = {name: torch.tensor(case[f"{name}_rewards"]) for name in ("vq", "mq")}
    weights = {name: case[f"{name}_coef"] for name in rewards}
    everyone = torch.ones(len(rewards["vq"]), dtype=torch.bool)
    group = torch.arange(case["groups"]).repeat_interleave(case["num_generations"])
    options = {"ddof": 1, "eps": 1e-8}
    total = combined_advantages(rewards, everyone, group, weights=weights, **options)
    keep = best_of_n(total, everyone, group=group, step=group * 0, best_of=case["bestofn"], scope="batch")
    return {
        "vq_advantages": group_advantages(rewards["vq"], everyone, group, **options),
        "mq_advantages": group_advantages(rewards["mq"], everyone, group, **options),
        "total_scores": total,
        "selected_indices": _best_first(keep, total, case["bestofn"]),
    }


def _best_first(keep: Tensor, scores: Tensor, count: int) -> list[int]:
    """The kept samples in the source's order: the upper half ascending, then the lower half ascending."""
    ascending = sorted(keep.nonzero().flatten().tolist(), key=lambda i: scores[i].item())
    return ascending[-(count // 2) :] + ascending[: count // 2]


def flow_grpo_kl(case: Case) -> Case:
    """For CPS the source's g is the whole std, so that its form without dt is our exact one."""
    kernel = {"sde": flow_sde, "cps": cps}[case["sde_type"]]
    new, ref = (_transition(case, kernel, case[key]) for key in ("model_output", "model_output_ref"))
    dt = _dt(case)
    record = flow_record(new, None, new.mean, dt=dt, ref_mean=ref.mean)
    sde, sqrt_dt = case["sde_type"] == "sde", dt.abs().sqrt()
    scaled = replace(record, std=record.std * sqrt_dt.unsqueeze(1))
    return {
        "prev_sample_mean": new.mean,
        "prev_sample_mean_ref": ref.mean,
        "std_dev_t": new.std.flatten() / (sqrt_dt if sde else 1),
        "sqrt_dt": sqrt_dt,
        "kl_code": (mean_gap_no_dt if sde else mean_gap)(record).mean(),
        "kl_with_dt": mean_gap(record if sde else scaled).mean(),
    }


def _transition(case: Case, kernel: Any, velocity: Any) -> Gaussian:
    sigmas, index = torch.tensor(case["sigmas"]), torch.as_tensor(case["step_index"])
    x = torch.tensor(case["sample"])
    v = velocity if isinstance(velocity, Tensor) else torch.tensor(velocity)
    sigma, sigma_next = (sigmas[i].expand(len(x)) for i in (index, index + 1))
    return kernel(x, v, sigma, sigma_next, eta=case["noise_level"], sigma_max=case["sigmas"][1])


def _dt(case: Case) -> Tensor:
    sigmas, index = torch.tensor(case["sigmas"]), torch.as_tensor(case["step_index"])
    return (sigmas[index + 1] - sigmas[index]).expand(len(case["sample"]))


def grpo_guard_ratio(case: Case) -> Case:
    """The per-sample variant is ours; the batch-wide bias of the source is rebuilt here to check our parts of it."""
    x_next, dt = torch.tensor(case["next_sample"]), _dt(case)
    old = _transition(case, flow_sde, case["model_output_old"])
    advantages = clamped(torch.tensor(case["advantages"]), case["adv_clip_max"]).unsqueeze(1)
    new = _transition(case, flow_sde, case["model_output_new"])
    record = flow_record(new, old, x_next, dt=dt)
    outputs = {
        "log_prob_old": old.log_prob(x_next),
        "log_prob_new": record.log_prob.flatten(),
        "prev_sample_mean_old": old.mean,
        "prev_sample_mean_new": new.mean,
        "std_dev_t": new.std.flatten() / dt.abs().sqrt(),
        "sqrt_dt": dt.abs().sqrt(),
    }
    for name, ratio, weigh in (("upstream", _upstream, True), ("plain", plain, False), ("per_sample", guard, True)):
        v = torch.tensor(case["model_output_new"], requires_grad=True)
        record = flow_record(_transition(case, flow_sde, v), old, x_next, dt=dt)
        log_ratio = ratio(record)
        losses = clipped(log_ratio, advantages, low=case["clip_range"], high=case["clip_range"]).loss
        loss = (losses * (inverse_dt(record) if weigh else 1)).mean()
        loss.backward()
        outputs |= {f"ratio_{name}": log_ratio.exp().flatten(), f"loss_{name}": loss, f"grad_{name}": v.grad}
    return {key: value.detach() for key, value in outputs.items()}


def _upstream(record: Record) -> Tensor:
    own = record.old_gap / (2 * record.std)
    return record.eps_gap - own + own.mean()


def tempflow_weights(case: Case) -> Case:
    sigmas = torch.tensor(case["sigmas"])
    x = torch.zeros(len(sigmas) - 1, 1)
    std = flow_sde(x, x, sigmas[:-1], sigmas[1:], case["noise_level"], case["sigmas"][1]).std
    trained = std[: case["n_train"]]
    outputs = {
        "raw": std.flatten(),
        "norm_mean1": noise_level(Record(log_prob=trained, std=trained), trained_std=trained).flatten(),
        "mean_raw": trained.mean(),
    }
    constant = case["source_constant"]
    return outputs if constant is None else outputs | {"source_constant_weight": constant * trained.flatten()}


ADAPTERS = {
    "flow_grpo_advantages": flow_grpo_advantages,
    "dance_grpo_advantages": dance_grpo_advantages,
    "flow_grpo_kl": flow_grpo_kl,
    "grpo_guard_ratio": grpo_guard_ratio,
    "tempflow_weights": tempflow_weights,
}
