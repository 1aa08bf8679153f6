"""From a recipe's `model` section to a diffusers pipeline whose parts fit it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import Module

from flowgrpo.assets import asset, is_embedded
from flowgrpo.errors import RecipeError, RunError, did_you_mean, first_line
from flowgrpo.policies.experts import networks_of
from flowgrpo.policies.facts import FACTS
from flowgrpo.policies.families import FAMILIES
from flowgrpo.policies.family import Family
from flowgrpo.policies.precision import DTYPES, component_dtypes, freeze
from flowgrpo.quiet import quiet_libraries
from flowgrpo.recipe import Model


def locate(path: str) -> str:
    """The folder of an embedded model, else `path` itself (a folder or a hub name)."""
    return str(asset(path)) if not Path(path).exists() and is_embedded(path) else path


def read_index(model: Model) -> dict[str, Any]:
    """What `model_index.json` states, without loading any weights: the class name and every component.

    Raises:
        RecipeError: there is no such folder, or it is not a pipeline of a supported family.
    """
    from diffusers import DiffusionPipeline

    source = locate(model.path)
    if Path(source).is_dir() and not (Path(source) / "model_index.json").is_file():
        raise RecipeError(f"model.path: the folder {model.path!r} has no model_index.json: it is no diffusers pipeline")
    try:
        with quiet_libraries():
            index = dict(DiffusionPipeline.load_config(source, revision=model.revision))
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"model.path: {model.path!r} is neither the folder of a diffusers pipeline nor a model that can be "
            f"fetched ({first_line(error)})"
        ) from error
    name = str(index.get("_class_name"))
    if name not in FAMILIES:
        raise RecipeError(
            f"model.path: {model.path!r} is a {name}; supported are {', '.join(FAMILIES)}{did_you_mean(name, FAMILIES)}"
        )
    return index


def load_pipeline(model: Model) -> tuple[Any, Family]:
    """The whole pipeline on the CPU, every part frozen and in eval mode, and its family.

    Raises:
        RecipeError: see `read_index`.
        RunError: a part is missing or damaged.
    """
    pipe = _from_pretrained(model, component_dtypes(DTYPES[model.dtype], full=model.adapter == "full"))
    for part in pipe.components.values():
        if isinstance(part, Module):
            part.requires_grad_(False).eval()
    return pipe, FAMILIES[type(pipe).__name__]


def reload_text_parts(pipe: Any, family: Family, model: Model) -> None:
    """Puts the text encoders back into a pipeline that has dropped them."""
    dtypes = component_dtypes(DTYPES[model.dtype], full=False)
    loaded = _from_pretrained(model, dtypes, **dict.fromkeys(networks_of(pipe)), vae=None)
    for name in family.text_parts:
        part = getattr(loaded, name)
        setattr(pipe, name, None if part is None else part.requires_grad_(False).eval())


def load_reference(network: Module, component: str, model: Model) -> Module:
    """A second, frozen copy of an untrained network, on the CPU, with the trained one's buffers to the bit."""
    with quiet_libraries():
        base = type(network).from_pretrained(  # type: ignore[attr-defined]
            locate(model.path), subfolder=component, revision=model.revision, dtype=torch.float32
        )
    return freeze(base, DTYPES[model.dtype])


@dataclass(frozen=True, slots=True)
class Latents:
    """What a pipeline works on: shape (C, h, w) or (C, f, h, w), tokens, and whether guidance runs a second row."""

    shape: tuple[int, ...]
    tokens: int
    negative_branch: bool


def plan_latents(pipe: Any, model: Model) -> Latents:
    """The latents of one picture or video of the recipe's size.

    Raises:
        RecipeError: the size does not fit the model.
    """
    config, facts = pipe.transformer.config, FACTS[type(pipe).__name__]
    sizes = facts.sizes(config, pipe.vae.config)
    _check_sides(model, sizes.pixels * sizes.patch, config.get("pos_embed_max_size"))
    _check_frames(model, sizes.frame_step)
    size = (model.height, model.width, model.frames)
    return Latents(sizes.latent_shape(*size), sizes.tokens(*size), facts.negative_branch(pipe.config, config))


def _check_sides(model: Model, multiple: int, most: int | None) -> None:
    for name, value in (("height", model.height), ("width", model.width)):
        if value % multiple:
            low = max(value // multiple, 1) * multiple
            raise RecipeError(f"model.{name}: {value} is not a multiple of {multiple}; the nearest below is {low}")
        if most is not None and value > most * multiple:
            raise RecipeError(f"model.{name}: {value} is more than {most * multiple}, the largest side of this model")


def _check_frames(model: Model, step: int | None) -> None:
    if step is None and model.frames != 1:
        raise RecipeError(f"model.frames: {model.frames}, but this model makes pictures; leave it at 1")
    if step is not None and (model.frames - 1) % step:
        low = (model.frames - 1) // step * step + 1
        right = f"is not 1 plus a multiple of {step}; the nearest below is {low}"
        raise RecipeError(f"model.frames: {model.frames} {right}")


def _from_pretrained(model: Model, dtypes: dict[str, torch.dtype], **given: None) -> Any:
    import diffusers

    index = read_index(model)
    # diffusers writes a missing text encoder as [null, null] and then asks for it, unless told that there is none.
    absent = {name: None for name, library in index.items() if library == [None, None]}
    pipeline_class = getattr(diffusers, index["_class_name"])
    try:
        with quiet_libraries():
            return pipeline_class.from_pretrained(
                locate(model.path), revision=model.revision, dtype=dtypes, **{**absent, **given}
            )
    except Exception as error:  # the libraries raise a dozen kinds for damaged files
        raise RunError(
            f"model.path: {model.path!r} cannot be loaded, is a file missing or damaged? {first_line(error)}"
        ) from error
