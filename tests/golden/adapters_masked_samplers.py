"""Golden adapters of the masked samplers: file stem -> function(inputs) -> outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from samplers.masked import MaskedRollout, masked_canvas, sample_masked, transfer_schedule

Case = dict[str, Any]

SCHEDULE_NAMES = {
    ("llada", None): "even",
    ("mdpo_maskgit", "linear"): "maskgit_linear",
    ("mdpo_maskgit", "cosine"): "maskgit_cosine",
    ("mdpo_maskgit", "pow2"): "maskgit_square",
    ("dllm_alpha", "LinearAlphaScheduler"): "alpha_linear",
    ("dllm_alpha", "CosineAlphaScheduler"): "alpha_cosine",
}
RCR_ORDERS = {"llada": "low_confidence", "entropy": "entropy", "topk_margin": "topk_margin"}


def llada_transfer_schedule(case: Case) -> Case:
    name = SCHEDULE_NAMES[case["kind"], case["mode"]]
    table = transfer_schedule(case["mask_counts"], case["steps"], name).tolist()
    if case["kind"] == "dllm_alpha":  # that source moves a row's idle steps to its end and cuts the table
        busy = [[n for n in row if n] for row in table]
        longest = max(map(len, busy))
        table = [row + [0] * (longest - len(row)) for row in busy]
    return {"table": table}


def llada_sampler_trace(case: Case) -> Case:
    model = Toy(case["model"], case.get("noise"))
    rollout = model.decode(
        case["prompt"],
        case["gen_length"],
        order=case["remasking"],
        uniform=model.uniform,
        keys=[(row,) for row in range(len(case["prompt"]))],
        **{key: case[key] for key in ("steps", "block_length", "temperature")},
        guidance=case["cfg_scale"],
    )
    start = len(case["prompt"][0])
    return {
        "states": states(rollout).tolist(),
        "unmask_step": rollout.step[:, start:],
        "final": rollout.ids,
        "nfe": int(rollout.forwards[0]),
        "model_calls": int(rollout.steps[0]),
    }


def dream_sampler_trace(case: Case) -> Case:
    model = Toy(case["model"], shift=1)
    options = {key: case[key] for key in ("steps", "temperature")}
    rollout = model.decode(
        case["prompt"], case["max_new_tokens"], order=case["alg"], schedule="dream", skip_idle=False, **options
    )
    history = states(rollout)[1:]
    return {
        "final": rollout.ids,
        "history": history.tolist(),
        "n_transfer": transfer_schedule([case["max_new_tokens"]], case["steps"], "dream")[0],
        "nfe": int(rollout.forwards[0]),
    }


def fastdllm_threshold_trace(case: Case) -> Case:
    model = Toy(case["model"])
    steps = case["steps"] if case["threshold"] is None else None
    options = {key: case[key] for key in ("block_length", "threshold")}
    rollout = model.decode(case["prompt"], case["gen_length"], steps=steps, **options)
    return {"states": states(rollout).tolist(), "final": rollout.ids, "nfe": int(rollout.forwards[0])}


def rcr_trace(case: Case) -> Case:
    model = Toy(case["model"], dtype=torch.float32)
    rollout = model.decode(
        case["prompt"],
        case["gen_length"],
        **{key: case[key] for key in ("steps", "block_length")},
        order=RCR_ORDERS[case["conf_alg"]],
        schedule=f"maskgit_{case['mode']}",
        remasking="rcr" if case["rcr"] else "none",
    )
    start = len(case["prompt"][0])
    assert rollout.canvases is not None and rollout.guesses is not None
    canvases = rollout.canvases[0]
    confidence = _running(rollout, start, case) if case["rcr"] else model.best_probability(canvases)
    return {
        "final": rollout.ids[:, start:],
        "x_t": canvases[:, start:],
        "x0_pred": rollout.guesses[0, :, start:],
        "confidence": confidence[:, start:],
    }


def _running(rollout: MaskedRollout, start: int, case: Case) -> Tensor:
    """The source's store of confidences after each step, from the recorded guesses in scope; its last is ours."""
    assert rollout.canvases is not None and rollout.confidences is not None
    steps = case["steps"] * case["block_length"] // case["gen_length"]
    store, stores = torch.zeros(rollout.ids.shape[1]), []
    for k, (canvas, confidence) in enumerate(zip(rollout.canvases[0], rollout.confidences[0], strict=True)):
        stop = start + (k // steps + 1) * case["block_length"]
        scope = (canvas == case["model"]["mask_id"]) & (torch.arange(len(canvas)) < stop)
        store = torch.where(scope, confidence, store)
        stores.append(store)
    stores[-1] = rollout.confidence[0]
    return torch.stack(stores)


def states(rollout: MaskedRollout) -> Tensor:
    """Canvas before every step and at the end [K + 1, B, L]."""
    assert rollout.canvases is not None
    return torch.cat([rollout.canvases.transpose(0, 1), rollout.ids.unsqueeze(0)])


class Toy:
    """The closed-form model that these files share, and the noise that they recorded."""

    def __init__(
        self, model: Case, noise: Sequence[Any] | None = None, *, shift: int = 0, dtype: torch.dtype | None = None
    ) -> None:
        self.model, self.shift, self.dtype = model, shift, dtype
        self.noise = noise
        self.wanted = torch.empty(0)

    def decode(self, prompts: Sequence[Sequence[int]], length: int, **options: Any) -> MaskedRollout:
        mask_id = self.model["mask_id"]
        ids, _ = masked_canvas(prompts, length, mask_id=mask_id, pad_id=mask_id)
        return sample_masked(self, ids, mask_id=mask_id, record=True, **options)

    def __call__(self, ids: Tensor, positions: Tensor) -> Tensor:
        self.wanted = positions
        logits = closed_form(ids, **self.model)
        if self.shift:
            logits = torch.cat([logits[:, :1], logits[:, :-1]], dim=1)
        return logits[positions].to(self.dtype or logits.dtype)

    def best_probability(self, ids: Tensor) -> Tensor:
        return closed_form(ids, **self.model).softmax(-1).amax(-1)

    @property
    def uniform(self) -> Callable[[tuple[int, ...], Sequence[int]], Tensor]:
        def recorded(key: tuple[int, ...], shape: Sequence[int]) -> Tensor:
            row, _, step = key
            assert self.noise is not None
            return torch.tensor(self.noise[step][row], dtype=torch.float64)[self.wanted[row]].reshape(*shape)

        return recorded


def closed_form(
    ids: Tensor,
    *,
    V: int,
    mask_id: int,
    a: float,
    alpha: float,
    b: float,
    beta: float,
    gamma: float,
    c: float,
) -> Tensor:
    """Logits float64 [n, L, V] of the formula in the files."""
    place = torch.arange(ids.shape[1], dtype=torch.float64)
    token = torch.arange(V, dtype=torch.float64) + 1
    own = a * torch.sin(alpha * (place + 1).unsqueeze(1) * token)
    near = 1 / (1 + (place.unsqueeze(1) - place).abs())
    heard = torch.cos(beta * (ids + 1).unsqueeze(-1) * token + gamma * place.unsqueeze(1))
    heard = heard * (ids != mask_id).unsqueeze(-1)
    logits = own + b * near @ heard
    logits[..., mask_id] = -c
    return logits


ADAPTERS: dict[str, Callable[[Case], Case]] = {
    "llada_transfer_schedule": llada_transfer_schedule,
    "llada_sampler_trace": llada_sampler_trace,
    "rcr_trace": rcr_trace,
    "dream_sampler_trace": dream_sampler_trace,
    "fastdllm_threshold_trace": fastdllm_threshold_trace,
}
