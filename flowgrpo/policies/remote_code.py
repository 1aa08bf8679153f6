"""Code that comes with a checkpoint and was written for transformers 4 (LLaDA, Dream), under transformers 5.

Version 5 expects of a model class what `post_init` sets and a `tie_weights` that takes arguments, gives a config no
`use_cache` of its own, has no rotary embedding by the name "default", and leaves buffers that are not in the files
unset. Nothing here runs unless the recipe says `model.trust_remote_code`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import wraps
from typing import Any

import torch
from torch import Tensor


def prepare(config: Mapping[str, Any], loader: str, path: str, revision: str | None) -> None:
    """Makes the class that `loader` is about to use one that this version of transformers can load.

    Args:
        config: the model's config.json.
        loader: name of the auto class.
        path: folder or hub name.
        revision: of the files.
    """
    from transformers.dynamic_module_utils import get_class_from_dynamic_module
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    reference = config.get("auto_map", {}).get(loader)
    if reference is None:
        return
    ROPE_INIT_FUNCTIONS.setdefault("default", _default_rope)
    kind: Any = get_class_from_dynamic_module(reference, path, revision=revision)
    if not hasattr(kind, "all_tied_weights_keys"):
        kind.all_tied_weights_keys = {}
    if not hasattr(kind.config_class, "use_cache"):
        kind.config_class.use_cache = False
    own = vars(kind).get("tie_weights")
    if own is not None and len(inspect.signature(own).parameters) == 1:
        kind.tie_weights = _ignoring(own)


def restore_buffers(network: Any) -> None:
    """Computes again what a network's constructor puts into buffers that its files do not hold.

    Version 5 builds networks without memory, after which such buffers (frequencies of rotary embeddings) hold anything.
    """
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        fresh = type(network)(network.config)
    for module, own in zip(network.modules(), fresh.modules(), strict=True):
        for name in module._non_persistent_buffers_set:
            held = getattr(module, name)
            if held is not None:
                held.copy_(getattr(own, name))


def _ignoring(method: Any) -> Any:
    @wraps(method)
    def tied(self: Any, *_: Any, **__: Any) -> Any:
        return method(self)

    del tied.__wrapped__  # signatures are read through it
    return tied


def _default_rope(config: Any, device: Any = None, seq_len: int | None = None, **_: Any) -> tuple[Tensor, float]:
    """Inverse frequencies theta^(-2i / d) of plain rotary embeddings [d / 2], and their scale 1."""
    parameters = getattr(config, "rope_parameters", None) or {}
    theta = parameters.get("rope_theta") or getattr(config, "rope_theta", 10_000.0)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 1.0 / theta ** (torch.arange(0, width, 2, dtype=torch.float32, device=device) / width), 1.0
