"""HPSv2 and HPSv2.1 (Wu et al., arXiv 2306.09341): the cosine of a CLIP ViT-H/14 tuned on human choices.

Our own implementation on open_clip: the network is built without weights and takes the released ones strictly, once.
Preprocessing is the released one, which differs from open_clip's: the longest side is fitted, and nothing is cropped.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reward_models.importing import near
from reward_models.scorer import Scorer
from reward_models.scores import ScorerError
from reward_models.similarity import paired_cosine
from reward_models.weights import fingerprint, load_strictly, read_state, short

REVISION = 1
"""Rises with every change of the preprocessing that changes a score."""
ARCHITECTURE = "ViT-H-14"
WEIGHTS = {
    "hpsv2": "hf-hub:xswu/HPSv2/HPS_v2_compressed.pt",
    "hpsv2.1": "hf-hub:xswu/HPSv2/HPS_v2.1_compressed.pt",
}
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
_PRECISIONS = ("auto", "float32", "float16", "bfloat16")


def hpsv2(
    *,
    device: str = "cpu",
    weights: str = WEIGHTS["hpsv2"],
    architecture: str = ARCHITECTURE,
    precision: str = "auto",
) -> Scorer:
    """HPSv2, the first release.

    Args:
        device: Where the model runs.
        weights: A file, or ``hf-hub:org/name/file``.
        architecture: An architecture of open_clip, or a JSON file with the arguments of one.
        precision: Of matrix products under autocast: "float16", "bfloat16", or "float32" for none. "auto" is the
            original's float16 on a CUDA device and float32 elsewhere.

    Returns:
        The scorer; scores are cosines in [-1, 1], the published tables hold a hundred times as much. Only scores of one
        prompt and one release are comparable.

    Raises:
        ScorerError: There are no such weights, they do not fit, or an option is unknown.
    """
    return _scorer("hpsv2", device, weights, architecture, precision)


def hpsv2_1(
    *,
    device: str = "cpu",
    weights: str = WEIGHTS["hpsv2.1"],
    architecture: str = ARCHITECTURE,
    precision: str = "auto",
) -> Scorer:
    """HPSv2.1, trained on better data; otherwise as `hpsv2`."""
    return _scorer("hpsv2.1", device, weights, architecture, precision)


def hpsv2_images(images: Tensor, size: int) -> Tensor:
    """Fit the longest side to `size`, pad with black to a square, normalise.

    Pictures are rounded to 8 bits before and not after the resize, and bicubic overshoot is kept, as in the original.
    It leaves a picture whose longest side is already `size` without padding, which its network then refuses unless it
    is square; here it is padded like all others.

    Args:
        images: Floating [N, 3, H, W] in [0, 1].
        size: Side of the network's pictures in pixels.

    Returns:
        [N, 3, size, size]; padding is -mean/std, with the odd row or column at the bottom or right.
    """
    height, width = images.shape[-2:]
    scale = size / max(height, width)
    fitted = (images * 255).round().clamp(0, 255) / 255
    if scale != 1:
        target = (round(height * scale), round(width * scale))
        fitted = F.interpolate(fitted, size=target, mode="bicubic", antialias=True, align_corners=False)
    gap_h, gap_w = size - fitted.shape[-2], size - fitted.shape[-1]
    square = F.pad(fitted, (gap_w // 2, gap_w - gap_w // 2, gap_h // 2, gap_h - gap_h // 2))
    mean, std = (images.new_tensor(values).view(-1, 1, 1) for values in (OPENAI_MEAN, OPENAI_STD))
    return (square - mean) / std


def _scorer(name: str, device: str, weights: str, architecture: str, precision: str) -> Scorer:
    context = _autocast(name, device, precision)
    network, tokenizer, size = _network(name, architecture)
    state = read_state(weights, name)
    load_strictly(network, state, name)
    network = network.to(device).eval().requires_grad_(False)

    def see(images: Tensor) -> Tensor:
        with context():
            return network.encode_image(hpsv2_images(images.to(device), size))

    def read(ids: Tensor) -> Tensor:
        with context():
            return network.encode_text(ids.to(device))

    return Scorer(
        name=name,
        version=fingerprint(state, REVISION, size, precision),
        range=(-1.0, 1.0),
        licence="Apache-2.0" if weights == WEIGHTS[name] else "unknown",
        max_batch=32,
        function=paired_cosine(tokenize=tokenizer, read=read, see=see),
    )


def _autocast(name: str, device: str, precision: str) -> Callable[[], Any]:
    if precision not in _PRECISIONS:
        raise ScorerError(
            f"scorer '{name}' has no precision '{precision}'{near(precision, _PRECISIONS)}; "
            f"right would be one of {', '.join(_PRECISIONS)}"
        )
    kind = torch.device(device).type
    chosen = {"cuda": "float16"}.get(kind, "float32") if precision == "auto" else precision
    if chosen == "float32":
        return nullcontext
    return lambda: torch.autocast(kind, dtype=getattr(torch, chosen))


def _network(name: str, architecture: str) -> tuple[Any, Any, int]:
    try:
        import open_clip
    except ImportError as error:
        raise ScorerError(f"scorer '{name}' needs the package open_clip_torch: {error}") from None
    config = _config(name, architecture, open_clip)
    try:
        network = open_clip.CLIP(**config)
    except (TypeError, AttributeError) as error:
        raise ScorerError(f"scorer '{name}' cannot build a CLIP from '{architecture}': {short(error)}") from error
    return network, open_clip.SimpleTokenizer(context_length=network.context_length), network.visual.image_size[0]


def _config(name: str, architecture: str, open_clip: Any) -> dict[str, Any]:
    if architecture.endswith(".json"):
        path = Path(architecture)
        if not path.is_file():
            raise ScorerError(f"scorer '{name}' finds no file '{architecture}' with an architecture")
        return json.loads(path.read_text(encoding="utf-8"))
    config = open_clip.get_model_config(architecture)
    if config is None:
        known = open_clip.list_models()
        raise ScorerError(
            f"scorer '{name}' knows no architecture '{architecture}'{near(architecture, known)}; "
            f"the released weights are of {ARCHITECTURE}"
        )
    return config
