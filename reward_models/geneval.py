"""GenEval as a reward and as a benchmark's scorer: detect objects, name their colours, apply the rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from reward_models import geneval_rules
from reward_models.clip import load_open_clip
from reward_models.detectors import Detector, own_detector, torchvision_detector
from reward_models.geneval_rules import Detection, Position, check_metadata, judge, select, wanted_colors
from reward_models.importing import near
from reward_models.object_colors import Namer, clip_namer
from reward_models.preprocess import clip_images
from reward_models.scorer import Scorer
from reward_models.scores import ScorerError, Scores, as_scores
from reward_models.weights import fingerprint, source_version

_COMPONENTS = ("strict", "lenient")
_POSITIONS = ("published", "once")


def geneval(
    *,
    device: str = "cpu",
    detector: str = "maskrcnn_resnet50_fpn_v2",
    detector_weights: str | None = None,
    color_model: str = "ViT-L-14",
    color_weights: str | None = "openai",
    position: Position = "published",
) -> Scorer:
    """The soft GenEval score of Flow-GRPO, with the benchmark's own reading as the component "lenient".

    It reads the benchmark's metadata of a prompt: tag, include, exclude. Metadata that are wrong, or that name a class
    that the detector does not know, make their sample invalid.

    Args:
        device: Where detector and colour model run.
        detector: A detection model of torchvision, or your own function as ``package.module:function``
            (`reward_models.detectors`), such as the benchmark's Mask2Former in an environment that has it.
        detector_weights: A file for torchvision's; None fetches the released ones.
        color_model: For colours that the detector does not name: as the scorer `clip` takes it. Loaded on first need.
        color_weights: As the scorer `clip` takes them.
        position: How a wrong layout counts, "published" or "once" (`geneval_rules.judge`).

    Returns:
        The scorer; components "strict" and "lenient" are 0 or 1.

    Raises:
        ScorerError: There is no such detector or option.
    """
    if position not in _POSITIONS:
        raise ScorerError(
            f"scorer 'geneval' has no position '{position}'; right would be one of {', '.join(_POSITIONS)}"
        )
    found = _detector(detector, device, detector_weights)
    namer = cache(partial(_clip_namer, color_model, color_weights, device))
    return Scorer(
        name="geneval",
        version=fingerprint({}, found.version, color_model, color_weights, position, source_version(geneval_rules)),
        needs=("metadata",),
        range=(-torch.inf, 1.0),
        licence=found.licence,
        components=_COMPONENTS,
        max_batch=16,
        thread_safe=False,
        function=partial(_score, detector=found, namer=namer, position=position),
    )


def _detector(name: str, device: str, weights: str | None) -> Detector:
    if ":" in name:
        return own_detector(name, device=device)
    return torchvision_detector(name, device=device, weights=weights)


def _clip_namer(model: str, weights: str | None, device: str) -> Namer:
    try:
        network, tokenizer = load_open_clip(model, weights, device, None)
    except ScorerError as error:
        raise ScorerError(f"scorer 'geneval' cannot name colours: {error}") from error
    config = network.visual.preprocess_cfg
    return clip_namer(network, tokenizer, partial(clip_images, config=config), device)


def _score(
    images: Tensor,
    prompts: list[str],
    metadata: list[Mapping[str, Any]],
    *,
    detector: Detector,
    namer: Callable[[], Namer],
    position: Position,
) -> Scores:
    faults = [check_metadata(row) or _unknown_class(row, detector) for row in metadata]
    good = [i for i, fault in enumerate(faults) if not fault]
    columns = {name: torch.full((len(metadata),), torch.nan, dtype=torch.float64) for name in ("soft", *_COMPONENTS)}
    for i, found in zip(good, detector.detect(images[good]) if good else (), strict=True):
        objects = _with_colors(images[i], select(found, metadata[i]["tag"]), wanted_colors(metadata[i]), namer)
        verdict = judge(objects, metadata[i], position=position)
        for name, column in columns.items():
            column[i] = float(getattr(verdict, name))
    soft = columns.pop("soft")
    return as_scores(soft, components=columns, errors={i: fault for i, fault in enumerate(faults) if fault})


def _with_colors(
    image: Tensor, objects: Mapping[str, Sequence[Detection]], wanted: set[str], namer: Callable[[], Namer]
) -> dict[str, Sequence[Detection]]:
    colored = dict(objects)
    for label in wanted & objects.keys():
        nameless = [one for one in objects[label] if one.color is None]
        if nameless:
            names = dict(zip(map(id, nameless), namer()(image, nameless), strict=True))
            colored[label] = [replace(one, color=names.get(id(one), one.color)) for one in objects[label]]
    return colored


def _unknown_class(metadata: Mapping[str, Any], detector: Detector) -> str:
    """An object that the detector cannot see would be missing in every picture."""
    named = [clause["class"] for clause in [*metadata["include"], *(metadata.get("exclude") or [])]]
    strange = [label for label in named if detector.classes and label not in detector.classes]
    return f"the detector knows no class '{strange[0]}'{near(strange[0], sorted(detector.classes))}" if strange else ""
