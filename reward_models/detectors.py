"""What finds objects in pictures, for `reward_models.geneval`: torchvision's detectors, or a function of yours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from reward_models.geneval_rules import Detection
from reward_models.importing import near
from reward_models.scores import ScorerError
from reward_models.user import own_part
from reward_models.weights import fingerprint, load_strictly, read_state, short

Detect = Callable[[Tensor], Sequence[Sequence[Detection]]]
"""Pictures float32 [n, 3, H, W] in [0, 1] -> the objects of each, in any order and with any confidence."""

TORCHVISION = (
    "maskrcnn_resnet50_fpn_v2",
    "fasterrcnn_resnet50_fpn_v2",
    "retinanet_resnet50_fpn_v2",
    "ssd300_vgg16",
    "ssdlite320_mobilenet_v3_large",
)
"""Those that torchvision builds alike with and without its weights; others get another kind of normalisation."""

GENEVAL_NAMES = {"mouse": "computer mouse", "remote": "tv remote", "keyboard": "computer keyboard"}
"""Classes of COCO that GenEval calls by another name."""
_ABSENT = ("__background__", "N/A")
_SURE_ENOUGH = 0.5


@dataclass(frozen=True, slots=True)
class Detector:
    """A detector and what it can see.

    Attributes:
        detect: The function.
        classes: The labels that it can give; empty where unknown.
        version: Changes whenever its detections may.
        licence: SPDX identifier, or "unknown".
    """

    detect: Detect
    classes: frozenset[str]
    version: str
    licence: str = "unknown"


def torchvision_detector(name: str, *, device: str, weights: str | None = None) -> Detector:
    """A detector of torchvision, trained on COCO, under GenEval's names of the classes.

    Those with masks ("maskrcnn_resnet50_fpn_v2") let colours be judged without the background. GenEval's own detector
    is a Mask2Former with a Swin backbone, which finds more; scores of different detectors are not comparable.

    Args:
        name: One of `TORCHVISION`.
        device: Where it runs.
        weights: A file, or ``hf-hub:org/name/file``; None is torchvision's released ones, which it fetches.

    Returns:
        The detector.

    Raises:
        ScorerError: torchvision is missing, the name is another, or the weights do not fit.
    """
    if name not in TORCHVISION:
        raise ScorerError(
            f"scorer 'geneval' knows no detector '{name}'{near(name, TORCHVISION)}; right would be one of "
            f"torchvision's {', '.join(TORCHVISION)}, or your own as package.module:function"
        )
    models = _torchvision_models()
    released = models.get_model_weights(name).DEFAULT
    categories = released.meta["categories"]
    network = models.get_model(name, weights=None, weights_backbone=None, num_classes=len(categories))
    state = _released_state(released) if weights is None else read_state(weights, "geneval")
    load_strictly(network, state, "geneval")
    labels = [GENEVAL_NAMES.get(label, label) for label in categories]
    return Detector(
        partial(_detect, network.to(device).eval().requires_grad_(False), labels, device),
        frozenset(labels) - set(_ABSENT),
        fingerprint(state, name, labels),
        "BSD-3-Clause",
    )


def own_detector(spec: str, *, device: str) -> Detector:
    """A function of yours: pictures -> for each a list of `Detection`, or of mappings with the same fields.

    Args:
        spec: ``package.module:function`` or ``path/to/file.py:function``; a parameter `device` gets the device.
        device: Where it should run.
    """
    function, version = own_part(spec, device)
    return Detector(lambda images: _as_detections(function(images), len(images), spec), frozenset(), version)


def _detect(network: Any, labels: Sequence[str], device: str, images: Tensor) -> list[list[Detection]]:
    return [from_torchvision(output, labels) for output in network(list(images.to(device)))]


def from_torchvision(output: Mapping[str, Tensor], labels: Sequence[str]) -> list[Detection]:
    """Detections of a picture in torchvision's form: boxes [k, 4], labels [k], scores [k], masks [k, 1, H, W]?"""
    masks = output.get("masks")
    rows = zip(output["boxes"].tolist(), output["labels"].tolist(), output["scores"].tolist(), strict=True)
    return [
        Detection(labels[label], score, tuple(box), mask=None if masks is None else (masks[i, 0] > _SURE_ENOUGH).cpu())
        for i, (box, label, score) in enumerate(rows)
    ]


def _as_detections(answer: Any, count: int, spec: str) -> list[list[Detection]]:
    if not isinstance(answer, Sequence) or len(answer) != count:
        raise ScorerError(f"detector '{spec}' returned no list of {count} lists, one for each picture")
    try:
        return [[one if isinstance(one, Detection) else Detection(**one) for one in found] for found in answer]
    except TypeError as error:
        raise ScorerError(
            f"detector '{spec}' returned something other than Detection or mappings with its fields: {short(error)}"
        ) from None


def _torchvision_models() -> Any:
    try:
        from torchvision import models
    except ImportError as error:
        raise ScorerError(f"scorer 'geneval' needs the package torchvision for its detectors: {error}") from None
    return models


def _released_state(released: Any) -> dict[str, Tensor]:
    try:
        return torch.hub.load_state_dict_from_url(released.url, map_location="cpu", check_hash=True, weights_only=True)
    except Exception as error:
        raise ScorerError(
            f"scorer 'geneval' cannot fetch the weights of its detector: {short(error)}; name a file with the option "
            "detector_weights"
        ) from error
