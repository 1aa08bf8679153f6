"""CLIPScore: the cosine between a picture and its prompt (Hessel et al., arXiv 2104.08718), on open_clip.

The score is the plain cosine. The paper's factor 2.5 and its cut at 0 are left out: scaling belongs to a recipe's
weights, and the cut would make all poor pictures equal. Its prefix "A photo depicts" is left out as well, as in the
alignment code bases that use this reward.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reward_models.embedded import embedded_folder
from reward_models.importing import near
from reward_models.preprocess import REVISION, clip_images
from reward_models.scorer import Scorer
from reward_models.scores import ScorerError
from reward_models.similarity import paired_cosine
from reward_models.weights import fingerprint

EMBEDDED = "tiny-clip"


def clip(
    *, device: str = "cpu", model: str = EMBEDDED, weights: str | None = None, context_length: int | None = None
) -> Scorer:
    """CLIPScore by any open_clip model.

    Args:
        device: Where the model runs.
        model: The embedded "tiny-clip", a folder in open_clip's own format (open_clip_config.json, weights,
            tokenizer), a hub repository of that format ("org/name" or "hf-hub:org/name"), or the name of an
            architecture that open_clip knows ("ViT-L-14").
        weights: File with the weights, or open_clip's name of trained weights for an architecture ("openai"). A folder
            or a repository holds its own.
        context_length: Tokens per prompt; None is the model's own. Longer prompts lose their tail.

    Returns:
        The scorer; scores are cosines in [-1, 1]. Its version is a hash of weights and preprocessing.

    Raises:
        ScorerError: open_clip is missing, or there is no such model or weights.
    """
    network, tokenizer = load_open_clip(model, weights, device, context_length)
    config = network.visual.preprocess_cfg
    return Scorer(
        name="clip",
        version=fingerprint(network.state_dict(), REVISION, config),
        range=(-1.0, 1.0),
        licence="Apache-2.0" if model == EMBEDDED else "unknown",
        max_batch=64,
        function=paired_cosine(
            tokenize=tokenizer,
            read=lambda ids: network.encode_text(ids.to(device)),
            see=lambda images: network.encode_image(clip_images(images.to(device), config)),
        ),
    )


def load_open_clip(model: str, weights: str | None, device: str, context_length: int | None) -> tuple[Any, Any]:
    """Network, in evaluation mode and without gradients, and tokenizer; arguments and errors as of `clip`."""
    try:
        import open_clip
    except ImportError as error:
        raise ScorerError(f"scorer 'clip' needs the package open_clip_torch: {error}") from None
    if context_length is not None and context_length < 2:
        raise ScorerError(f"scorer 'clip' got context_length {context_length}; right would be 2 or more")
    source = _source(model)
    has_own = ":" in source
    _check_weights(model, weights, has_own, open_clip)
    name = None if has_own else weights
    try:
        network = open_clip.create_model_from_pretrained(source, name, device=device, return_transform=False)
        if has_own and weights is not None:
            open_clip.load_checkpoint(network, weights)
        tokenizer = open_clip.get_tokenizer(source, context_length)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ScorerError(f"scorer 'clip' cannot load model '{model}' with weights {weights!r}: {reason}") from error
    return network.eval().requires_grad_(False), tokenizer


def _source(model: str) -> str:
    """The name as open_clip wants it, with a schema unless it is an architecture."""
    if model.startswith(("hf-hub:", "local-dir:")):
        return model
    folder = embedded_folder(EMBEDDED) if model == EMBEDDED else Path(model).expanduser()
    if model == EMBEDDED or folder.is_dir():
        if not (folder / "open_clip_config.json").is_file():
            raise ScorerError(
                f"scorer 'clip' finds no open_clip_config.json in '{folder}': no folder of open_clip's format"
            )
        return f"local-dir:{folder}"
    if Path(model).is_absolute() or model.startswith("."):
        raise ScorerError(f"scorer 'clip' finds no folder '{model}'")
    return f"hf-hub:{model}" if "/" in model else model


def _check_weights(model: str, weights: str | None, has_own: bool, open_clip: Any) -> None:
    if has_own:
        if weights is not None and not Path(weights).is_file():
            raise ScorerError(f"scorer 'clip' finds no weights file '{weights}' for model '{model}'")
        return
    known = open_clip.list_models()
    if model not in known:
        raise ScorerError(
            f"scorer 'clip' knows no model '{model}'{near(model, known)}; right would be '{EMBEDDED}', a folder, "
            "a hub repository 'org/name', or an architecture of open_clip"
        )
    tags = open_clip.list_pretrained_tags_by_model(model)
    if weights is None or not (weights in tags or Path(weights).is_file()):
        raise ScorerError(
            f"scorer 'clip' has no weights {weights!r}{near(str(weights), tags)} for architecture '{model}'; "
            f"right would be a file or one of {', '.join(tags)}"
        )
