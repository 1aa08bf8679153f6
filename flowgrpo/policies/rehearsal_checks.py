"""What a rehearsed model must come to: its published numbers, and what a family calls its network with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from types import SimpleNamespace
from typing import Any

import torch

from flowgrpo.policies.facts import FACTS
from flowgrpo.policies.families import FAMILIES
from flowgrpo.policies.rehearsal import HALF, read_real
from flowgrpo.policies.rehearsal_saving import SAVED_RANK
from flowgrpo.policies.rehearsal_text import read_encoder


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
        tolerance: relative distance that the number of the networks' parameters may have from the published one, which
            is a round one; those of text encoders are exact.
    """
    real = read_real(name)
    seen, wanted = {**_seen(row), **recorded_call(real)}, _wanted(real)
    found = [f"{name}: {key} is {seen[key]}, not {value}" for key, value in wanted.items() if seen[key] != value]
    networks = sum(count for key, count in row["parameters"].items() if key.startswith("transformer"))
    published = real["published_parameters"]
    if abs(networks / published - 1) > tolerance:
        found.append(f"{name}: {networks:,} parameters, published are {published:,.0f}")
    if prod(row["latent"]) <= 0 or min(row["flops"].values()) <= 0:
        found.append(f"{name}: nothing was computed")
    return found


def _seen(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{key: row[key] for key in ("latent", "mu", "text", "media", "file")},
        **{f"adapted_{what}": row["adapter"][what] for what in ("layers", "sides")},
        "encoders": {key: count for key, count in row["parameters"].items() if key.startswith("text_encoder")},
    }


def _wanted(real: Mapping[str, Any]) -> dict[str, Any]:
    """What was published, and what follows: pictures of the size asked for, two matrices to an adapted layer."""
    time = [] if FACTS[real["pipeline"]].sizes({}, {}).frame_step is None else [real["frames"]]
    adapted, sides = (real["expected"][f"adapted_{what}"] for what in ("layers", "sides"))
    return {
        **real["expected"],
        "text": real["text"],
        "media": [*time, 3, real["height"], real["width"]],
        "encoders": {
            component: read_encoder(name)["published_parameters"][kind]
            for component, (kind, name) in real["encoders"].items()
        },
        "file": {"files": len(real["networks"]), "tensors": 2 * adapted, "bytes": 4 * SAVED_RANK * sides},
    }
