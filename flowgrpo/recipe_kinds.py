"""Which keys belong to which kind of model, and what a recipe of a masked language model must say. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from flowgrpo.errors import did_you_mean
from flowgrpo.likelihoods import LIKELIHOODS, likelihood_of
from flowgrpo.policies.masked_families import unstated
from flowgrpo.recipe import Recipe, Sampler

Finding = tuple[tuple[str, ...], str]

DECODING = (
    *("steps", "order", "remasking", "schedule", "block_length", "temperature", "top_p", "top_k"),
    *("draw", "guidance", "threshold", "entropy_bound"),
)
"""Keys of the section `sampler` that are fields of `samplers.masked.Decoding` as they are."""
ANSWER = (*DECODING, "gen_length", "stop_at_end")
"""Everything that says how an answer is decoded."""

OWN_KEYS: dict[str, dict[str, tuple[str, ...]]] = {
    "flow": {
        "model": (
            *("guidance_scale", "guidance_passes", "guidance_in_training", "negative_prompt", "height", "width"),
            *("compile", "offload_decoder", "decode_batch_size", "decode_tiling"),
        ),
        "sampler": (
            *("kernel", "eta", "density", "plan", "window", "window_width", "window_low", "window_high"),
            *("window_stride", "window_tau", "window_decay", "window_decay_from", "tail_ratio", "split_steps"),
            *("children", "split_noise", "solver", "grid", "shift", "initial_noise", "latent_dtype"),
            "latent_store",
        ),
        "objective": (
            *("peers", "fusion", "fusion_beta", "extreme_b", "prune_depths", "prune_every", "prune_direction"),
            "prune_stop",
        ),
        "eval": ("steps", "guidance_scale", "base_guidance_scale"),
    },
    "masked_lm": {
        "model": (
            *("mask_id", "logit_shift", "padding_mask", "eos_ids", "chat_template", "pad_ids", "trust_remote_code"),
        ),
        "sampler": tuple(key for key in ANSWER if key != "steps"),
        "objective": (
            *("units", "prompt_mask", "mask_low", "mask_high", "nodes", "masks", "fresh_masks", "tail"),
            *("train_steps", "step_weight", "score_temperature"),
        ),
        "eval": ("decoding",),
    },
}
"""`model.kind` -> section -> keys that mean nothing to the other kinds."""
CALLED = {"flow": "flow models", "masked_lm": "masked language models"}
TREE_SELECTIONS = ("parent_top1", "extreme", "depth_window")


def foreign_keys(kind: str) -> frozenset[str]:
    """`section.key` of everything that means nothing to a kind of model."""
    others = (sections for other, sections in OWN_KEYS.items() if other != kind)
    return frozenset(f"{section}.{key}" for sections in others for section, keys in sections.items() for key in keys)


def wrong_kind(recipe: Recipe) -> Iterator[Finding]:
    """Keys that somebody set and that belong to another kind of model."""
    kind = recipe.model.kind
    for other, sections in OWN_KEYS.items():
        for section, keys in sections.items() if other != kind else ():
            for key in sorted(getattr(recipe, section).model_fields_set & set(keys)):
                if _differs(recipe, section, key):
                    why = f"belongs to {CALLED[other]}, and model.kind is {kind}"
                    yield (f"{section}.{key}", "model.kind"), why


def _differs(recipe: Recipe, section: str, key: str) -> bool:
    """A resolved recipe read back states every key: only values that would change something are faults."""
    held = getattr(recipe, section)
    return bool(getattr(held, key) != type(held).model_fields[key].default)


def likelihood_fits(recipe: Recipe) -> Iterator[Finding]:
    """The likelihood is one of the model's kind."""
    kind, name = recipe.model.kind, recipe.objective.likelihood
    if LIKELIHOODS[name].kind != kind:
        right = ", ".join(other for other, facts in LIKELIHOODS.items() if facts.kind == kind)
        why = f"{name} is no likelihood of {CALLED[kind]}; right would be one of {right}"
        yield ("objective.likelihood", "model.kind"), why


def masked_model(recipe: Recipe) -> Iterator[Finding]:
    """What a masked language model needs to be told, and what cannot be decoded or scored."""
    if recipe.model.kind != "masked_lm":
        return
    for key, text in unstated(recipe.model):
        yield (f"model.{key}",), text
    yield from _decoding(recipe)
    yield from _scoring(recipe)


def eval_settings(recipe: Recipe) -> dict[str, Any]:
    """How evaluations decode: the section `sampler` with what `eval.decoding` changes.

    Raises:
        ValueError: a key of eval.decoding is unknown, or its value is wrong.
    """
    changes = recipe.eval.decoding
    for key in changes:
        if key not in ANSWER:
            raise ValueError(f"unknown key {key!r}{did_you_mean(key, ANSWER)} (keys: {', '.join(ANSWER)})")
    try:
        section = Sampler.model_validate({**recipe.sampler.model_dump(), **changes})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}") from error
    return {key: getattr(section, key) for key in ANSWER}


def _decoding(recipe: Recipe) -> Iterator[Finding]:
    sampler = recipe.sampler
    yield from _schedule({key: getattr(sampler, key) for key in ANSWER}, "sampler")
    try:
        settings = eval_settings(recipe)
    except ValueError as error:
        yield ("eval.decoding",), str(error)
    else:
        yield from _schedule(settings, "eval.decoding")
    revises = sampler.remasking != "none"
    if revises and (sampler.threshold is not None or sampler.entropy_bound is not None):
        keys = ("sampler.remasking", "sampler.threshold", "sampler.entropy_bound")
        yield keys, "threshold and entropy_bound keep no schedule, which remasking needs: choose one of them"
    if sampler.temperature == 0 and sampler.order != "random" and sampler.schedule != "bernoulli":
        why = "0 gives every member of a group the same answer, so there is nothing to compare"
        yield ("sampler.temperature",), why


def _schedule(settings: Mapping[str, Any], section: str) -> Iterator[Finding]:
    blocks = -(-settings["gen_length"] // (settings["block_length"] or settings["gen_length"]))
    if settings["steps"] < blocks:
        keys = ("sampler.steps", "sampler.block_length", "sampler.gen_length")
        why = f"{settings['steps']} steps for {blocks} blocks of {settings['block_length']} tokens; at least {blocks}"
        yield keys if section == "sampler" else (section,), why


def _scoring(recipe: Recipe) -> Iterator[Finding]:
    objective = recipe.objective
    recorded = objective.likelihood == "trajectory"
    for name in objective.select:
        if name in TREE_SELECTIONS:
            yield ("objective.select",), f"{name} prunes trees of flow models"
        if name in ("random_steps", "largest_steps") and not recorded:
            keys = ("objective.select", "objective.likelihood")
            yield keys, f"{name} chooses among recorded steps, which only the trajectory likelihood has"
    if objective.credit == "step" and not recorded:
        why = "step compares recorded steps, which only the trajectory likelihood has"
        yield ("objective.credit", "objective.likelihood"), why
    if recorded and objective.units != "natural":
        yield ("objective.units", "objective.likelihood"), "trajectory has recorded steps for units; leave it natural"
    if objective.mask_low >= objective.mask_high:
        yield ("objective.mask_low", "objective.mask_high"), "the lower share must be below the upper one"


def loose_sequence_clip(recipe: Recipe) -> Iterator[Finding]:
    """Ratios that are normalised by length stay within a few hundredths of 1."""
    objective = recipe.objective
    widest = max(objective.clip_low, objective.clip_high)
    if objective.ratio == "sequence" and widest > 0.1 and likelihood_of(recipe).per == "sequence":
        why = "the ratio is divided by the answer's length, and stays within 1e-4 to 1e-2 of 1"
        yield ("objective.clip_high",), f"the clip range {widest:g} will hardly ever act: {why}"
