"""What a recipe may switch on to save time or memory, and what each of it does to the numbers. No torch.

Lossless is what computes the same function, to rounding at most; the start-up checks hold it against the rollout like
everything else. Lossy is what computes another function. It is refused where the rollout draws from the result and
training replays it, and allowed, with a warning, behind that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from flowgrpo.errors import RecipeError
from flowgrpo.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Acceleration:
    """One way to save.

    Attributes:
        key: the recipe's key.
        on: whether a recipe uses it.
        lossless: see the module's text.
        replayed: whether it acts on what training replays.
        does: what it does, in one sentence.
    """

    key: str
    on: Callable[[Recipe], bool]
    lossless: bool
    replayed: bool
    does: str


def _quantised(recipe: Recipe) -> bool:
    """SageAttention's names in diffusers: "sage", "sage_varlen", "_sage_qk_int8_pv_fp8_cuda", ..."""
    return "sage" in recipe.model.attention


ACCELERATIONS = (
    Acceleration(
        "model.gradient_checkpointing",
        lambda recipe: recipe.model.gradient_checkpointing,
        lossless=True,
        replayed=True,
        does="keeps the inputs of blocks alone and computes the rest again: the same gradient to the bit",
    ),
    Acceleration(
        "model.attention",
        lambda recipe: recipe.model.attention != "default" and not _quantised(recipe),
        lossless=True,
        replayed=True,
        does="another kernel for the same attention, equal to rounding",
    ),
    Acceleration(
        "model.attention",
        _quantised,
        lossless=False,
        replayed=True,
        does="rounds queries and keys to 8 bits and has no backward pass",
    ),
    Acceleration(
        "model.compile",
        lambda recipe: recipe.model.compile != "none",
        lossless=True,
        replayed=True,
        does="one compiled program for all blocks, equal to rounding, in rollouts and in training",
    ),
    Acceleration(
        "model.guidance_passes",
        lambda recipe: recipe.model.guidance_passes > 1,
        lossless=True,
        replayed=True,
        does="half the rows per forward pass with guidance, equal to rounding",
    ),
    Acceleration(
        "sampler.latent_dtype",
        lambda recipe: recipe.sampler.latent_dtype != "float32",
        lossless=True,
        replayed=True,
        does="rounds latents between steps, in the rollout already: what is stored is what was drawn",
    ),
    Acceleration(
        "sampler.latent_store",
        lambda recipe: recipe.sampler.latent_store == "cpu",
        lossless=True,
        replayed=True,
        does="latents wait in the CPU's memory, unchanged",
    ),
    Acceleration(
        "model.offload_decoder",
        lambda recipe: recipe.model.offload_decoder,
        lossless=True,
        replayed=False,
        does="the decoder is on the device only while it decodes",
    ),
    Acceleration(
        "model.decode_tiling",
        lambda recipe: recipe.model.decode_tiling,
        lossless=False,
        replayed=False,
        does="decodes overlapping tiles, whose seams scorers and evaluations see",
    ),
)


def used(recipe: Recipe) -> list[Acceleration]:
    """Those that a recipe switches on."""
    return [held for held in ACCELERATIONS if held.on(recipe)]


def refused(recipe: Recipe) -> Iterator[tuple[tuple[str, ...], str]]:
    """Lossy ones on what is replayed: rollout and training must see one function."""
    for held in used(recipe):
        if held.replayed and not held.lossless:
            why = f"{recipe.model.attention} is lossy: it {held.does}, and rollouts are replayed in training"
            yield (held.key,), f"{why}; default, sdpa, xformers or flash would do"


def lossy(recipe: Recipe) -> Iterator[tuple[tuple[str, ...], str]]:
    """Lossy ones behind what is replayed."""
    for held in used(recipe):
        if not held.lossless and not held.replayed:
            yield (held.key,), f"is lossy: it {held.does}"


def refuse_where_sharded(recipe: Recipe) -> None:
    """What has not been made to work with weights that are spread over processes.

    Raises:
        RecipeError: the recipe has some of it.
    """
    found = {
        "model.compile": (recipe.model.compile != "none", "none"),
        "model.guidance_passes": (recipe.model.guidance_passes > 1, "1"),
        "train.micro_batch_size": (recipe.train.micro_batch_size == "auto", "a number"),
    }
    problems = [
        f"{key}: does not go with weights sharded over processes; right would be {right}"
        for key, (used_here, right) in found.items()
        if used_here
    ]
    if problems:
        raise RecipeError(problems)
