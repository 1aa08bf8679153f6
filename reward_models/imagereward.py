"""ImageReward (Xu et al., arXiv 2304.05977), by its authors' own package where that can be imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from reward_models.eight_bit import as_pictures
from reward_models.scorer import Scorer
from reward_models.scores import ScorerError, Scores, as_scores
from reward_models.weights import fingerprint, short

MODEL = "ImageReward-v1.0"


def imagereward(*, device: str = "cpu", model: str = MODEL, med_config: str | None = None) -> Scorer:
    """A BLIP with a head trained on ranked pictures: about -2.3 to 2, standard normal over its training data.

    The package needs versions of transformers before 5, so that it lives in an environment of its own, served over
    HTTP, unless this one happens to be old enough.

    Args:
        device: Where the model runs.
        model: The released name, which the package fetches, or a file of weights.
        med_config: The text encoder's JSON file that goes with a file of weights.

    Returns:
        The scorer. Prompts lose what goes beyond 35 tokens.

    Raises:
        ScorerError: The package is missing or does not work here, or the model cannot be loaded.
    """
    package = _package()
    try:
        network = package.load(model, device=device, **({"med_config": med_config} if med_config else {}))
    except Exception as error:
        raise ScorerError(f"scorer 'imagereward' cannot load '{model}': {short(error)}") from error

    def function(images: Tensor, prompts: list[str], metadata: list[Mapping[str, Any]]) -> Scores:
        # One by one: the package ranks pictures of one prompt, and answers a single one in another form than several.
        pairs = zip(prompts, as_pictures(images), strict=True)
        return as_scores(torch.tensor([float(network.score(*pair)) for pair in pairs], dtype=torch.float64))

    return Scorer(
        name="imagereward",
        version=fingerprint(network.state_dict(), getattr(package, "__version__", "unknown")),
        licence="Apache-2.0" if model == MODEL else "unknown",
        max_batch=8,
        thread_safe=False,
        function=function,
    )


def _package() -> Any:
    try:
        import ImageReward
    except Exception as error:
        raise ScorerError(
            f"scorer 'imagereward' needs the package image-reward, which cannot be imported here ({short(error)}); "
            "install it in an environment of its own, serve it there over HTTP and name the scorer 'remote' here"
        ) from None
    return ImageReward
