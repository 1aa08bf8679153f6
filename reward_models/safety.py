"""A safety gate: an image classifier of transformers says whether a picture is fit to be shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from reward_models.eight_bit import as_pictures
from reward_models.importing import near
from reward_models.pretrained import labels_of, pretrained_model, pretrained_processor
from reward_models.scorer import Scorer
from reward_models.scores import ScorerError, Scores, as_scores
from reward_models.weights import fingerprint

REVISION = 1
"""Rises with every change here that changes a score."""


def safety(
    *, device: str = "cpu", model: str | None = None, unsafe: Sequence[str] | str = ("nsfw",), threshold: float = 0.5
) -> Scorer:
    """1 for a picture that is safe, 0 for one that is not; component "unsafe" is the probability that it is not.

    A gate is no scale of merit: a small weight on it is soon bought back by another reward. Give it a weight that no
    other can outbid, or watch it at weight 0.

    Args:
        device: Where the model runs.
        model: A folder or a hub repository with an image classifier and its image processor.
        unsafe: Its labels whose probabilities are added up.
        threshold: A picture is unsafe from this probability on, in (0, 1].

    Returns:
        The scorer; its licence is unknown, since it is the model's.

    Raises:
        ScorerError: There is no model, no such label, or the threshold is outside its range.
    """
    name = "safety"
    if model is None:
        raise ScorerError(
            f"scorer '{name}' needs the option model, an image classifier: a folder or a repository org/name"
        )
    if not 0 < threshold <= 1:
        raise ScorerError(f"scorer '{name}' got threshold {threshold}; right would be a probability in (0, 1]")
    network = pretrained_model("AutoModelForImageClassification", model, label=name, device=device)
    processor = pretrained_processor("AutoImageProcessor", model, label=name)
    columns = _columns(name, (unsafe,) if isinstance(unsafe, str) else tuple(unsafe), labels_of(network))

    def function(images: Tensor, prompts: list[str], metadata: list[Mapping[str, Any]]) -> Scores:
        inputs = processor(images=as_pictures(images), return_tensors="pt").to(device)
        risk = network(**inputs).logits.double().softmax(-1)[:, columns].sum(-1)
        return as_scores(torch.where(risk.isnan(), risk, (risk < threshold).double()), components={"unsafe": risk})

    return Scorer(
        name=name,
        version=fingerprint(network.state_dict(), REVISION, processor.to_dict(), sorted(columns), threshold),
        needs=(),
        range=(0.0, 1.0),
        components=("unsafe",),
        max_batch=32,
        function=function,
    )


def _columns(name: str, unsafe: tuple[str, ...], labels: Mapping[str, int]) -> list[int]:
    strange = [label for label in unsafe if label not in labels]
    if strange or not unsafe:
        given = strange[0] if strange else ""
        raise ScorerError(
            f"scorer '{name}' finds no label '{given}'{near(given, list(labels))} in its classifier; "
            f"the option unsafe takes some of {', '.join(labels)}"
        )
    return [labels[label] for label in unsafe]
