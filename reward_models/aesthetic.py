"""The LAION aesthetic predictor, version 2 (sac+logos+ava1-l14-linearMSE), on CLIP ViT-L/14 embeddings.

Its head is five affine layers with nothing between them, so it is one vector and one number: score = <v, n> + c with n
the embedding divided by its length. The scorer computes that form, in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from reward_models.preprocess import REVISION, clip_images
from reward_models.pretrained import clip_config, pretrained_model, pretrained_processor
from reward_models.scorer import Scorer
from reward_models.scores import ScorerError, Scores, as_scores
from reward_models.weights import State, fingerprint, read_state

MODEL = "openai/clip-vit-large-patch14"
HEAD_FILE = "sac+logos+ava1-l14-linearMSE.pth"
LAYERS = (0, 2, 4, 6, 7)
"""Numbers of the affine layers in the released file; those between are dropout."""
_VECTOR, _CONSTANT = "vector", "constant"
_RELEASED = "the released head is christophschuhmann/improved-aesthetic-predictor's " + HEAD_FILE


@dataclass(frozen=True, slots=True)
class Affine:
    """score = <vector, n> + constant.

    Attributes:
        vector: float64 [D].
        constant: float64 [].
    """

    vector: Tensor
    constant: Tensor

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Scores float64 [n] of embeddings [n, D] of any length."""
        return F.normalize(embeddings.double(), dim=-1) @ self.vector.to(embeddings.device) + self.constant.item()


def aesthetic(*, device: str = "cpu", model: str = MODEL, head: str | None = None) -> Scorer:
    """How pleasing a picture is, about 1 to 10 and mostly 4.5 to 7; the prompt is not read.

    Args:
        device: Where the model runs.
        model: A folder or a hub repository with a CLIP vision tower, its projection and its image processor.
        head: File of the released head, or of its affine form (`write_affine`); also ``hf-hub:org/name/file``.

    Returns:
        The scorer; its range is constant ± length of the vector, the most that any embedding can reach.

    Raises:
        ScorerError: There is no head, or it does not fit the model.
    """
    name = "aesthetic"
    if head is None:
        raise ScorerError(f"scorer '{name}' needs the option head, a file of weights; {_RELEASED}")
    affine = read_affine(head)
    network = pretrained_model("CLIPVisionModelWithProjection", model, label=name, device=device)
    config = clip_config(pretrained_processor("CLIPImageProcessor", model, label=name), name)
    if len(affine.vector) != network.config.projection_dim:
        raise ScorerError(
            f"scorer '{name}' got a head for embeddings of {len(affine.vector)} numbers and a model that gives "
            f"{network.config.projection_dim}; {_RELEASED}, for {MODEL}"
        )
    reach, middle = affine.vector.norm().item(), affine.constant.item()

    def function(images: Tensor, prompts: list[str], metadata: list[Mapping[str, Any]]) -> Scores:
        return as_scores(affine(network(pixel_values=clip_images(images.to(device), config)).image_embeds))

    return Scorer(
        name=name,
        version=fingerprint({**network.state_dict(), **_as_state(affine)}, REVISION, config),
        needs=(),
        range=(middle - reach, middle + reach),
        licence="Apache-2.0" if model == MODEL and Path(head).name == HEAD_FILE else "unknown",
        max_batch=64,
        function=function,
    )


def collapse(state: State) -> Affine:
    """The affine form of the released head, exact to rounding in float64.

    Args:
        state: "layers.N.weight" [out, in] and "layers.N.bias" [out] for N in `LAYERS`.

    Raises:
        ScorerError: Names or shapes are others.
    """
    expected = {f"layers.{n}.{kind}" for n in LAYERS for kind in ("weight", "bias")}
    if set(state) != expected:
        raise ScorerError(f"an aesthetic head holds {', '.join(sorted(expected))}; got {', '.join(sorted(state))}")
    weights = [state[f"layers.{n}.weight"].double() for n in LAYERS]
    biases = [state[f"layers.{n}.bias"].double() for n in LAYERS]
    try:
        row, constant = weights[-1], biases[-1]
        for weight, bias in zip(weights[-2::-1], biases[-2::-1], strict=True):
            row, constant = row @ weight, constant + row @ bias
        return Affine(row.squeeze(0), constant.squeeze(0))
    except RuntimeError as error:
        raise ScorerError(f"the layers of the aesthetic head do not follow each other: {error}") from None


def through_layers(state: State, embeddings: Tensor) -> Tensor:
    """The released form of the head, layer by layer: scores [n] of embeddings [n, D], in the weights' dtype."""
    hidden = F.normalize(embeddings, dim=-1)
    for n in LAYERS:
        hidden = F.linear(hidden, state[f"layers.{n}.weight"], state[f"layers.{n}.bias"])
    return hidden.squeeze(-1)


def read_affine(head: str) -> Affine:
    """The affine form from a file of either form.

    Raises:
        ScorerError: There is no such file, or it holds neither form.
    """
    state = read_state(head, "aesthetic")
    if set(state) == {_VECTOR, _CONSTANT}:
        return Affine(state[_VECTOR].double(), state[_CONSTANT].double())
    return collapse(state)


def write_affine(head: str, target: Path) -> None:
    """Write a head's affine form, D + 1 numbers in float64, as safetensors."""
    from safetensors.torch import save_file

    save_file(_as_state(read_affine(head)), target)


def _as_state(affine: Affine) -> dict[str, Tensor]:
    return {_VECTOR: affine.vector.contiguous(), _CONSTANT: affine.constant.reshape(()).contiguous()}
