"""One iteration of a model at its real size without its weights: shapes, counts, FLOPs and bytes, from fake tensors.

The networks are built from the numbers of their published configs (`real_configs/`), as tensors that have a shape and
a dtype and no memory. The policy that runs on them is the one that trains: guidance, replay, backward pass and adapter
are its own. What comes out says whether a recipe fits a machine, before the weights are fetched.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.nn import Module, Parameter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from flowgrpo.policies import pipeline, qwen_image, z_image
from flowgrpo.policies.adapters import attach
from flowgrpo.policies.experts import HIGH, Share, networks_of
from flowgrpo.policies.facts import FACTS
from flowgrpo.policies.families import FAMILIES
from flowgrpo.policies.loading import plan_latents
from flowgrpo.policies.pipeline import PipelinePolicy
from flowgrpo.policies.precision import DTYPES, component_dtypes
from flowgrpo.policy import Conditioning
from flowgrpo.quiet import quiet_libraries
from flowgrpo.recipe import Model

REAL_CONFIGS = Path(__file__).parent / "real_configs"
RANK = 32
"""Rank of the adapter that the table counts, Flow-GRPO's for Stable Diffusion 3.5."""
LAST_TEXT_LAYERS = ("add_q_proj", "to_add_out", "ff_context", "txt_mlp")
"""Adapted layers on the text side: behind those of a last block there is nothing."""
HALF = 0.5
"""Noise level of the rehearsed steps."""


def real_names() -> tuple[str, ...]:
    """The models whose numbers are in the repository."""
    return tuple(sorted(path.stem for path in REAL_CONFIGS.glob("*.json")))


def read_real(name: str) -> dict[str, Any]:
    """The published numbers of one model, and what must come out of them (`expected`)."""
    return json.loads((REAL_CONFIGS / f"{name}.json").read_text(encoding="utf-8"))


class Meter(TorchDispatchMode):
    """Counts FLOPs, the bytes of tensors that are made and not yet gone, and the most bytes that there were at once.

    torch's own FLOP counter follows modules with hooks that hold their inputs, so bytes beside it would be too many.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self.now = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs `func` and counts what it did and returned."""
        result = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        self.flops += 0 if count is None else count(*args, **(kwargs or {}), out_val=result)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._enter(leaf.untyped_storage())
        return result

    def know(self, tensors: Iterator[Tensor]) -> None:
        """Leaves tensors that were there before out of the count, when a view of them comes by."""
        self._known.update(tensor.untyped_storage()._cdata for tensor in tensors)

    def _enter(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._leave, key, size)

    def _leave(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


@dataclass(frozen=True, slots=True)
class Cost:
    """FLOPs of a pass, and the most bytes that it held beside weights and adapter."""

    flops: int
    bytes: int


def measured(policy: PipelinePolicy, run: Callable[[], Any]) -> Cost:
    """What `run` costs beside weights, and gradients that are there already."""
    meter = Meter()
    for part in policy.parts().values():
        meter.know(iter([*part.parameters(), *part.buffers()]))
        meter.know(held.grad for held in part.parameters() if held.grad is not None)
    with meter:
        run()
    return Cost(meter.flops, meter.peak)


@contextmanager
def fake_tensors() -> Iterator[None]:
    """Inside, tensors have no memory and no values; text is taken to fill its mask, whose values nobody knows."""

    def whole(mask: Tensor) -> list[int]:
        return [mask.shape[1]] * len(mask)

    with (
        patch.object(qwen_image, "row_lengths", whole),
        patch.object(z_image, "row_lengths", whole),
        patch.object(Module, "_apply", _exchange),
        FakeTensorMode(allow_non_fake_inputs=True),
        quiet_libraries(),
    ):
        yield


def _exchange(module: Module, function: Callable[[Tensor], Tensor], recurse: bool = True) -> Module:
    """`Module._apply` by new parameters: torch swaps the contents of old ones, which fake tensors do not allow."""
    for child in module.children() if recurse else ():
        _exchange(child, function)
    for name, held in module._parameters.items():
        if held is not None:
            module._parameters[name] = Parameter(function(held.detach()), requires_grad=held.requires_grad)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = function(buffer)
    return module


def section(real: Mapping[str, Any], adapter: str = "lora") -> Model:
    """The `model` section that the rehearsal runs: the size of the published numbers, bfloat16 unless they say so."""
    size = {key: real[key] for key in ("height", "width", "frames", "guidance_scale")}
    dtype = real.get("dtype", "bfloat16")
    return Model(**{"path": real["hub"][0], "dtype": dtype, "adapter": adapter, "lora_rank": RANK, **size})


def build(real: Mapping[str, Any], model: Model) -> PipelinePolicy:
    """The policy over networks without weights; to be called inside `fake_tensors`."""
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
    pipe = _pipeline(diffusers, real, parts)
    trained = attach(pipe, model, place=lambda network: network, seed=0)
    return PipelinePolicy(pipe, FAMILIES[real["pipeline"]], model, trained, torch.device("cpu"))


def _pipeline(diffusers: Any, real: Mapping[str, Any], parts: Mapping[str, Any]) -> Any:
    """The pipeline's own class around the parts, with no text encoders."""
    import inspect

    kind = getattr(diffusers, real["pipeline"])
    wanted = inspect.signature(kind.__init__).parameters
    text = {name: None for name in wanted if name.startswith(("text_encoder", "tokenizer", "image_encoder", "feature"))}
    return kind(**{**text, **parts, **real["options"]})


def conditioning(real: Mapping[str, Any], policy: PipelinePolicy) -> Conditioning:
    """Encoded text of one prompt in the family's shapes."""
    rows = {
        name: torch.ones(1, *shape, dtype=torch.bool if name == "mask" else policy.dtype)
        for name, shape in real["text"].items()
    }
    return Conditioning(rows, rows if plan_latents(policy._pipe, policy._model).negative_branch else {})


def rehearse(name: str) -> dict[str, Any]:
    """One row of the table: sizes, counts, FLOPs and bytes of one picture or video of model `name`.

    Sampling is one step without gradient; training one step replayed with its backward pass, without and with gradient
    checkpointing, by an adapter or by all weights ("full": what each further picture adds, beside gradients and
    weights in the dtype of the forward pass). Guidance runs as the model's row in `real_configs` says, so a row may be
    two for the network. Decoding is one picture or video.
    """
    real = read_real(name)
    with fake_tensors():
        policy = build(real, section(real))
        cond, x = conditioning(real, policy), torch.zeros(1, *policy.latent_shape)
        with torch.no_grad():
            sampled = measured(policy, lambda: _step(policy, HIGH, x, cond, real))
            decoded = measured(policy, lambda: policy.decode(x))
        replayed = measured(policy, lambda: _replay(policy, x, cond, real))
        _check_gradients(name, policy)
        _checkpoint(policy)
        saved = measured(policy, lambda: _replay(policy, x, cond, real))
        full, full_saved = _all_weights(real)
    networks = len(real["networks"])
    flops = {"training": replayed.flops // networks, "full": full.flops // networks}
    return {
        "dtype": section(real).dtype,
        **_sizes(real, policy),
        **_geometry(real, policy),
        "flops": {"sampling": sampled.flops, **flops, "decoding": decoded.flops},
        "bytes": {
            "sampling": sampled.bytes,
            "training": replayed.bytes,
            "checkpointed": saved.bytes,
            "full": full.bytes,
            "full_checkpointed": full_saved.bytes,
            "decoding": decoded.bytes,
        },
    }


def _all_weights(real: Mapping[str, Any]) -> tuple[Cost, Cost]:
    """Replaying one more picture where every weight is trained, without and with checkpointing."""
    policy = build(real, section(real, "full"))
    for held in policy.trainable().values():
        held.grad = torch.zeros_like(held)
    plain = _of_one_more(policy, real)
    _checkpoint(policy, keep_gradients=True)
    return plain, _of_one_more(policy, real)


def _of_one_more(policy: PipelinePolicy, real: Mapping[str, Any]) -> Cost:
    one, two = (
        measured(policy, partial(_replay, policy, torch.zeros(count, *policy.latent_shape), cond, real))
        for count in (1, 2)
        for cond in [conditioning(real, policy).rows(torch.zeros(count, dtype=torch.long))]
    )
    return Cost(two.flops - one.flops, two.bytes - one.bytes)


def _checkpoint(policy: PipelinePolicy, *, keep_gradients: bool = False) -> None:
    for network in networks_of(policy._pipe).values():
        network.enable_gradient_checkpointing()
        if not keep_gradients:
            network.zero_grad(set_to_none=True)


def _step(policy: PipelinePolicy, network: str, x: Tensor, cond: Conditioning, real: Mapping[str, Any]) -> Tensor:
    """One velocity by a network by name: which one a fake noise level belongs to is not known."""
    with patch.object(pipeline, "shares", lambda timestep, boundary: [Share(network, None)]):
        return policy.velocity(x, HALF, cond, guidance_scale=real["guidance_scale"])


def _replay(policy: PipelinePolicy, x: Tensor, cond: Conditioning, real: Mapping[str, Any]) -> None:
    for network in real["networks"]:
        _step(policy, network, x, cond, real).square().mean().backward()


def _check_gradients(name: str, policy: PipelinePolicy) -> None:
    missing = [key for key, held in policy.trainable().items() if held.grad is None]
    idle = [key for key in missing if not any(part in key for part in LAST_TEXT_LAYERS)]
    if idle:
        raise AssertionError(f"{name}: no gradient reaches {idle[0]} and {len(idle) - 1} others")


def _sizes(real: Mapping[str, Any], policy: PipelinePolicy) -> dict[str, Any]:
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


def recorded_call(real: Mapping[str, Any]) -> dict[str, Any]:
    """What a family's `denoise` hands its network at noise level 1/2: the latents' shape and the timestep.

    Runs on real tensors of one latent, with a stand-in for the network that answers its input.
    """
    name, config = next(iter(real["networks"].values()))
    sizes = FACTS[real["pipeline"]].sizes(config, {**_vae_defaults(real), **real["vae"][1]})
    x = torch.zeros(1, *sizes.latent_shape(real["height"], real["width"], real["frames"]))
    seen: dict[str, Any] = {}

    def network(*args: Any, **given: Any) -> tuple[Any]:
        named = {**dict(zip(("hidden_states", "timestep"), args, strict=False)), **given}
        latents, timestep = named["hidden_states"], named["timestep"]
        first = latents[0] if isinstance(latents, list) else latents
        seen.update(network_input=list(first.shape), timestep_at_half=round(float(timestep.flatten()[0]), 6))
        return (latents,)

    stand_in = _StandIn(network, SimpleNamespace(**{"timestep_scale": 1.0, **config}))
    text = {
        key: torch.ones(1, *shape, dtype=torch.bool if key == "mask" else torch.float32)
        for key, shape in real["text"].items()
    }
    v = FAMILIES[real["pipeline"]].denoise(stand_in, x, torch.tensor([1000 * HALF]), text, real["guidance_scale"])
    if v.shape != x.shape:
        raise AssertionError(f"{name}: latents {tuple(x.shape)} came back as {tuple(v.shape)}")
    return seen


@dataclass(frozen=True, slots=True)
class _StandIn:
    call: Callable[..., Any]
    config: SimpleNamespace

    def __call__(self, *args: Any, **given: Any) -> Any:
        return self.call(*args, **given)


def _vae_defaults(real: Mapping[str, Any]) -> dict[str, Any]:
    """What the decoder's class takes where a config is silent."""
    import inspect

    import diffusers

    parameters = inspect.signature(getattr(diffusers, real["vae"][0]).__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def problems(name: str, row: Mapping[str, Any], *, tolerance: float = 0.03) -> list[str]:
    """Where a row of the table is not what the published numbers say.

    Args:
        name: the model.
        row: what `rehearse` returned.
        tolerance: relative distance that the number of parameters may have from the published one.
    """
    real = read_real(name)
    expected = real["expected"]
    networks = sum(count for key, count in row["parameters"].items() if key != "vae")
    seen = {"latent": row["latent"], "mu": row["mu"], "adapted_layers": row["adapter"]["layers"], **recorded_call(real)}
    found = [f"{name}: {key} is {seen[key]}, not {value}" for key, value in expected.items() if seen[key] != value]
    published = real["published_parameters"]
    if abs(networks / published - 1) > tolerance:
        found.append(f"{name}: {networks:,} parameters, published are {published:,.0f}")
    if prod(row["latent"]) <= 0 or min(row["flops"].values()) <= 0:
        found.append(f"{name}: nothing was computed")
    return found
