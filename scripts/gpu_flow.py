"""Flow models of published size with random weights: one forward, one iteration, and every recipe's plan.

The networks are diffusers' own, built from `flowgrpo/policies/real_configs`; the policy, the plan, the sampling engine,
the record and the loss are those that train. Only text encoders are missing: conditionings are numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from flowgrpo.advantages import group_advantages
from flowgrpo.assets import shipped_recipes
from flowgrpo.attention import set_attention
from flowgrpo.errors import RecipeError
from flowgrpo.geometry import geometry
from flowgrpo.likelihood_flow import flow_record
from flowgrpo.objective import Objective, resolve_objective, unit_losses
from flowgrpo.planning import kernel_of, plan_for, roots_per_group
from flowgrpo.policies import rehearsal
from flowgrpo.policies.pipeline import PipelinePolicy
from flowgrpo.policy import Conditioning
from flowgrpo.quiet import quiet_libraries
from flowgrpo.ratios import plain
from flowgrpo.recipe import Recipe
from flowgrpo.recipe_loading import load_recipe
from samplers import sample_flow
from samplers.rollout import FlowRollout, Transition, transition
from scripts.gpu_measures import Missing, Phase, Row, Setting, measure

TINY_NETWORKS: dict[str, dict[str, Any]] = {
    "SD3Transformer2DModel": {
        "num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 2, "joint_attention_dim": 16,
        "caption_projection_dim": 16, "pooled_projection_dim": 16, "pos_embed_max_size": 16, "sample_size": 8,
        "dual_attention_layers": [0],
    },
    "FluxTransformer2DModel": {
        "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2,
        "joint_attention_dim": 16, "pooled_projection_dim": 16, "axes_dims_rope": [4, 6, 6],
    },
}  # fmt: skip
TINY_DECODER = {"block_out_channels": [8, 8, 8, 8], "layers_per_block": 1, "norm_num_groups": 4}
TINY_TEXT = {"tokens": [6, 16], "pooled": [16]}
TINY_SIDE = 64
TOLERANCE = 1e-4
"""Largest |log ratio| that exchanging the attention may cause: the clip range of the published recipes."""


@dataclass(frozen=True, slots=True)
class Model:
    """What a section builds: a file of `real_configs`, the recipe whose iteration is run, and sizes.

    Attributes:
        group: samples of the one prompt of the iteration.
        rows: latents per forward.
    """

    config: str
    recipe: str
    group: int
    rows: int


SD35_MEDIUM = Model("sd3.5-medium", "flow_grpo", group=12, rows=6)
FLUX_1 = Model("flux.1-dev", "mix_grpo", group=12, rows=4)


@dataclass(frozen=True, slots=True)
class Bench:
    """A policy ready to run: the recipe as it is run here, and the one row of its text."""

    real: Mapping[str, Any]
    recipe: Recipe
    policy: PipelinePolicy
    text: Conditioning
    rows: int

    def velocity(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Of latents [n, ...], by the recipe's guidance."""
        rows = self.text.rows(torch.zeros(len(x), dtype=torch.long))
        return self.policy.velocity(x, sigma, rows, guidance_scale=self.recipe.model.guidance_scale)

    @property
    def network_rows(self) -> int:
        """Rows that the network sees per latent: two with a negative branch."""
        return 2 if self.text.negative and self.recipe.model.guidance_scale > 1 else 1


def flow(model: Model, setting: Setting) -> Row:
    """Phases of a model, and what every recipe for it comes to."""
    bench = build(model, setting)
    phases = [measure(phase, setting) for phase in _phases(bench)]
    network = bench.policy.parts()["network"]
    parameters = sum(held.numel() for name, held in network.named_parameters() if ".lora_" not in name)
    size = {"height": bench.recipe.model.height, "width": bench.recipe.model.width}
    return {"parameters": parameters, **size, "phases": phases, "recipes": recipes(bench, phases)}


def build(model: Model, setting: Setting) -> Bench:
    """Random weights in bfloat16, drawn on the device.

    The recipe is kept but for its sizes, its dtype, and an adapter of rank 32 in place of other ranks or all weights.
    """
    real = rehearsal.read_real(model.config)
    real = shrunk(real) if setting.tiny else real
    rows, group = (2, 2) if setting.tiny else (model.rows, model.group)
    given = {
        "model.dtype": "bfloat16", "model.adapter": "lora", "model.lora_rank": rehearsal.RANK,
        "model.height": real["height"], "model.width": real["width"], "train.prompts_per_iteration": 1,
        "train.group_size": group, "train.updates_per_iteration": 1, "train.micro_batch_size": rows,
        "sampler.batch_size": rows,
    }  # fmt: skip
    words = [word for key, value in given.items() for word in (f"--{key}", str(value))]
    recipe = load_recipe(model.recipe, words).recipe
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(setting.device), quiet_libraries():
            policy = rehearsal.build(real, recipe.model)
            text = rehearsal.conditioning(real, policy)
    finally:
        torch.set_default_dtype(before)
    policy.device = torch.device(setting.device)
    if recipe.model.gradient_checkpointing:
        network: Any = policy.parts()["network"]
        network.enable_gradient_checkpointing()
    return Bench(real, recipe, policy, text, rows)


def shrunk(real: Mapping[str, Any]) -> dict[str, Any]:
    """The same pipeline at toy size."""
    networks = {name: (kind, {**config, **TINY_NETWORKS[kind]}) for name, (kind, config) in real["networks"].items()}
    decoder = (real["vae"][0], {**real["vae"][1], **TINY_DECODER})
    return {**real, "networks": networks, "vae": decoder, "text": TINY_TEXT, "height": TINY_SIDE, "width": TINY_SIDE}


def _phases(bench: Bench) -> list[Phase]:
    """A forward, a forward with its backward pass, a decoded batch, and one iteration of a group."""
    policy, rows = bench.policy, bench.rows
    x = policy.initial_noise([(0, row) for row in range(rows)])
    optimizer = torch.optim.AdamW(policy.trainable().values(), lr=1e-6)
    objective = resolve_objective(bench.recipe.objective)

    @torch.no_grad()
    def sampled() -> Tensor:
        return bench.velocity(x, rehearsal.HALF)

    def trained() -> None:
        optimizer.zero_grad(set_to_none=True)
        bench.velocity(x, rehearsal.HALF).square().mean().backward()

    return [
        Phase("sampled forward", sampled, rows),
        Phase("trained forward and backward", trained, rows),
        Phase("decoder", partial(policy.decode, x), rows),
        Phase(
            f"iteration of {bench.recipe.name}",
            partial(iteration, bench, objective, optimizer),
            bench.recipe.train.group_size,
            repeats=1,
        ),
    ]


def iteration(bench: Bench, objective: Objective, optimizer: torch.optim.Optimizer) -> None:
    """Sample one prompt's group along the recipe's plan, decode, credit random rewards, update."""
    rollout = rolled_out(bench)
    bench.policy.decode(rollout.samples)
    count = len(rollout.samples)
    group, valid = torch.zeros(count, dtype=torch.long), torch.ones(count, dtype=torch.bool)
    advantages = group_advantages(torch.rand(count), valid, group)
    optimizer.zero_grad(set_to_none=True)
    for inputs in torch.arange(len(rollout.inputs)).split(bench.rows):
        _loss(bench, objective, rollout, advantages, inputs).backward()
    optimizer.step()


def rolled_out(bench: Bench) -> FlowRollout:
    """The recipe's first plan for one group."""
    recipe, sampler = bench.recipe, bench.recipe.sampler
    sigmas = bench.policy.sigmas(sampler.steps, grid=sampler.grid, shift=sampler.shift)
    keys = [(recipe.train.seed, 1, 0, root) for root in range(roots_per_group(recipe))]
    return sample_flow(
        lambda x, sigma, rows: bench.velocity(x, sigma),
        bench.policy.initial_noise(keys),
        plan_for(recipe, sigmas, 1),
        kernel=kernel_of(recipe),
        eta=sampler.eta,
        keys=keys,
        batch_size=bench.rows,
        storage_dtype=getattr(torch, sampler.latent_dtype),
    )


def _loss(bench: Bench, objective: Objective, rollout: FlowRollout, advantages: Tensor, inputs: Tensor) -> Tensor:
    """Share of some inputs in the loss of the update; an edge has the advantage of the first sample below it."""
    reference = None
    if "ref_gap" in objective.reads:
        with torch.no_grad(), bench.policy.reference():
            reference = _moved(bench, rollout, inputs).gaussian.mean
    new = _moved(bench, rollout, inputs)
    density = bench.recipe.sampler.density
    record = flow_record(new.gaussian, None, new.x_next, dt=new.dt, density=density, ref_mean=reference)
    credit = advantages[rollout.edge_leaves[new.edges, 0]].unsqueeze(1).to(record.log_prob)
    share = torch.full_like(credit, 1 / len(rollout.edge_step))
    return unit_losses(objective, record, credit, share)[0]


def _moved(bench: Bench, rollout: FlowRollout, inputs: Tensor) -> Transition:
    """Distribution of the edges of some inputs under the policy as it is."""
    sigma = torch.tensor(rollout.plan.sigmas, dtype=torch.float32)[rollout.input_step[inputs]]
    return transition(rollout, bench.velocity(rollout.inputs[inputs], sigma.to(bench.policy.device)), inputs)


def recipes(bench: Bench, phases: Sequence[Row]) -> list[Row]:
    """Forwards per sample of every shipped recipe for this model, and the seconds that they take as measured here."""
    seconds = {phase["phase"]: phase["seconds"] / bench.rows / bench.network_rows for phase in phases}
    sampled, trained = seconds["sampled forward"], seconds["trained forward and backward"]
    decoded = seconds["decoder"] * bench.network_rows
    found = []
    for name in _recipes_of(bench.real["hub"]):
        counts = geometry(load_recipe(name, []).recipe, negative_branch=bool(bench.text.negative))
        forwards = sampled * (counts.sampling_rows + counts.no_grad_rows) + trained * counts.trained_rows
        total = forwards / counts.samples + decoded
        found.append(
            {
                "recipe": name,
                "sampled_per_sample": counts.sampling / counts.samples,
                "trained_per_sample": counts.trained / counts.samples,
                "without_gradient_per_sample": (counts.old + counts.reference) / counts.samples,
                "seconds_per_sample": total,
                "samples_per_second": 1 / total,
            }
        )
    return found


def _recipes_of(hub: Sequence[str]) -> list[str]:
    """Shipped recipes whose model has one of these names."""
    return [name for name in shipped_recipes() if load_recipe(name, []).recipe.model.path in hub]


def attention(setting: Setting, pair: tuple[str, str] = ("sdpa", "xformers")) -> Row:
    """Two attention implementations on the same transitions of Stable Diffusion 3.5: log ratios, time, memory.

    Raises:
        Missing: one of them is not installed, or cannot be used here.
    """
    bench = build(SD35_MEDIUM, setting)
    network = bench.policy.parts()["network"]
    measured: dict[str, list[Row]] = {}
    means: list[Transition] = []
    rollout = rolled_out(bench)
    inputs = torch.arange(min(bench.rows, len(rollout.inputs)))
    for name in pair:
        try:
            set_attention(network, name)
        except RecipeError as error:
            raise Missing(str(error)) from error
        with torch.no_grad():
            means.append(_moved(bench, rollout, inputs))
        measured[name] = [measure(phase, setting) for phase in _phases(bench)[:2]]
    largest = log_ratio_gap(*means)
    return {"log_ratio_gap": largest, "tolerance": TOLERANCE, "within": largest <= TOLERANCE, "phases": measured}


def log_ratio_gap(old: Transition, new: Transition) -> float:
    """Largest |log ratio| of the same draws under two velocities."""
    record = flow_record(new.gaussian, old.gaussian, new.x_next, dt=new.dt)
    return plain(record).abs().max().item()


sd35_medium = partial(flow, SD35_MEDIUM)
flux_1 = partial(flow, FLUX_1)
