"""One iteration's samples: prompts in, latents, pictures and rewards out, the scoring done beside the sampling."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from flowgrpo.clock import Clock
from flowgrpo.errors import RunError
from flowgrpo.image_stats import image_statistics
from flowgrpo.media import Collected
from flowgrpo.planning import kernel_of, roots_per_group
from flowgrpo.policy import Policy, encode_once
from flowgrpo.processes import ALONE, Processes
from flowgrpo.prompts import Prompt
from flowgrpo.recipe import Recipe
from flowgrpo.rewarding import RewardPool, without_broken_groups
from flowgrpo.shared_rollout import share_rollout
from samplers import sample_flow
from samplers.plans import Plan
from samplers.rollout import FlowRollout, merge


def noise_keys(recipe: Recipe, iteration: int, groups: Sequence[int]) -> list[tuple[int, ...]]:
    """One key per root: (run seed, iteration, group, member). It does not depend on batches or ranks."""
    members = range(roots_per_group(recipe))
    return [(recipe.train.seed, iteration, group, member) for group in groups for member in members]


def collect(
    policy: Policy,
    recipe: Recipe,
    plan: Plan,
    prompts: Sequence[Prompt],
    pool: RewardPool,
    *,
    iteration: int,
    clock: Clock,
    between: Callable[[int, int], None] = lambda done, total: None,
    processes: Processes = ALONE,
) -> Collected:
    """Sample every group along `plan`, decode and score; each process its share of the groups.

    Args:
        policy: the model.
        recipe: the run's recipe.
        plan: what each root follows.
        prompts: one per group.
        pool: scores pictures while the next groups are drawn.
        iteration: keys the noise.
        clock: is told which stage runs.
        between: called with (groups done, groups of this process) after each batch; may raise to leave early.
        processes: who shares the groups.

    Raises:
        RunError: a latent is not finite (step and prompt are named), or scoring failed.
    """
    step = max(1, recipe.sampler.batch_size // recipe.train.group_size)
    share = processes.share(len(prompts))
    parts, statistics, forwards = [], [], 0
    for start in range(share.start, share.stop, step):
        groups = range(start, min(start + step, share.stop))
        part, count = _sample(policy, recipe, plan, prompts, groups, iteration, clock)
        forwards += count
        owner = _owners(part, recipe) + start
        texts = [prompts[group] for group in owner.tolist()]
        with clock.stage("decode"):
            images = policy.decode(part.samples)
        statistics.append((len(images), image_statistics(images, owner)))
        facts = [prompt.text for prompt in texts], [prompt.metadata for prompt in texts]
        pool.submit(images, *facts, group=owner.tolist(), seed=(recipe.train.seed, iteration))
        parts.append(part.to("cpu") if recipe.sampler.latent_store == "cpu" else part)
        between(groups.stop - share.start, len(share))
    own = merge(parts)
    with clock.stage("reward_wait"):
        rewards = pool.collect()
    rollout = share_rollout(own, processes, log_probs=recipe.objective.fusion == "path_softmax")
    averages = _averages(processes.joined(statistics))
    leaves, owners = len(rollout.whole.sample_root), _owners(rollout.whole, recipe)
    rewards = without_broken_groups(rewards, owners, recipe.reward.max_invalid_in_group)
    forwards = sum(processes.exchange(forwards))
    return Collected(rollout, tuple(prompts), owners, rewards, averages, forwards, decodes=leaves, scored=leaves)


def _averages(batches: Sequence[tuple[int, Mapping[str, float]]]) -> dict[str, float]:
    """Means over batches of (pictures, statistics), by pictures; shares of the largest keep equal batches exact."""
    most = max(size for size, _ in batches)
    shares = [size / most for size, _ in batches]
    names = batches[0][1]
    return {
        f"image/{name}": sum(share * part[name] for share, (_, part) in zip(shares, batches, strict=True)) / sum(shares)
        for name in names
    }


def _owners(rollout: FlowRollout, recipe: Recipe) -> Tensor:
    """Group of each leaf [N], counted within the rollout."""
    return rollout.sample_root // roots_per_group(recipe)


def _sample(
    policy: Policy,
    recipe: Recipe,
    plan: Plan,
    prompts: Sequence[Prompt],
    groups: range,
    iteration: int,
    clock: Clock,
) -> tuple[FlowRollout, int]:
    """The rollout of some groups, and how many network inputs it evaluated."""
    sampler, model = recipe.sampler, recipe.model
    with clock.stage("encode"):
        conditioning, row_of_group = encode_once(policy, [prompts[group].text for group in groups])
    keys = noise_keys(recipe, iteration, groups)
    per_group = roots_per_group(recipe)
    forwards = 0

    def velocity(x: Tensor, sigma: float, rows: Tensor) -> Tensor:
        nonlocal forwards
        forwards += len(x)
        wanted = conditioning.rows(row_of_group[rows.cpu() // per_group])
        return policy.velocity(x, sigma, wanted, guidance_scale=model.guidance_scale)

    with clock.stage("rollout"):
        rollout = sample_flow(
            velocity,
            policy.initial_noise(keys),
            plan,
            kernel=kernel_of(recipe),
            eta=sampler.eta,
            keys=keys,
            batch_size=sampler.batch_size,
            storage_dtype=getattr(torch, sampler.latent_dtype),
        )
    _refuse_non_finite(rollout, [prompts[group].text for group in groups], recipe)
    return rollout, forwards


def _refuse_non_finite(rollout: FlowRollout, texts: Sequence[str], recipe: Recipe) -> None:
    bad = ~torch.isfinite(rollout.next).flatten(1).all(1)
    if bad.any():
        edge = int(bad.nonzero()[0])
        root = int(rollout.input_root[rollout.edge_input[edge]])
        raise RunError(_non_finite(f"step {int(rollout.edge_step[edge])}", root, texts, recipe))
    bad = ~torch.isfinite(rollout.samples).flatten(1).all(1)
    if bad.any():
        root = int(rollout.sample_root[int(bad.nonzero()[0])])
        raise RunError(_non_finite("the last steps", root, texts, recipe))


def _non_finite(where: str, root: int, texts: Sequence[str], recipe: Recipe) -> str:
    group, member = divmod(root, roots_per_group(recipe))
    return (
        f"the rollout is not finite at {where}, sample {member} of prompt {texts[group]!r}: the weights or the dtype "
        f"({recipe.model.dtype}) overflow; try model.dtype bfloat16 or float32, or a lower train.lr"
    )
