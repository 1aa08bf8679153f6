"""Reward models: how a picture becomes a score.

`load(name)` gives a :class:`~reward_models.scorer.Scorer`: a callable ``scorer(images, prompts, metadata) -> Scores``,
which takes the group of each picture as well where it compares pictures with each other.
Names are loaded on first use, so that importing the package costs nothing and works without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reward_models.comparisons import Comparison, win_matrix
    from reward_models.cost import Cost
    from reward_models.groupwise import groupwise_reward
    from reward_models.pairwise import pairwise_judge
    from reward_models.registry import SCORERS, check_name, load
    from reward_models.scorer import Scorer
    from reward_models.scores import ScorerError, Scores

__all__ = [
    "SCORERS",
    "Comparison",
    "Cost",
    "Scorer",
    "ScorerError",
    "Scores",
    "check_name",
    "groupwise_reward",
    "load",
    "pairwise_judge",
    "win_matrix",
]

_HOMES = {
    "SCORERS": "registry",
    "Comparison": "comparisons",
    "win_matrix": "comparisons",
    "Cost": "cost",
    "groupwise_reward": "groupwise",
    "pairwise_judge": "pairwise",
    "check_name": "registry",
    "load": "registry",
    "Scorer": "scorer",
    "ScorerError": "scores",
    "Scores": "scores",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'reward_models' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"reward_models.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
