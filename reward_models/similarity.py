"""Cosines of pictures and their own prompts, for any model with two towers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reward_models.scores import Scores, as_scores

Tower = Callable[[Any], Tensor]


def paired_cosine(*, tokenize: Tower, read: Tower, see: Tower, scale: float = 1.0) -> Callable[..., Scores]:
    """The function of a scorer: scale · cos(picture, its prompt). Equal prompts are read once.

    Args:
        tokenize: n texts -> what `read` takes. Called by one thread at a time: the fast tokenizers of Hugging Face set
            their padding on themselves and refuse a second thread.
        read: -> [n, D].
        see: Pictures float32 [n, 3, H, W] in [0, 1] on the CPU or elsewhere -> [n, D].
        scale: Factor of the cosine.
    """
    lock = threading.Lock()

    def function(images: Tensor, prompts: list[str], metadata: list[Mapping[str, Any]]) -> Scores:
        place = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
        with lock:
            ids = tokenize(list(place))
        texts = F.normalize(read(ids).float(), dim=-1)
        rows = torch.tensor([place[prompt] for prompt in prompts], device=texts.device)
        pictures = F.normalize(see(images).float(), dim=-1)
        return as_scores(scale * (pictures * texts[rows]).sum(-1))

    return function
