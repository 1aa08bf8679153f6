"""One iteration of a model at its real size without its weights: shapes, counts, FLOPs and bytes, from fake tensors.

The networks, the text encoders and the decoder are built from the numbers of their published configs (`real_configs/`),
as tensors that have a shape and a dtype and no memory. The policy that runs on them is the one that trains: encoded
prompts, guidance, replay, backward pass, decoded pictures and the adapter's file are its own. What comes out says
whether a recipe fits a machine, before the weights are fetched.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.nn import Module

from flowgrpo.policies.adapters import attach
from flowgrpo.policies.experts import HIGH, networks_of
from flowgrpo.policies.families import FAMILIES
from flowgrpo.policies.loading import plan_latents
from flowgrpo.policies.pipeline import PipelinePolicy
from flowgrpo.policies.precision import DTYPES, component_dtypes
from flowgrpo.policies.rehearsal_meter import Cost, fake_tensors, measured
from flowgrpo.policies.rehearsal_saving import SAVED_RANK, saved_adapter
from flowgrpo.policies.rehearsal_text import longest_prompt, text_parts
from flowgrpo.policy import Conditioning
from flowgrpo.recipe import Model

REAL_CONFIGS = Path(__file__).parent / "real_configs"
RANK = 32
"""Rank of the adapter that the table counts, Flow-GRPO's for Stable Diffusion 3.5."""
LAST_TEXT_LAYERS = ("add_q_proj", "to_add_out", "ff_context", "txt_mlp")
"""Adapted layers on the text side: behind those of a last block there is nothing."""
BLOCK = re.compile(r"(.*?)\.(\d+)\.")
HALF = 0.5
"""Noise level of the rehearsed steps."""


def real_names() -> tuple[str, ...]:
    """The models whose numbers are in the repository."""
    return tuple(sorted(path.stem for path in REAL_CONFIGS.glob("*.json")))


def read_real(name: str) -> dict[str, Any]:
    """The published numbers of one model, and what must come out of them (`expected`)."""
    return json.loads((REAL_CONFIGS / f"{name}.json").read_text(encoding="utf-8"))


def section(real: Mapping[str, Any], adapter: str = "lora", rank: int = RANK) -> Model:
    """The `model` section that the rehearsal runs: the size of the published numbers, bfloat16 unless they say so.

    The negative prompt is as long as the prompt, so that no row's text is shorter than it can be.
    """
    size = {key: real[key] for key in ("height", "width", "frames", "guidance_scale", "max_sequence_length")}
    given = {"path": real["hub"][0], "dtype": real.get("dtype", "bfloat16"), "negative_prompt": longest_prompt(real)}
    return Model(**{**given, **size, "adapter": adapter, "lora_rank": rank, "lora_alpha": 2 * rank})


def build(real: Mapping[str, Any], model: Model, *, encoders: bool = False) -> PipelinePolicy:
    """The policy over networks without weights, if asked with text encoders; to be called inside `fake_tensors`."""
    import diffusers

    def make(entry: tuple[str, dict[str, Any]], dtype: torch.dtype) -> Any:
        made = getattr(diffusers, entry[0]).from_config(entry[1])
        return made.to(dtype) if isinstance(made, Module) else made

    entries, dtypes = {**real["networks"], "vae": real["vae"]}, {"vae": torch.float32}
    stored = component_dtypes(DTYPES[model.dtype], full=model.adapter == "full")["transformer"]
    parts = {name: make(entry, dtypes.get(name, stored)) for name, entry in entries.items()}
    with unset_fake_temporarily():  # a scheduler reads its own levels
        parts["scheduler"] = make(real["scheduler"], torch.float32)
    for name in (*real["networks"], "vae"):
        parts[name].requires_grad_(False).eval()
    if encoders:
        parts |= text_parts(real, DTYPES[model.dtype])
    pipe = _pipeline(diffusers, real, parts)
    trained = attach(pipe, model, place=lambda network: network, seed=0)
    return PipelinePolicy(pipe, FAMILIES[real["pipeline"]], model, trained, torch.device("cpu"))


def _pipeline(diffusers: Any, real: Mapping[str, Any], parts: Mapping[str, Any]) -> Any:
    """The pipeline's own class around the parts; what is not among them stays empty."""
    import inspect

    kind = getattr(diffusers, real["pipeline"])
    wanted = inspect.signature(kind.__init__).parameters
    text = {name: None for name in wanted if name.startswith(("text_encoder", "tokenizer", "image_encoder", "feature"))}
    return kind(**{**text, **parts, **real["options"]})


def conditioning(real: Mapping[str, Any], policy: PipelinePolicy) -> Conditioning:
    """Text of one prompt in the shapes that `encode` gives it, for a policy without text encoders."""
    rows = {
        name: torch.ones(1, *shape, dtype=torch.bool if name == "mask" else policy.dtype)
        for name, shape in real["text"].items()
    }
    return Conditioning(rows, rows if plan_latents(policy._pipe, policy._model).negative_branch else {})


def rehearse(name: str) -> dict[str, Any]:
    """One row of the table: sizes, counts, FLOPs and bytes of one picture or video of model `name`.

    Encoding is one prompt that fills the longest text, and where the model has one its negative prompt, one after the
    other. Sampling is one step without gradient; training one step replayed with its backward pass, without and with
    gradient checkpointing, by an adapter or by all weights ("full": what each further picture adds, beside gradients
    and weights in the dtype of the forward pass). Guidance runs as the model's row in `real_configs` says, so a row may
    be two for the network. Decoding is one picture or video. An adapter is written and read back.
    """
    real = read_real(name)
    with fake_tensors():
        policy = build(real, section(real), encoders=True)
        encoding, cond = encode(policy)
        encoders = _text_sizes(real, policy, cond)
        policy.drop_encoders()
        x = torch.zeros(1, *policy.latent_shape)
        with torch.no_grad():
            sampled = measured(_parts(policy), lambda: _step(policy, HIGH, x, cond, real))
            decoding, media = _decode(policy, x)
        replayed = measured(_parts(policy), lambda: _replay(policy, x, cond, real))
        _check_gradients(name, policy)
        _checkpoint(policy)
        saved = measured(_parts(policy), lambda: _replay(policy, x, cond, real))
        full, full_saved = _all_weights(real, cond)
        small = build(real, section(real, rank=SAVED_RANK))
    networks = len(real["networks"])
    flops = {"training": replayed.flops // networks, "full": full.flops // networks}
    return {
        "dtype": section(real).dtype,
        **_sizes(real, policy, encoders["parameters"]),
        **_geometry(real, policy),
        "text": encoders["text"],
        "media": list(media),
        "file": saved_adapter(name, real, small),
        "flops": {"encoding": encoding.flops, "sampling": sampled.flops, **flops, "decoding": decoding.flops},
        "bytes": {
            "encoding": encoding.bytes,
            "sampling": sampled.bytes,
            "training": replayed.bytes,
            "checkpointed": saved.bytes,
            "full": full.bytes,
            "full_checkpointed": full_saved.bytes,
            "decoding": decoding.bytes,
        },
    }


def encode(policy: PipelinePolicy) -> tuple[Cost, Conditioning]:
    """The longest prompt through the pipeline's own `encode_prompt`, by the policy, and the negative one."""
    texts: list[Conditioning] = []
    encoders = [getattr(policy._pipe, part) for part in policy._family.text_parts]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # CLIP cuts what fills a T5
        cost = measured(encoders, lambda: texts.append(policy.encode([policy._model.negative_prompt])))
    return cost, texts[0]


def _decode(policy: PipelinePolicy, x: Tensor) -> tuple[Cost, Sequence[int]]:
    media: list[Tensor] = []
    cost = measured(_parts(policy), lambda: media.append(policy.decode(x)))
    return cost, media[0].shape[1:]


def _parts(policy: PipelinePolicy) -> list[Module]:
    return list(policy.parts().values())


def _all_weights(real: Mapping[str, Any], cond: Conditioning) -> tuple[Cost, Cost]:
    """Replaying one more picture where every weight is trained, without and with checkpointing."""
    policy = build(real, section(real, "full"))
    for held in policy.trainable().values():
        held.grad = torch.zeros_like(held)
    plain = _of_one_more(policy, real, cond)
    _checkpoint(policy, keep_gradients=True)
    return plain, _of_one_more(policy, real, cond)


def _of_one_more(policy: PipelinePolicy, real: Mapping[str, Any], cond: Conditioning) -> Cost:
    one, two = (
        measured(_parts(policy), partial(_replay, policy, torch.zeros(count, *policy.latent_shape), text, real))
        for count in (1, 2)
        for text in [cond.rows(torch.tensor([0] * count))]
    )
    return Cost(two.flops - one.flops, two.bytes - one.bytes)


def _checkpoint(policy: PipelinePolicy, *, keep_gradients: bool = False) -> None:
    for network in networks_of(policy._pipe).values():
        network.enable_gradient_checkpointing()
        if not keep_gradients:
            network.zero_grad(set_to_none=True)


def _step(policy: PipelinePolicy, network: str, x: Tensor, cond: Conditioning, real: Mapping[str, Any]) -> Tensor:
    """One velocity, at a noise level that belongs to a network."""
    boundary = policy._boundary
    level = HALF if boundary is None else (boundary + 1000 * (network == HIGH)) / 2000
    return policy.velocity(x, level, cond, guidance_scale=real["guidance_scale"])


def _replay(policy: PipelinePolicy, x: Tensor, cond: Conditioning, real: Mapping[str, Any]) -> None:
    for network in real["networks"]:
        _step(policy, network, x, cond, real).square().mean().backward()


def _check_gradients(name: str, policy: PipelinePolicy) -> None:
    trained = policy.trainable()
    last: dict[str, int] = {}
    for block, at in map(_block_of, trained):
        last[block] = max(at, last.get(block, 0))
    missing = [key for key, held in trained.items() if held.grad is None]
    idle = [key for key in missing if not (_of_text(key) and _block_of(key)[1] == last[_block_of(key)[0]])]
    if idle:
        raise AssertionError(f"{name}: no gradient reaches {idle[0]} and {len(idle) - 1} others")


def _of_text(key: str) -> bool:
    return any(part in key for part in LAST_TEXT_LAYERS)


def _block_of(key: str) -> tuple[str, int]:
    """Name of the list of blocks that a parameter is in, and the number of its block there."""
    found = BLOCK.match(key)
    return (found[1], int(found[2])) if found else ("", 0)


def _text_sizes(real: Mapping[str, Any], policy: PipelinePolicy, cond: Conditioning) -> dict[str, Any]:
    """Parameters of the text encoders, and the shapes of what they made of a prompt."""
    encoders = {name: getattr(policy._pipe, name) for name in real["encoders"]}
    return {
        "parameters": {name: sum(p.numel() for p in part.parameters()) for name, part in encoders.items()},
        "text": {name: list(rows.shape[1:]) for name, rows in cond.prompt.items()},
    }


def _sizes(real: Mapping[str, Any], policy: PipelinePolicy, encoders: Mapping[str, int]) -> dict[str, Any]:
    """Parameters and what an adapter adds."""
    networks = networks_of(policy._pipe)
    adapted = sum(held.numel() for held in policy.trainable().values())
    counts = {key: sum(p.numel() for p in part.parameters()) for key, part in networks.items()}
    return {
        "pipeline": real["pipeline"],
        "hub": real["hub"],
        "size": {key: real[key] for key in ("height", "width", "frames", "guidance_scale")},
        "parameters": {
            # An adapter hangs in the first network's own modules: what it adds is taken off again.
            **{key: count - _added(policy, key) for key, count in counts.items()},
            "vae": sum(p.numel() for p in policy.parts()["decoder"].parameters()),
            **encoders,
        },
        "adapter": {"layers": len(policy.trainable()) // 2, "sides": adapted // RANK},
        "configs": {key: dict(entry[1]) for key, entry in {**real["networks"], "vae": real["vae"]}.items()},
        "options": real["options"],
    }


def _added(policy: PipelinePolicy, component: str) -> int:
    network = networks_of(policy._pipe)[component]
    return sum(held.numel() for key, held in network.named_parameters() if ".lora_" in key)


def _geometry(real: Mapping[str, Any], policy: PipelinePolicy) -> dict[str, Any]:
    """What the network is called with for one latent, and the shift of the grid."""
    latents = plan_latents(policy._pipe, policy._model)
    config, family = policy._pipe.scheduler.config, FAMILIES[real["pipeline"]]
    dynamic = config.get("use_dynamic_shifting")
    return {
        "latent": list(latents.shape),
        "tokens": latents.tokens,
        "mu": round(family.shift(config, latents.tokens, real["steps"]), 5) if dynamic else None,
        "sigmas": [round(level, 6) for level in policy.sigmas(real["steps"])],
    }
