"""A masked language model of LLaDA-8B's size with random weights: decoding, and one update of each method.

Needs torch alone: the network is built here, and of the project only the unmasking loop, the estimators and the core's
arithmetic are used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowgrpo.advantages import group_advantages
from flowgrpo.likelihood_masked import LogitsFn, Unit, likelihood, logits_at, masked_record, two_pass_backward
from flowgrpo.mask_plans import coupled, one_step, sdmc, trajectory
from flowgrpo.ratios import difference, sequence
from flowgrpo.records import Record
from flowgrpo.surrogates import clipped
from flowgrpo.views import Completions, MaskPlan, completions, keyed_draw
from samplers.masked import masked_canvas, sample_masked
from scripts.gpu_measures import Phase, Row, Setting, measure

Keys = Sequence[tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the network, of its adapter, and of what it decodes.

    Attributes:
        steps: decoding steps that are measured, of which each reveals two tokens as in the recipes.
        whole_steps: steps of a whole answer.
        answer: tokens of a whole answer.
    """

    width: int
    layers: int
    heads: int
    inner: int
    vocabulary: int
    rank: int
    group: int
    prompt: int
    answer: int
    block: int
    steps: int
    whole_steps: int


LLADA_8B = Shape(4096, 32, 32, 12288, 126464, 128, group=6, prompt=200, answer=256, block=32, steps=16, whole_steps=128)
"""Sizes of LLaDA-8B's published config; group, lengths and steps of the recipes diffu_grpo and gdpo."""
TINY = Shape(32, 2, 2, 64, 64, 4, group=2, prompt=5, answer=8, block=4, steps=2, whole_steps=4)


class Projection(nn.Module):
    """A frozen linear map, with a low-rank adapter in float32 where rank > 0 (LoRA, arXiv 2106.09685)."""

    def __init__(self, inputs: int, outputs: int, rank: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5, requires_grad=False)
        adapter = torch.float32
        self.down = nn.Parameter(torch.randn(rank, inputs, dtype=adapter) / inputs**0.5) if rank else None
        self.up = nn.Parameter(torch.zeros(outputs, rank, dtype=adapter)) if rank else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight)
        if self.down is None or self.up is None:
            return y
        return y + F.linear(F.linear(x, self.down.to(x.dtype)), self.up.to(x.dtype))


class Block(nn.Module):
    """Attention in both directions and a gated feed-forward layer, each after a norm. Adapted: q, k, v and up."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, inner, rank = shape.width, shape.inner, shape.rank
        self.heads = shape.heads
        self.q, self.k, self.v = (Projection(width, width, rank) for _ in range(3))
        self.out = Projection(width, width)
        self.gate, self.rise = Projection(width, inner), Projection(width, inner, rank)
        self.fall = Projection(inner, width)
        self.first, self.second = (nn.Parameter(torch.ones(width), requires_grad=False) for _ in range(2))

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        normed = F.rms_norm(x, x.shape[-1:], self.first)
        q, k, v = (part(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(rotated(q, turn), rotated(k, turn), v)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        normed = F.rms_norm(x, x.shape[-1:], self.second)
        return x + self.fall(F.silu(self.gate(normed)) * self.rise(normed))


class MaskedNetwork(nn.Module):
    """ids [n, T] -> hidden states [n, T, D]; `head` maps these to logits."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Parameter(torch.randn(shape.vocabulary, shape.width), requires_grad=False)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.Parameter(torch.ones(shape.width), requires_grad=False)
        self.head = Projection(shape.width, shape.vocabulary)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding[ids]
        turn = angles(ids.shape[1], self.shape.width // self.shape.heads, x)
        for block in self.blocks:
            x = block(x, turn)
        return F.rms_norm(x, x.shape[-1:], self.norm)

    def trainable(self) -> list[nn.Parameter]:
        """The adapter's parameters."""
        return [held for held in self.parameters() if held.requires_grad]


def angles(length: int, size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine [length, size] of rotary positions (RoFormer, arXiv 2104.09864), base 500000 as LLaDA's."""
    rates = 500000.0 ** -(torch.arange(0, size, 2, device=like.device, dtype=torch.float32) / size)
    turned = torch.outer(torch.arange(length, device=like.device, dtype=torch.float32), rates).repeat(1, 2)
    return turned.cos().to(like), turned.sin().to(like)


def rotated(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Each pair (i, i + size / 2) of x [..., T, size] turned by its angle."""
    low, high = x.chunk(2, dim=-1)
    return x * turn[0] + torch.cat([-high, low], dim=-1) * turn[1]


def build(shape: Shape, setting: Setting) -> MaskedNetwork:
    """Random weights, drawn on the device in the dtype of the forward pass."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(setting.dtype)
    try:
        with torch.device(setting.device):
            return MaskedNetwork(shape).eval()
    finally:
        torch.set_default_dtype(before)


@dataclass(frozen=True, slots=True)
class Method:
    """What an update of one recipe is made of.

    Attributes:
        plan: (completions, their noise keys, mask id) -> views.
        ratio: of a record.
        per: what a unit is.
        epochs: updates of one rollout in the recipe.
    """

    plan: Callable[[Completions, Keys, int], MaskPlan]
    ratio: Callable[[Record], Tensor]
    per: Unit
    epochs: int


def _drawn(estimator: Callable[..., MaskPlan], rows: Completions, keys: Keys, mask: int) -> MaskPlan:
    return estimator(rows, keyed_draw(keys), mask_id=mask)


def _recorded(count: int, rows: Completions, keys: Keys, mask: int) -> MaskPlan:
    """Canvases as a rollout leaves them: ever fewer masks, drawn here instead of recorded."""
    noise = keyed_draw(keys)(0, rows.completion)
    hidden = [rows.completion & (noise < (count - step) / count) for step in range(count)]
    canvases = torch.stack([rows.ids.masked_fill(part, mask) for part in hidden], dim=1)
    predictions = rows.ids.unsqueeze(1).expand_as(canvases)
    return trajectory(rows, canvases, predictions, mask_id=mask, weight="published")


METHODS: dict[str, Method] = {
    "diffu_grpo": Method(partial(_drawn, partial(one_step, prompt_mask=0.15)), difference, "token", 12),
    "coupled_grpo": Method(partial(_drawn, coupled), difference, "token", 12),
    "gdpo": Method(partial(_drawn, partial(sdmc, nodes=3, masks=1)), sequence, "sequence", 12),
    "mdpo": Method(partial(_recorded, 8), difference, "view", 1),
}
"""Views, ratio and inner epochs of the recipes of that name; all are measured on one prompt's group."""


def masked(setting: Setting) -> Row:
    """Forward, decoding by both ways of drawing, an update of each method, and what a recipe's iteration comes to."""
    shape = TINY if setting.tiny else LLADA_8B
    torch.manual_seed(0)
    network = build(shape, setting)
    phases = [measure(phase, setting) for phase in [*_decoding(network, setting), *_updates(network, setting)]]
    parameters = sum(held.numel() for held in network.parameters() if not held.requires_grad)
    return {"parameters": parameters, "phases": phases, "recipes": recipes(phases, shape)}


def _decoding(network: MaskedNetwork, setting: Setting) -> list[Phase]:
    """One forward with all logits of a block, and the first steps of an answer."""
    shape, mask = network.shape, network.shape.vocabulary - 1
    prompts = torch.randint(0, mask, (shape.group, shape.prompt)).tolist()
    length = 2 * shape.steps
    canvas, _ = masked_canvas(prompts, shape.answer, mask_id=mask, pad_id=0)
    canvas = canvas.to(setting.device)
    canvas[:, shape.prompt + length :] = 0  # masks behind the measured steps would only be more steps
    keys = [(0, row) for row in range(shape.group)]

    def logits(ids: Tensor, wanted: Tensor) -> Tensor:
        return network.head(network(ids)[wanted])

    def decode(draw: str) -> Any:
        settings = {"steps": shape.steps, "block_length": min(shape.block, length), "temperature": 0.9, "draw": draw}
        return sample_masked(logits, canvas, mask_id=mask, keys=keys, **settings)

    @torch.no_grad()
    def forward() -> Tensor:
        block = torch.zeros_like(canvas, dtype=torch.bool)
        block[:, shape.prompt : shape.prompt + shape.block] = True
        return logits(canvas, block)

    return [
        Phase("forward", forward, shape.group),
        Phase("decode, one draw per token", partial(decode, "gumbel"), shape.group, repeats=1),
        Phase("decode, one draw per position", partial(decode, "inverse"), shape.group, repeats=1),
    ]


def _updates(network: MaskedNetwork, setting: Setting) -> list[Phase]:
    """Gradients of a group's answers and an optimizer step, by method; several views take two passes."""
    shape, mask = network.shape, network.shape.vocabulary - 1
    ids = torch.randint(1, mask, (shape.group, shape.prompt + shape.answer), device=setting.device)
    rows = completions(ids, prompt_columns=shape.prompt, eos_ids=[])
    optimizer = torch.optim.AdamW(network.trainable(), lr=1e-6)
    keys = [(1, row) for row in range(shape.group)]
    plans = {name: method.plan(rows, keys, mask) for name, method in METHODS.items()}
    return [
        Phase(f"update of {name}", partial(update, network, METHODS[name], plan, optimizer), shape.group)
        for name, plan in plans.items()
    ]


def update(network: MaskedNetwork, method: Method, plan: MaskPlan, optimizer: torch.optim.Optimizer) -> Tensor:
    """One optimizer step on a group of random rewards; the loss, a scalar without graph."""
    count = len(plan.length)
    rewards, group = torch.rand(count), torch.zeros(count, dtype=torch.long)
    advantages = group_advantages(rewards, torch.ones(count, dtype=torch.bool), group).to(plan.length.device)

    def loss(values: Tensor) -> Tensor:
        length = plan.length if method.per == "sequence" else None
        log_ratio = method.ratio(masked_record(values, length=length))
        return clipped(log_ratio, advantages.unsqueeze(1).expand_as(log_ratio), low=0.2, high=0.2).loss.mean()

    optimizer.zero_grad(set_to_none=True)
    backward = single_pass_backward if len(plan.views) == 1 else two_pass_backward
    found = backward(logits_at(network, shift=0, head=network.head), plan, loss, per=method.per)
    optimizer.step()
    return found


def single_pass_backward(
    logits_fn: LogitsFn, plan: MaskPlan, loss_of: Callable[[Tensor], Tensor], *, per: Unit
) -> Tensor:
    """A plan of one view needs no second pass."""
    loss = loss_of(likelihood(logits_fn, plan, per=per))
    loss.backward()
    return loss.detach()


def recipes(phases: Sequence[Row], shape: Shape) -> list[Row]:
    """Seconds of a recipe's iteration on one group, put together from what was measured: decoding and all updates."""
    seconds = {phase["phase"]: phase["seconds"] for phase in phases}
    decode = seconds["decode, one draw per token"] * shape.whole_steps / shape.steps
    found = []
    for name, method in METHODS.items():
        total = decode + method.epochs * seconds[f"update of {name}"]
        found.append({"recipe": name, "iteration_seconds": total, "samples_per_second": shape.group / total})
    return found
