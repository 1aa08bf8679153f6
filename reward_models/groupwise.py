"""Groupwise reward models: those that look at all pictures of a prompt at once, and the one that ships.

What a picture is worth may depend on the others: how much it adds to them, or its place in an order. `clip_diversity`
is such a number; at weight 0 it shows when a policy's pictures of a prompt grow alike.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from reward_models.batching import call_in_slices
from reward_models.clip import EMBEDDED, load_open_clip
from reward_models.comparisons import Seed, members_of
from reward_models.preprocess import REVISION, clip_images
from reward_models.scorer import Metadata, Scorer
from reward_models.scores import ScorerError, Scores, as_scores, concatenate, take
from reward_models.weights import fingerprint

GroupReward = Callable[[Tensor, list[str], Metadata], Scores]
"""(images [n, 3, H, W], n prompts, n metadata) of one whole group -> Scores of length n."""

_PICTURES_PER_CALL = 64
_Function = TypeVar("_Function", bound=Callable[..., Any])
_MARK = "looks_at_a_whole_group"


def groupwise_reward(function: _Function) -> _Function:
    """Mark a user's function, so that its import path names a groupwise scorer.

    Args:
        function: Called as any reward, ``f(images, prompts, metadata)``, with the pictures of one group at a time.

    Returns:
        The same function.
    """
    setattr(function, _MARK, True)
    return function


def is_groupwise(function: Callable[..., Any]) -> bool:
    """Whether `groupwise_reward` has marked the function."""
    return bool(getattr(function, _MARK, False))


def groupwise_scorer(reward: GroupReward, *, name: str, **card: Any) -> Scorer:
    """A scorer that hands a reward each group whole.

    Args:
        reward: What is asked. Where it raises, its group is invalid, with the exception's text.
        name: The scorer's name.
        **card: Further fields of the card.

    Returns:
        A scorer of kind "groupwise".
    """
    return Scorer(name=name, kind="groupwise", function=partial(_by_group, reward=reward, label=name), **card)


def clip_diversity(*, device: str = "cpu", model: str = EMBEDDED, weights: str | None = None) -> Scorer:
    """How far a picture is from the others of its prompt: 1 minus its mean cosine with them, in a CLIP's space.

    Args:
        device: Where the model runs.
        model: As of the scorer `clip`.
        weights: As of the scorer `clip`.

    Returns:
        The scorer, of kind "groupwise"; scores lie in [0, 2], and a picture that is alone in its group is invalid.

    Raises:
        ScorerError: There is no such model or weights.
    """
    network, _ = load_open_clip(model, weights, device, None)
    config = network.visual.preprocess_cfg

    def distances(images: Tensor, prompts: list[str], metadata: Metadata) -> Scores:
        cuts = images.to(device).split(_PICTURES_PER_CALL)
        seen = torch.cat([network.encode_image(clip_images(cut, config)) for cut in cuts])
        return as_scores(1 - mean_cosines(seen), errors=dict.fromkeys(range(len(images)), _ALONE))

    return groupwise_scorer(
        distances,
        name="clip_diversity",
        version=fingerprint(network.state_dict(), REVISION, config),
        needs=(),
        range=(0.0, 2.0),
        licence="Apache-2.0" if model == EMBEDDED else "unknown",
    )


_ALONE = "there is no other picture of its group to compare it with"


def mean_cosines(embeddings: Tensor) -> Tensor:
    """Mean cosine of each of n embeddings [n, D] with the n - 1 others, float64 [n]; NaN where there is no other."""
    unit = F.normalize(embeddings.double(), dim=-1)
    cosines = unit @ unit.T
    others = len(unit) - 1
    return (cosines.sum(1) - cosines.diagonal()) / others if others else unit.new_full((1,), torch.nan)


def _by_group(
    images: Tensor,
    prompts: list[str],
    metadata: Metadata,
    group: list[int],
    seed: Seed,
    *,
    reward: GroupReward,
    label: str,
) -> Scores:
    groups = list(members_of(group).values())
    parts = [_of_group(reward, images, prompts, metadata, rows, label) for rows in groups]
    place = {row: i for i, row in enumerate(row for rows in groups for row in rows)}
    return take(concatenate(parts), [place[row] for row in range(len(group))])


def _of_group(
    reward: GroupReward, images: Tensor, prompts: list[str], metadata: Metadata, rows: list[int], label: str
) -> Scores:
    texts = [prompts[i] for i in rows]
    if len(set(texts)) > 1:
        shown = " and ".join(repr(text) for text in sorted(set(texts))[:2])
        raise ScorerError(f"scorer '{label}' got one group with {shown}; right would be one prompt per group")
    return call_in_slices(reward, images[rows], texts, [metadata[i] for i in rows], limit=None, label=label)
