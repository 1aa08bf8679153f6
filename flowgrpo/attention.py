"""Attention implementations by name, through the switch that the model really listens to.

diffusers has two generations of attention processors: newer ones read a backend name (`set_attention_backend`), older
ones, Stable Diffusion 3's among them, are the implementation and must be exchanged; on these a backend name changes
nothing and no error is raised. After either switch we look whether every processor changed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

from flowgrpo.errors import RecipeError, did_you_mean, first_line

PROCESSORS = {"sdpa": "JointAttnProcessor2_0", "xformers": "XFormersJointAttnProcessor"}
"""Names for models whose processors are the implementation -> diffusers class."""
ALIASES = {"sdpa": "native"}
"""Our names -> diffusers' backend names, where they differ."""


def set_attention(network: Any, name: str) -> None:
    """Makes every attention layer of `network` use the implementation `name`; "default" leaves them alone.

    Raises:
        RecipeError: the name is unknown, its library is missing, or a layer did not take it.
    """
    if name == "default":
        return
    if name == "xformers" and importlib.util.find_spec("xformers") is None:
        raise RecipeError(
            "model.attention: 'xformers' is not installed; install it with: pip install 'flowgrpo[xformers]'"
        )
    dispatched = all(hasattr(processor, "_attention_backend") for processor in _processors(network).values())
    switch: Callable[[Any, str], None] = _choose_backend if dispatched else _exchange_processors
    switch(network, name)


def _choose_backend(network: Any, name: str) -> None:
    backend = ALIASES.get(name, name)
    try:
        network.set_attention_backend(backend)
    except (ValueError, RuntimeError, ImportError) as error:
        raise RecipeError(f"model.attention: {name!r} cannot be used here: {first_line(error)}") from error
    _confirm(network, name, lambda processor: str(getattr(processor._attention_backend, "value", "")) == backend)


def _exchange_processors(network: Any, name: str) -> None:
    from diffusers.models import attention_processor

    joint = all("Joint" in type(processor).__name__ for processor in _processors(network).values())
    if name not in PROCESSORS or not joint:
        choices = ", ".join(("default", *(PROCESSORS if joint else ())))
        raise RecipeError(
            f"model.attention: {type(network).__name__} offers {choices}, not {name!r}{did_you_mean(name, PROCESSORS)}"
        )
    processor_class = getattr(attention_processor, PROCESSORS[name])
    network.set_attn_processor(processor_class())
    _confirm(network, name, lambda processor: type(processor) is processor_class)


def _confirm(network: Any, name: str, changed: Callable[[Any], bool]) -> None:
    processors = _processors(network)
    kept = [layer for layer, processor in processors.items() if not changed(processor)]
    if kept:
        raise RecipeError(
            f"model.attention: {name!r} was not taken by {len(kept)} of {len(processors)} layers, {kept[0]} among them"
        )


def _processors(network: Any) -> dict[str, Any]:
    """Attention layer -> its processor; not every network class has diffusers' property of that name."""
    layers = ((name, module) for name, module in network.named_modules() if hasattr(module, "set_processor"))
    return {name: module.processor for name, module in layers}
