"""The exact verifier of the world of shapes as a reward, in its two readings."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from reward_models import gold as verifier
from reward_models import shapes
from reward_models.gold import score_gold
from reward_models.scorer import Scorer
from reward_models.scores import Scores, as_scores


def gold(*, device: str = "cpu") -> Scorer:
    """The share of a caption's clauses that a picture meets, in [0, 1]; component "strict" is 1 where it meets all.

    Args:
        device: Ignored; the verifier runs on the CPU.

    Returns:
        The scorer. Captions outside the world of shapes make their samples invalid.
    """
    return _scorer("gold", strict=False)


def gold_strict(*, device: str = "cpu") -> Scorer:
    """1 where a picture meets every clause of its caption, else 0; component "partial" is the share that it meets.

    Args:
        device: Ignored; the verifier runs on the CPU.

    Returns:
        The scorer. Captions outside the world of shapes make their samples invalid.
    """
    return _scorer("gold_strict", strict=True)


def _scorer(name: str, *, strict: bool) -> Scorer:
    sources = (Path(module.__file__ or "").read_bytes() for module in (verifier, shapes))
    return Scorer(
        name=name,
        version=hashlib.sha256(b"".join(sources)).hexdigest()[:12],
        range=(0.0, 1.0),
        licence="Apache-2.0",
        components=("partial",) if strict else ("strict",),
        function=partial(_score, strict=strict),
    )


def _score(images: Tensor, prompts: list[str], metadata: list[Mapping[str, Any]], *, strict: bool) -> Scores:
    share, every, errors = score_gold(images, prompts)
    if strict:
        return as_scores(every, components={"partial": share}, errors=errors)
    return as_scores(share, components={"strict": every}, errors=errors)
