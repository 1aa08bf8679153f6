"""Golden adapters of masked likelihoods: file stem -> function(inputs) -> outputs, in torch's default dtype."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from flowgrpo import recipe
from flowgrpo.advantages import group_advantages, group_statistics
from flowgrpo.credit_text import leave_one_out, step_rewards
from flowgrpo.kl import k3, none
from flowgrpo.likelihood_masked import LogitsFn, exact_elbo, likelihood, logits_at, masked_record
from flowgrpo.mask_plans import coupled, espo, gauss_legendre, one_step, sdmc, uniform
from flowgrpo.objective import resolve_objective, unit_losses
from flowgrpo.ratios import difference, sequence
from flowgrpo.select import largest_steps
from flowgrpo.views import Completions, Draw, MaskPlan, completions

Case = dict[str, Any]


def toy(model: Case, *, shift: int = 0, guidance: float = 0.0, prompt_columns: int = 0) -> LogitsFn:
    """The closed-form model of the files; its logits are float64 whatever the default dtype."""

    def body(ids: Tensor) -> Tensor:
        logits = _toy_logits(model, ids)
        if not guidance:
            return logits
        columns = torch.arange(ids.shape[1]) < prompt_columns
        without = _toy_logits(model, ids.masked_fill(columns, model["mask_id"]))
        return without + (guidance + 1) * (logits - without)

    return logits_at(body, shift=shift)


def _toy_logits(model: Case, ids: Tensor) -> Tensor:
    place = torch.arange(ids.shape[1], dtype=torch.float64)
    token = torch.arange(model["V"], dtype=torch.float64)
    own = model["a"] * torch.sin(model["alpha"] * torch.outer(place + 1, token + 1))
    phase = model["beta"] * (ids.double() + 1)[:, :, None] * (token + 1) + model["gamma"] * place[:, None]
    seen = torch.cos(phase) * (ids != model["mask_id"])[:, :, None]
    near = 1 / (1 + (place[:, None] - place).abs())
    logits = own + model["b"] * torch.einsum("pq,bqv->bpv", near, seen)
    logits[..., model["mask_id"]] = -model["c"]
    return logits


def recorded(arrays: Iterable[Any]) -> Draw:
    """Noise from a file, in its order of use."""
    left = iter(arrays)
    return lambda turn, where: torch.tensor(next(left), dtype=torch.float64)


def diffu_grpo_logps(case: Case) -> Case:
    model, prompt = case["model"], case["prompt_len"]
    logits_fn = toy(model, guidance=case["cfg_scale"], prompt_columns=prompt)
    options = {"mask_id": model["mask_id"], "prompt_mask": case["p_mask_prompt"]}
    plans = [
        one_step(completions(torch.tensor(ids), prompt_columns=prompt, eos_ids=()), recorded([u]), **options)
        for ids, u in zip(case["tokens"], case["u"], strict=True)
    ]
    noisy = torch.cat([plan.views[0].inputs for plan in plans])
    return {
        "noisy": noisy,
        "per_token_logps": torch.stack([likelihood(logits_fn, plan, per="token") for plan in plans]),
        "model_rows": len(noisy) * (2 if case["cfg_scale"] else 1),
    }


def coupled_logps(case: Case) -> Case:
    return {"combine": _combine, "end_to_end": _coupled_end_to_end}[case["kind"]](case)


def _combine(case: Case) -> Case:
    """Logits are given, so that the masks are too: noise 0 puts a token into the first of the pair, 1 into the other.

    Targets hold no mask token, and neither do rows of ours; any id outside the vocabulary is one.
    """
    logits, batch, rounds = torch.tensor(case["logits"]), case["batch"], case["num_iterations"]
    mask_id, values = logits.shape[-1], []
    for number in range(rounds):
        rows = slice(number * batch, (number + 1) * batch)
        ids, first = torch.tensor(case["targets"])[rows], torch.tensor(case["mask1"])[rows]
        given = logits[3 * number * batch : 3 * (number + 1) * batch].split(batch)
        times = torch.tensor([case["t"][number]], dtype=torch.float64)
        completed = completions(ids, prompt_columns=0, eos_ids=())
        plan = coupled(completed, recorded([(~first).double().tolist()]), mask_id=mask_id, times=times)
        asked = iter([part for part, view in zip(given, plan.views, strict=True) if bool(view.scored.any())])
        values.append(likelihood(lambda ids, scored, asked=asked: next(asked)[scored], plan, per="token"))
    return {"per_token_logps": torch.cat(values)}


def _coupled_end_to_end(case: Case) -> Case:
    model, noisy, values = case["model"], [], []
    for ids, u, t in zip(case["tokens"], case["u"], case["t"], strict=True):
        rows = completions(torch.tensor(ids), prompt_columns=case["prompt_len"], eos_ids=())
        times = torch.tensor([t], dtype=torch.float64)
        plan = coupled(rows, recorded([u]), mask_id=model["mask_id"], times=times)
        noisy += [view.inputs for view in plan.views]
        values.append(likelihood(toy(model, shift=1), plan, per="token"))
    return {"noisy": torch.cat(noisy), "per_token_logps": torch.stack(values, 1), "model_rows": sum(map(len, noisy))}


def gdpo_elbo(case: Case) -> Case:
    """The port masks padding with the prompt, and keeps random times at least one token from 0."""
    ids, scored = torch.tensor(case["tokens"]), torch.tensor(case["completion_mask"])
    rows = Completions(ids, scored, scored, ~scored, torch.zeros_like(scored))
    plan, nodes = _gdpo_plan(case, rows)
    logits_fn = toy(case["model"])
    elbo = likelihood(logits_fn, plan, per="sequence")
    tokens = torch.nn.functional.pad(likelihood(logits_fn, plan, per="token"), (plan.start, 0))
    outputs = {
        "nodes": [time for time, _ in nodes],
        "weights": [weight for _, weight in nodes],
        "points": _gdpo_points(case, plan, nodes),
        "elbo_per_position": tokens,
        "elbo": elbo.flatten(),
    }
    if "model_old" not in case:
        return outputs
    old = likelihood(toy(case["model_old"]), plan, per="sequence")
    record = masked_record(elbo, old=old, length=plan.length)
    return outputs | {
        "elbo_old": old.flatten(),
        "ratio_length_normalised": sequence(record).exp().flatten(),
        "ratio_unnormalised": difference(record).exp().flatten(),
    }


SIMPSON = ((0.1, 1 / 6), (0.5, 4 / 6), (1.0, 1 / 6))


def _gdpo_plan(case: Case, rows: Completions) -> tuple[MaskPlan, Any]:
    options = {"mask_id": case["model"]["mask_id"], "prompt_mask": case["p_mask_prompt"], "form": "floor"}
    quadrature, noise = case["quadrature"], case["noise"]
    if quadrature == "mc":
        times = torch.tensor(noise[0], dtype=torch.float64).maximum(1 / rows.length.unsqueeze(1))
        return uniform(rows, recorded(noise[1:]), times=times, **options), []
    nodes = SIMPSON if quadrature == "simpson" else gauss_legendre(int(quadrature.removeprefix("gauss-")))
    return sdmc(rows, recorded(noise), nodes=nodes, masks=case["mc_samples"], **options), nodes


def _gdpo_points(case: Case, plan: MaskPlan, nodes: Any) -> list[Case]:
    draws = case["mc_samples"]
    times = [time for time, _ in nodes for _ in range(draws)] or [None] * draws
    return [
        _gdpo_point(view, time, plan.length, case["noise"][0], index)
        for index, (view, time) in enumerate(zip(plan.views, times, strict=True))
    ]


def _gdpo_point(view: Any, time: float | None, length: Tensor, drawn: Any, index: int) -> Case:
    coefficient = view.weights.amax(1)
    if time is None:
        times = torch.tensor(drawn, dtype=torch.float64)[:, index].maximum(1 / length)
        return {"time": times, "coefficient": coefficient, "noisy": view.inputs, "masked": view.scored}
    return {"time": time, "coefficient": coefficient[0], "noisy": view.inputs, "masked": view.scored}


def espo_elbo(case: Case) -> Case:
    """Counts come from the batch-wide spread of the source; its single pass is twice the first half of a pair."""
    model, ids = case["model"], torch.tensor(case["tokens"])
    rows = completions(ids, prompt_columns=case["prompt_len"], eos_ids=())
    size = len(case["perms"][0]) + 1
    count = [round(case["k_first"] + row * size / len(ids)) % size for row in range(len(ids))]
    shares = [[(number + 0.5) / size] for number in count]
    noise = torch.nn.functional.pad(torch.tensor(case["perms"], dtype=torch.float64), (case["prompt_len"], 0))
    plan = espo(rows, recorded([shares, noise.tolist()]), mask_id=model["mask_id"])
    logits_fn = toy(model, shift=int(case["shift_logits"]))
    halves = likelihood(logits_fn, plan, per="view")
    both = case["reduce_var"]
    return {
        "noisy": plan.views[0].inputs,
        "noisy_complement": plan.views[1].inputs if both else None,
        "elbo": halves.sum(1) if both else 2 * halves[:, 0],
    }


def exact_elbo_case(case: Case) -> Case:
    model, start = case["model"], case["prompt_len"]
    rows = completions(torch.tensor([case["tokens"]]), prompt_columns=start, eos_ids=())
    exact = exact_elbo(toy(model), rows, mask_id=model["mask_id"], batch=50)
    profile = exact.by_count[0]
    time = torch.tensor(case["t_grid"], dtype=torch.float64).unsqueeze(1)
    count = torch.arange(1, len(profile) + 1, dtype=torch.float64)
    binomial = torch.distributions.Binomial(len(profile), time).log_prob(count).exp()
    return {
        "sum_logp_by_count": profile,
        "elbo": exact.elbo[0],
        "elbo_per_token": exact.per_token[0, start:],
        "g_of_t": (binomial * profile).sum(1) / time.squeeze(1),
        "one_step_logp": profile[-1],
    }


def grpo_k3_loss(case: Case) -> Case:
    """beta 0 has no reference; the mean over kept tokens of the micro-batch is reduction "mean"."""
    new = torch.tensor(case["logp_new"], requires_grad=True)
    old = None if case["logp_old"] is None else torch.tensor(case["logp_old"])
    keep = torch.tensor(case["completion_mask"]).bool()
    section = recipe.Objective(clip_low=case["epsilon_low"], clip_high=case["epsilon_high"], beta=case["beta"])
    kl = k3 if case["beta"] else none
    objective = replace(resolve_objective(section), ratio=difference, kl=kl)
    record = masked_record(new, old=old, ref=torch.tensor(case["logp_ref"]))
    units = torch.arange(keep.numel())
    weight = objective.reduction(keep, units // keep.shape[1], units)
    advantages = torch.tensor(case["advantages"]).unsqueeze(1).expand_as(new)
    loss, _ = unit_losses(objective, record, advantages, weight)
    loss.backward()
    return {"loss": loss.detach(), "grad_logp_new": new.grad}


def d1_group_advantages(case: Case) -> Case:
    rewards = torch.tensor(case["rewards"])
    group = torch.arange(len(rewards)) // case["num_generations"]
    everyone = torch.ones(len(rewards), dtype=torch.bool)
    kind = leave_one_out if case["kind"] == "loo" else "grpo"
    scope = "group" if case["scale_rewards"] else "none"
    values = group_advantages(rewards, everyone, group, kind=kind, std=scope, ddof=1, eps=1e-4)
    spread = rewards.reshape(-1, case["num_generations"]).std(1, correction=1)
    assert group_statistics(rewards, everyone, group)["groups"] == len(spread)
    return {"advantages": values, "std": spread.repeat_interleave(case["num_generations"])}


def mdpo_step_advantages(case: Case) -> Case:
    raw = step_rewards(torch.tensor(case["step_rewards"]))
    size, count = raw.shape
    everyone, step = torch.ones(size, count, dtype=torch.bool), torch.arange(count).expand(size, count)
    values = group_advantages(
        raw.flatten(), everyone.flatten(), step.flatten(), kind="grpo", std="group", ddof=1, eps=1e-4
    )
    advantages = values.reshape(size, count)
    keep = largest_steps(
        advantages,
        everyone,
        step=step,
        sample=torch.arange(size).unsqueeze(1).expand(size, count),
        train_steps=case["sample_train_steps"],
    )
    order = advantages.abs().masked_fill(~keep, -1).argsort(dim=1, descending=True, stable=True)
    return {"raw": raw, "advantages": advantages, "selected_steps": order[:, : case["sample_train_steps"]]}


ADAPTERS = {
    "diffu_grpo_logps": diffu_grpo_logps,
    "coupled_logps": coupled_logps,
    "gdpo_elbo": gdpo_elbo,
    "espo_elbo": espo_elbo,
    "exact_elbo": exact_elbo_case,
    "grpo_k3_loss": grpo_k3_loss,
    "d1_group_advantages": d1_group_advantages,
    "mdpo_step_advantages": mdpo_step_advantages,
}
