"""Answers of a masked language model: prompts in, canvases filled by the unmasking loop, texts and rewards out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from flowgrpo.clock import Clock
from flowgrpo.importing import resolve
from flowgrpo.media import Between, Collected
from flowgrpo.policy import TextPolicy
from flowgrpo.processes import ALONE, Processes
from flowgrpo.prompts import Prompt
from flowgrpo.recipe import Recipe
from flowgrpo.recipe_kinds import DECODING
from flowgrpo.rewarding import RewardPool, Rewards, without_broken_groups
from samplers.masked import Decoding, MaskedRollout, masked_canvas, sample_masked
from samplers.masked_ends import answer_lengths
from samplers.masked_remasking import REMASKINGS
from samplers.masked_schedules import SCHEDULES
from samplers.masked_tokens import ORDERS

TABLES: dict[str, Mapping[str, Callable[..., Any]]] = {
    "order": ORDERS,
    "remasking": REMASKINGS,
    "schedule": SCHEDULES,
}


@dataclass(frozen=True, slots=True)
class Answers:
    """N answers and what training needs of them; padding of prompts is on the left, answers begin in one column.

    Attributes:
        decoded: the unmasking loop's record, rows in sample order.
        attention: bool [N, T], False at padding.
        start: first column of the answers.
        own: samples that this process drew and trains.
        step_scores: scorer -> score of the filled-in prediction after each step [N, K]; None unless recorded.
        step_valid: bool [N], every step has a score; None likewise.
    """

    decoded: MaskedRollout
    attention: Tensor
    start: int
    own: range
    step_scores: Mapping[str, Tensor] | None = None
    step_valid: Tensor | None = None


def decoding_of(settings: Mapping[str, Any], policy: TextPolicy) -> Decoding:
    """The choices of the unmasking loop.

    Args:
        settings: keys of the recipe's section `sampler`.
        policy: says where answers end.

    Raises:
        RecipeError: a function of the user's own cannot be imported.
        ValueError: values contradict each other.
    """
    values = {key: settings[key] for key in DECODING}
    for key, table in TABLES.items():
        if values[key] not in table:
            values[key] = resolve(values[key], table, f"sampler.{key}")
    if settings["stop_at_end"]:
        values |= {"eos_ids": policy.ends.eos_ids, "pad_ids": policy.ends.pad_ids}
    return Decoding(**values)


def decode(
    policy: TextPolicy,
    prompts: Sequence[Sequence[int]],
    keys: Sequence[tuple[int, ...]],
    settings: Mapping[str, Any],
    *,
    width: int | None = None,
    record: bool = False,
) -> tuple[MaskedRollout, Tensor]:
    """One answer per (prompt, key): the record of the unmasking loop, and its attention mask bool [n, T], on the CPU.

    Args:
        policy: the model.
        prompts: token ids.
        keys: noise of each row, which depends on nothing else.
        settings: keys of the section `sampler`.
        width: columns of the prompts; None takes the longest.
        record: keep every canvas and every guess.
    """
    ids, attention = masked_canvas(prompts, settings["gen_length"], mask_id=policy.mask_id, pad_id=policy.pad_id)
    short = 0 if width is None else width + settings["gen_length"] - ids.shape[1]
    ids = torch.nn.functional.pad(ids, (short, 0), value=policy.pad_id)
    attention = torch.nn.functional.pad(attention, (short, 0), value=False)

    def logits_fn(canvas: Tensor, wanted: Tensor, attention_mask: Tensor) -> Tensor:
        found = policy.logits(canvas, wanted, attention_mask)
        return found.logits()

    rollout = sample_masked(
        logits_fn,
        ids.to(policy.device),
        decoding_of(settings, policy),
        mask_id=policy.mask_id,
        keys=keys,
        attention_mask=attention.to(policy.device),
        record=record,
    )
    return _on_cpu(rollout), attention


def answer_lengths_of(policy: TextPolicy, rollout: MaskedRollout) -> Tensor:
    """Tokens of each answer up to and including its end, whether or not the loop stopped there [n]."""
    return answer_lengths(policy.ends, rollout.ids, rollout.generated)


def texts_of(policy: TextPolicy, canvases: Tensor, start: int) -> list[str]:
    """Texts of the answers on canvases [n, T]."""
    return [policy.text(row) for row in canvases[:, start:].tolist()]


def collect(
    policy: TextPolicy,
    recipe: Recipe,
    prompts: Sequence[Prompt],
    pool: RewardPool,
    *,
    iteration: int,
    clock: Clock,
    between: Between,
    record: bool,
    processes: Processes = ALONE,
) -> Collected:
    """A group of answers of every prompt, scored; each process decodes its share and has the answers of all.

    Args:
        policy: the model.
        recipe: the run's recipe.
        prompts: one per group.
        pool: scores answers while the next ones are decoded.
        iteration: keys the noise.
        clock: is told which stage runs.
        between: called with (groups done, groups) after each batch; may raise to leave early.
        record: also score the filled-in prediction after every step.
        processes: who shares the groups.

    Raises:
        RunError: scoring failed, or a prompt is too long.
    """
    size, settings = recipe.train.group_size, recipe.sampler.model_dump()
    tokens = [policy.tokens(prompt.text) for prompt in prompts]
    width, step = max(map(len, tokens)), max(1, recipe.sampler.batch_size // size)
    drawn: list[tuple[MaskedRollout, Tensor, Tensor]] = []
    groups = processes.share(len(prompts))
    for first in range(groups.start, groups.stop, step):
        owners = [group for group in range(first, min(first + step, groups.stop)) for _ in range(size)]
        keys = [(recipe.train.seed, iteration, group, i % size) for i, group in enumerate(owners)]
        with clock.stage("rollout"):
            rollout, attention = decode(
                policy, [tokens[group] for group in owners], keys, settings, width=width, record=record
            )
        with clock.stage("decode"):
            texts, index = _texts(policy, rollout, width)
        rows = [owners[row] for row, _ in texts]
        asked = [prompts[group] for group in rows]
        facts = [prompt.text for prompt in asked], [prompt.metadata for prompt in asked]
        pool.submit([text for _, text in texts], *facts, group=rows, seed=(recipe.train.seed, iteration))
        drawn.append((rollout, attention, index))
        between(owners[-1] + 1 - groups.start, len(groups))
    with clock.stage("reward_wait"):
        scored = pool.collect()
    parts, masks, places = zip(*processes.joined(drawn), strict=True)
    own = range(groups.start * size, groups.stop * size)
    answers = Answers(_merged(parts), torch.cat(masks), width, own)
    return _collected(policy, prompts, answers, scored, places, recipe.reward.max_invalid_in_group)


def _texts(policy: TextPolicy, rollout: MaskedRollout, start: int) -> tuple[list[tuple[int, str]], Tensor]:
    """The different texts of each row, as (row, text), and which of them stands after each step, int64 [n, K].

    Without recorded guesses K is 1, and a row's only text is its answer.
    """
    canvases = rollout.ids.unsqueeze(1) if rollout.guesses is None else rollout.guesses
    found: dict[tuple[int, str], int] = {}
    index = torch.zeros(canvases.shape[:2], dtype=torch.int64)
    for row in range(len(canvases)):
        for step, text in enumerate(texts_of(policy, canvases[row], start)):
            index[row, step] = found.setdefault((row, text), len(found))
    return list(found), index


def _collected(
    policy: TextPolicy,
    prompts: Sequence[Prompt],
    answers: Answers,
    scored: Rewards,
    places: Sequence[Tensor],
    allowed: float,
) -> Collected:
    """Scores of texts [M] onto answers [N], and onto their steps [N, K] where these were recorded; `allowed` as
    `without_broken_groups` takes it."""
    counts = [int(part.max()) + 1 for part in places]
    most = max(part.shape[1] for part in places)
    index = torch.cat(
        [
            torch.cat([part, part[:, -1:].expand(-1, most - part.shape[1])], dim=1) + sum(counts[:i])
            for i, part in enumerate(places)
        ]
    )
    decoded = answers.decoded
    group = torch.arange(len(prompts)).repeat_interleave(len(index) // len(prompts))
    rewards = without_broken_groups(taken(scored, index[:, -1]), group, allowed)
    if decoded.guesses is not None:
        steps = {name: values[index] for name, values in scored.scores.items()}
        answers = replace(answers, step_scores=steps, step_valid=scored.valid[index].all(1) & rewards.valid)
    lengths = answer_lengths_of(policy, decoded)
    return Collected(
        rollout=answers,
        prompts=tuple(prompts),
        group=group,
        rewards=rewards,
        statistics=statistics(lengths, decoded, group),
        forwards=int(decoded.forwards.sum()),
        decodes=index.numel(),
        scored=len(scored.valid),
    )


def statistics(lengths: Tensor, decoded: MaskedRollout, group: Tensor) -> dict[str, float]:
    """Guard rails beside the reward.

    Args:
        lengths: tokens of each answer [N].
        decoded: the answers.
        group: group of each answer [N].

    Returns:
        "answer/length" (mean tokens), "answer/ended" (share of answers that end before the canvas does),
        "answer/distinct" (different answers of a prompt, as a share of all), "answer/forwards" (mean).
    """
    full = decoded.generated.sum(1)
    rows = [tuple(row[-int(size) :].tolist()) for row, size in zip(decoded.ids, full, strict=True)]
    answers = [(int(g), row[: int(n)]) for g, row, n in zip(group, rows, lengths, strict=True)]
    return {
        "answer/length": lengths.double().mean().item(),
        "answer/ended": (lengths < full).double().mean().item(),
        "answer/distinct": len(set(answers)) / len(answers),
        "answer/forwards": decoded.forwards.double().mean().item(),
    }


def taken(rewards: Rewards, index: Tensor) -> Rewards:
    """Rewards of some samples, [n] of them by index; a sample may come twice."""
    errors = {i: rewards.errors[j] for i, j in enumerate(index.tolist()) if j in rewards.errors}
    scores = {name: values[index] for name, values in rewards.scores.items()}
    components = {name: values[index] for name, values in rewards.components.items()}
    return Rewards(scores, rewards.valid[index], components, errors)


def _merged(parts: Sequence[MaskedRollout]) -> MaskedRollout:
    """Rollouts of equal width one below the other; one of fewer steps repeats its final canvas."""
    most = max((0 if part.canvases is None else part.canvases.shape[1]) for part in parts)
    longer = [{field.name: _lengthened(part, field.name, most) for field in fields(part)} for part in parts]
    names = [name for name, value in longer[0].items() if value is not None]
    return MaskedRollout(**{name: torch.cat([part[name] for part in longer]) for name in names})


def _lengthened(part: MaskedRollout, name: str, most: int) -> Any:
    held = getattr(part, name)
    if held is None or name not in ("canvases", "guesses", "confidences"):
        return held
    rest = torch.zeros_like(held[:, :1]) if name == "confidences" else part.ids.unsqueeze(1)
    return torch.cat([held, rest.expand(-1, most - held.shape[1], -1).to(held)], dim=1)


def _on_cpu(rollout: MaskedRollout) -> MaskedRollout:
    held = {field.name: getattr(rollout, field.name) for field in fields(rollout)}
    moved: dict[str, Any] = {name: value if value is None else value.cpu() for name, value in held.items()}
    return MaskedRollout(**moved)
