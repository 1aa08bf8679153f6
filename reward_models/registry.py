"""Reward models by name. Needs no torch until one is loaded."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from reward_models.importing import near

if TYPE_CHECKING:
    from reward_models.scorer import Scorer

SCORERS: dict[str, str] = {
    "gold": "reward_models.gold_scorer:gold",
    "gold_strict": "reward_models.gold_scorer:gold_strict",
    "clip": "reward_models.clip:clip",
    "preference": "reward_models.preference:preference",
    "clip_diversity": "reward_models.groupwise:clip_diversity",
    "hpsv2": "reward_models.hpsv2:hpsv2",
    "hpsv2.1": "reward_models.hpsv2:hpsv2_1",
    "pickscore": "reward_models.pickscore:pickscore",
    "aesthetic": "reward_models.aesthetic:aesthetic",
    "imagereward": "reward_models.imagereward:imagereward",
    "ocr": "reward_models.ocr:ocr",
    "geneval": "reward_models.geneval:geneval",
    "jpeg_compressibility": "reward_models.jpeg:jpeg_compressibility",
    "jpeg_incompressibility": "reward_models.jpeg:jpeg_incompressibility",
    "safety": "reward_models.safety:safety",
    "task": "reward_models.text_scorer:task",
    "task_strict": "reward_models.text_scorer:task_strict",
    "answer_format": "reward_models.text_scorer:answer_format",
    "code": "reward_models.text_scorer:code",
    "code_format": "reward_models.text_scorer:code_block",
    "d1": "reward_models.text_scorer:d1_reward",
    "unifiedreward": "reward_models.http.judges:unifiedreward",
    "unifiedreward_pair": "reward_models.http.pair_judges:unifiedreward_pair",
    "unifiedreward_think": "reward_models.http.pair_judges:unifiedreward_think",
    "unifiedreward_flex": "reward_models.http.pair_judges:unifiedreward_flex",
    "unigenbench_judge": "reward_models.http.judges:unigenbench_judge",
    "vqa": "reward_models.http.judges:vqa",
    "remote": "reward_models.remote:remote",
}
"""Name -> "module:factory"; a factory takes `device` and its own options as keywords and returns a Scorer."""

PAIRWISE = frozenset({"preference", "unifiedreward_pair", "unifiedreward_think", "unifiedreward_flex"})
"""Those that compare the pictures of a group with each other and have no score for a single one."""

GROUPWISE = frozenset({"clip_diversity"})
"""Those that look at the pictures of a group all at once."""

TEXT = frozenset({"task", "task_strict", "answer_format", "code", "code_format", "d1"})
"""Those that read texts and know no pictures: a `TextScorer` each."""


def load(name: str, *, device: str = "cpu", media: str = "image", **options: Any) -> Scorer:
    """Load a reward model.

    Args:
        name: A key of `SCORERS`, or a user's own function as ``package.module:function`` or
            ``path/to/file.py:function``.
        device: Where the model runs, as torch names it.
        media: What a user's own function is given: "image" or "text". Our own scorers know it themselves.
        **options: The scorer's own options.

    Returns:
        The scorer.

    Raises:
        ValueError: The name or an option is unknown; the message lists what is known and the nearest match.
    """
    check_name(name)
    if ":" in name:
        from reward_models.user import user_scorer, user_text_scorer

        own: Any = user_text_scorer if media == "text" else user_scorer
        return own(name, device=device, **options)
    module, _, factory_name = SCORERS[name].partition(":")
    factory = getattr(importlib.import_module(module), factory_name)
    _check_options(name, factory, options)
    return factory(device=device, **options)


def check_name(name: str, *, single: bool = False, media: str | None = None) -> None:
    """Raise where `name` is neither a known scorer nor an import path. Imports nothing.

    Args:
        name: What a recipe calls the scorer.
        single: Whether it is to score pictures one by one, as evaluations do. A user's function is not looked into: its
            scorer refuses when it is called.
        media: What it is to look at, "image" or "text"; None asks for pictures only where `single` does.

    Raises:
        ValueError: The name is unknown; the message lists the known ones and the nearest match. Or it cannot score
            such samples, or not single ones.
    """
    if name not in SCORERS and ":" not in name:
        raise ValueError(
            f"unknown scorer '{name}'{near(name, list(SCORERS))}; right would be one of {', '.join(SCORERS)}, "
            "or your own function as package.module:function or path/to/file.py:function"
        )
    if media == "text" and ":" not in name and name not in TEXT:
        raise ValueError(
            f"scorer '{name}' looks at pictures and has no score for texts; right would be one of "
            f"{', '.join(sorted(TEXT))}, or your own function"
        )
    if (media == "image" or (single and media is None)) and name in TEXT:
        raise ValueError(f"scorer '{name}' reads texts and has no score for pictures")
    if single and name in PAIRWISE | GROUPWISE:
        pointwise = ", ".join(known for known in SCORERS if known not in PAIRWISE | GROUPWISE | TEXT)
        raise ValueError(
            f"scorer '{name}' compares pictures of one prompt with each other and has no score for single ones; "
            f"right would be one of {pointwise}"
        )


def _check_options(name: str, factory: Callable[..., Scorer], options: dict[str, Any]) -> None:
    parameters = {key: value for key, value in inspect.signature(factory).parameters.items() if key != "device"}
    allowed = list(parameters)
    for key in options:
        if key not in allowed:
            known = f"its options are {', '.join(allowed)}" if allowed else "it has none"
            raise ValueError(f"scorer '{name}' has no option '{key}'{near(key, allowed)}; {known}")
    empty = inspect.Parameter.empty
    missing = [key for key, value in parameters.items() if value.default is empty and key not in options]
    if missing and not {"base_url", "model"} & set(missing):  # judges say what theirs look like
        raise ValueError(
            f"scorer '{name}' needs the option {' and '.join(missing)}; its options are {', '.join(allowed)}"
        )
