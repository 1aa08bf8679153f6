"""Models of transformers: loaded whole or not at all, with the settings of their own processors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from reward_models.scores import ScorerError
from reward_models.weights import pinned, short


def pretrained_model(class_name: str, source: str, *, label: str, device: str) -> Any:
    """A network in evaluation mode, without gradients, in float32.

    Weights are read from safetensors, or from PyTorch files without unpickling code, which is the library's default.

    Args:
        class_name: Of transformers, such as "CLIPModel".
        source: A folder, or a hub repository "org/name", with a branch, tag or commit "org/name@revision".
        label: The scorer's name, for error texts.
        device: Where the network goes.

    Raises:
        ScorerError: It cannot be loaded, or a tensor of it would be left at its random start.
    """
    network, info = _from_pretrained(class_name, source, label, output_loading_info=True)
    absent = sorted({str(name) for key in ("missing_keys", "mismatched_keys") for name in info[key]})
    if absent:
        raise ScorerError(
            f"scorer '{label}' would leave {len(absent)} tensors of '{source}' at random ({', '.join(absent[:3])}): "
            f"right would be a complete {class_name}"
        )
    return network.float().to(device).eval().requires_grad_(False)


def pretrained_processor(class_name: str, source: str, *, label: str) -> Any:
    """A tokenizer or an image processor of transformers.

    Raises:
        ScorerError: It cannot be loaded.
    """
    return _from_pretrained(class_name, source, label)


def clip_config(processor: Any, label: str) -> dict[str, Any]:
    """The settings of a CLIP image processor in the form that `reward_models.preprocess.clip_images` takes.

    Raises:
        ScorerError: It does not fit the shortest side to the side that it then crops out.
    """
    size, crop = dict(processor.size), dict(processor.crop_size)
    side = size.get("shortest_edge")
    if side is None or crop != {"height": side, "width": side}:
        raise ScorerError(
            f"scorer '{label}' reads pictures of CLIP's form (shortest side = crop size); its processor says "
            f"size {size} and crop {crop}"
        )
    plain = {"size": side, "interpolation": "bicubic", "resize_mode": "shortest", "fill_color": 0}
    return {**plain, "mean": tuple(processor.image_mean), "std": tuple(processor.image_std)}


def projected(output: Any) -> Tensor:
    """The projected embedding [n, D]: since version 5 of transformers it comes wrapped, before it was the tensor."""
    return output if isinstance(output, Tensor) else output.pooler_output


def _from_pretrained(class_name: str, source: str, label: str, **options: Any) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ScorerError(f"scorer '{label}' needs the package transformers: {error}") from None
    name, revision = (source, None) if Path(source).exists() else pinned(source)
    given = {} if revision is None else {"revision": revision}
    try:
        return getattr(transformers, class_name).from_pretrained(name, **given, **options)
    except Exception as error:
        raise ScorerError(
            f"scorer '{label}' cannot load {class_name} from '{source}': {short(error)}; "
            "right would be a folder or a hub repository org/name"
        ) from error


def labels_of(network: Any) -> Mapping[str, int]:
    """Label -> position of an image classifier."""
    return {name: int(i) for i, name in network.config.id2label.items()}
