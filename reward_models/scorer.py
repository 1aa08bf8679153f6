"""What every reward model declares, and how it is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from reward_models.batching import call_in_slices
from reward_models.comparisons import Seed
from reward_models.scores import ScorerError, Scores, as_scores, concatenate, failed, take, with_components

Metadata = Sequence[Mapping[str, Any]]
SCORED_EVERY = 4
"""A video is scored by every so many-th of its frames, the first included: Flow-GRPO's choice for text in videos."""
Kind = Literal["pointwise", "pairwise", "groupwise"]
Media = Literal["image", "text"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a reward model declares about itself, whatever its kind.

    Attributes:
        name: The name or import path under which it was loaded.
        version: Changes whenever the scores may change: hash of weights, preprocessing or source.
        kind: How many samples one judgement takes: "pointwise" scorers look at each by itself, "pairwise" ones compare
            the members of a group two by two, "groupwise" ones look at a whole group at once.
        media: What it looks at.
        needs: What else it reads of a sample: "prompt", "metadata".
        range: Lowest and highest possible score.
        higher_is_better: Direction of the score.
        licence: SPDX identifier of the weights and the rules, or "unknown".
        components: Names of the further numbers that it returns.
        max_batch: Samples per call of the model; halved for the rest of a batch that runs out of memory.
        thread_safe: Whether several threads may call it at once.
        deterministic: Whether equal inputs give equal scores.
    """

    name: str
    version: str
    kind: Kind = "pointwise"
    media: Media = "image"
    needs: tuple[str, ...] = ("prompt",)
    range: tuple[float, float] = (-torch.inf, torch.inf)
    higher_is_better: bool = True
    licence: str = "unknown"
    components: tuple[str, ...] = ()
    max_batch: int | None = None
    thread_safe: bool = True
    deterministic: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer(Card):
    """A reward model: a card and a function.

    Attributes:
        function: Pointwise: (images float32 [n, 3, H, W] in [0, 1], n prompts, n metadata) -> Scores of length n. It
            may raise: the call then reports its samples as invalid, with the exception's text. Pairwise and groupwise:
            the same with two more arguments, the group of each picture (n integers) and a seed; it gets all pictures
            at once, and `reward_models.pairwise.pairwise_scorer` or `reward_models.groupwise.groupwise_scorer` makes
            it.
    """

    function: Callable[..., Scores]

    @torch.no_grad()
    def __call__(
        self,
        images: Tensor,
        prompts: Sequence[str],
        metadata: Metadata | None = None,
        *,
        group: Sequence[int] | None = None,
        seed: Seed = 0,
    ) -> Scores:
        """Score N pictures.

        Args:
            images: [N, 3, H, W], floating, in [0, 1]. Of videos [N, F, 3, H, W] every fourth frame is
                scored, and a video's score is the mean over them.
            prompts: N texts.
            metadata: N mappings with what else is known of each sample; None is empty ones.
            group: N integers, equal for pictures that are compared with each other. Pointwise scorers ignore it, all
                others need it.
            seed: Key of what a pairwise scorer draws: who meets whom, and who is shown first.

        Returns:
            Scores of length N. A picture with a value that is not finite is invalid and is not shown to the model.

        Raises:
            ScorerError: The lengths, the shape or the dtype are wrong, a scorer of groups was given none, or the model
                answered in the wrong form.
        """
        rows = [{}] * len(prompts) if metadata is None else list(metadata)
        if images.ndim == 5:
            return _frame_by_frame(self, images, prompts, rows, group=group, seed=seed)
        _check_batch(self.name, images, prompts, rows)
        groups = _checked_groups(self, group, len(prompts))
        clean = torch.isfinite(images).flatten(1).all(1).tolist()
        kept = [i for i, is_clean in enumerate(clean) if is_clean]
        left_out = [i for i, is_clean in enumerate(clean) if not is_clean]
        part = _CALLS[self.kind](
            self,
            images[kept].float().clamp(0, 1),
            [prompts[i] for i in kept],
            [rows[i] for i in kept],
            [groups[i] for i in kept],
            seed,
        )
        both = concatenate([part, failed(len(left_out), "the picture holds values that are not finite")])
        position = {row: i for i, row in enumerate([*kept, *left_out])}
        return with_components(take(both, [position[i] for i in range(len(clean))]), self.components)


def _one_by_one(
    scorer: Scorer, images: Tensor, prompts: list[str], rows: list[Mapping[str, Any]], group: list[int], seed: Seed
) -> Scores:
    return call_in_slices(scorer.function, images, prompts, rows, limit=scorer.max_batch, label=scorer.name)


def _together(
    scorer: Scorer, images: Tensor, prompts: list[str], rows: list[Mapping[str, Any]], group: list[int], seed: Seed
) -> Scores:
    return scorer.function(images, prompts, rows, group, seed)


_CALLS: dict[str, Callable[..., Scores]] = {"pointwise": _one_by_one, "pairwise": _together, "groupwise": _together}


def _frame_by_frame(
    scorer: Scorer, videos: Tensor, prompts: Sequence[str], rows: Metadata, *, group: Sequence[int] | None, seed: Seed
) -> Scores:
    """Means over the frames of each video; frames are compared with those of the same time in the group."""
    shown = videos[:, ::SCORED_EVERY]
    count = shown.shape[1]
    times = None if group is None else [int(label) * count + time for label in group for time in range(count)]
    scores = scorer(
        shown.flatten(0, 1),
        [prompt for prompt in prompts for _ in range(count)],
        [row for row in rows for _ in range(count)],
        group=times,
        seed=seed,
    )
    errors = {frame // count: text for frame, text in reversed(scores.errors.items())}
    components = {name: value.view(-1, count).mean(1) for name, value in scores.components.items()}
    return as_scores(scores.scores.view(-1, count).mean(1), components=components, errors=errors)


def _checked_groups(scorer: Scorer, group: Sequence[int] | None, count: int) -> list[int]:
    if group is None and scorer.kind != "pointwise":
        raise ScorerError(
            f"scorer '{scorer.name}' compares pictures of one prompt with each other and has no score for single "
            "ones: it rewards a training run, and evaluations and `flowgrpo score` take pointwise scorers"
        )
    groups = [0] * count if group is None else [int(label) for label in group]
    if len(groups) != count:
        raise ScorerError(
            f"scorer '{scorer.name}' got {count} images and {len(groups)} groups; right would be one for each image"
        )
    return groups


def _check_batch(name: str, images: Tensor, prompts: Sequence[str], metadata: Metadata) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ScorerError(
            f"scorer '{name}' got images {tuple(images.shape)} of {images.dtype}; "
            "right would be floating point [N, 3, H, W] in [0, 1]"
        )
    if not len(images) == len(prompts) == len(metadata):
        raise ScorerError(
            f"scorer '{name}' got {len(images)} images, {len(prompts)} prompts and {len(metadata)} metadata; "
            "right would be as many of each"
        )
