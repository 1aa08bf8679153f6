"""PickScore (Kirstain et al., arXiv 2305.01569): a CLIP ViT-H/14 tuned on users' choices between two pictures."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from reward_models.preprocess import REVISION, clip_images
from reward_models.pretrained import clip_config, pretrained_model, pretrained_processor, projected
from reward_models.scorer import Scorer
from reward_models.similarity import paired_cosine
from reward_models.weights import fingerprint

MODEL = "yuvalkirstain/PickScore_v1"
PROCESSOR = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
_TOKENS = 77


def pickscore(*, device: str = "cpu", model: str = MODEL, processor: str | None = None) -> Scorer:
    """exp(logit scale) · cos(picture, prompt), the released form: about 18 to 24, a difference is a log odds.

    Toolkits rescale it, by 1/26 or (s - 18)/8; within a normalised group a factor and a shift change nothing.

    Args:
        device: Where the model runs.
        model: A folder or a hub repository with a `CLIPModel`.
        processor: Folder or repository of tokenizer and image processor; None is the published one for the published
            model, and the model's own for another.

    Returns:
        The scorer. Prompts longer than the model's context lose their tail.

    Raises:
        ScorerError: Model or processor cannot be loaded whole.
    """
    name = "pickscore"
    network = pretrained_model("CLIPModel", model, label=name, device=device)
    source = processor or (PROCESSOR if model == MODEL else model)
    config = clip_config(pretrained_processor("CLIPImageProcessor", source, label=name), name)
    tokenizer = pretrained_processor("CLIPTokenizer", source, label=name)
    longest = min(_TOKENS, network.config.text_config.max_position_embeddings)

    def tokenize(texts: list[str]) -> Any:
        return tokenizer(texts, padding=True, truncation=True, max_length=longest, return_tensors="pt")

    def see(images: Tensor) -> Tensor:
        return projected(network.get_image_features(pixel_values=clip_images(images.to(device), config)))

    scale = network.logit_scale.exp().item()
    return Scorer(
        name=name,
        version=fingerprint(network.state_dict(), REVISION, config, longest),
        range=(-scale, scale),
        licence="MIT" if model == MODEL else "unknown",
        max_batch=32,
        function=paired_cosine(
            tokenize=tokenize,
            read=lambda ids: projected(network.get_text_features(**ids.to(device))),
            see=see,
            scale=scale,
        ),
    )
