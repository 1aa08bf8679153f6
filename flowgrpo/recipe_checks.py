"""What no single key shows: combinations that cannot run (`faults`) and those that rarely mean well (`cautions`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from flowgrpo.accelerations import lossy, refused
from flowgrpo.errors import did_you_mean
from flowgrpo.guard_rails import RAILS
from flowgrpo.planning import leaves_per_root, roots_per_group, window_range
from flowgrpo.recipe import Recipe
from flowgrpo.recipe_kinds import likelihood_fits, loose_sequence_clip, masked_model, wrong_kind

Finding = tuple[tuple[str, ...], str]
"""The keys that take part, as "section.key", and one sentence."""

LOOSE_CLIP = 0.05
"""A log-prob is a mean over the latent's elements, so ratios of published runs move by 1e-6 to 1e-2."""


def faults(recipe: Recipe) -> list[Finding]:
    """Every reason why this combination of values cannot run."""
    return [finding for check in FAULTS for finding in check(recipe)]


def cautions(recipe: Recipe) -> list[Finding]:
    """What probably is not meant, though it runs."""
    return [finding for check in CAUTIONS for finding in check(recipe)]


def kept_samples(recipe: Recipe) -> int:
    """Samples of an iteration that are trained on, after selection among samples of their own noise."""
    train, objective = recipe.train, recipe.objective
    if "best_of_n" not in objective.select:
        return train.prompts_per_iteration * train.group_size
    return objective.best_of * (train.prompts_per_iteration if objective.best_of_scope == "group" else 1)


def _updates(recipe: Recipe) -> Iterator[Finding]:
    """Updates take whole trees: a sample of its own noise each, or all that starts from one noise."""
    updates = recipe.train.updates_per_iteration
    chains = leaves_per_root(recipe) == 1
    parts = kept_samples(recipe) if chains else recipe.train.prompts_per_iteration * roots_per_group(recipe)
    if parts % updates:
        nearest = min((n for n in range(1, parts + 1) if parts % n == 0), key=lambda n: abs(n - updates))
        keys = ("train.updates_per_iteration", "train.prompts_per_iteration", "train.group_size", "objective.best_of")
        what = "trained samples" if chains else "trees of shared noise"
        yield keys, f"{parts} {what} do not divide into {updates} updates; {nearest} would"


def _window(recipe: Recipe) -> Iterator[Finding]:
    sampler = recipe.sampler
    if sampler.window == "none":
        if sampler.tail_ratio is not None:
            why = "there is no tail to shorten: without a window every step but the last is stochastic"
            yield ("sampler.tail_ratio", "sampler.window"), why
        return
    keys = ("sampler.window_high", "sampler.window_width", "sampler.window_low", "sampler.steps")
    low, high = window_range(recipe)
    width, last = sampler.window_width, sampler.steps - 1
    if high > last:
        yield keys, f"the window reaches step {high}, but only steps before {last} of {last + 1} may be stochastic"
    elif width > high - low:
        yield keys[1:], f"a window of {width} steps does not fit into the range {low} to {high}, which has {high - low}"


def _tree(recipe: Recipe) -> Iterator[Finding]:
    sampler, size = recipe.sampler, recipe.train.group_size
    if sampler.plan == "branch":
        last = sampler.steps - 2
        outside = [step for step in sampler.split_steps if not 0 <= step <= last]
        if outside:
            shown = ", ".join(map(str, outside))
            yield ("sampler.split_steps",), f"splits lie in 0 to {last}, the last step is never stochastic; got {shown}"
        if not sampler.split_steps:
            yield ("sampler.split_steps", "sampler.plan"), "names no step, so a branch plan has no branches"
    elif sampler.split_steps:
        yield ("sampler.split_steps", "sampler.plan"), f"belongs to plan branch, not to {sampler.plan}"
    each = leaves_per_root(recipe)
    if sampler.plan in ("branch", "single_branch") and size % each:
        keys = ("train.group_size", "sampler.children", "sampler.split_steps", "sampler.window_width")
        fit = each * max(1, round(size / each))
        yield keys, f"a tree of this plan ends in {each} samples, of which a group of {size} is no multiple; {fit} is"


def _pruning(recipe: Recipe) -> Iterator[Finding]:
    for name in recipe.objective.select:
        if name in ("parent_top1", "extreme", "depth_window") and recipe.sampler.plan in ("chain", "single_branch"):
            keys = ("objective.select", "sampler.plan")
            yield keys, f"{name} prunes trees below their last split, which a {recipe.sampler.plan} plan does not have"


def _peers(recipe: Recipe) -> Iterator[Finding]:
    if recipe.objective.peers == "noise" and leaves_per_root(recipe) < 2 and ":" not in recipe.sampler.plan:
        keys = ("objective.peers", "sampler.initial_noise", "sampler.plan")
        yield keys, "noise compares samples of one initial noise, and here every sample starts from its own"


def _randomness(recipe: Recipe) -> Iterator[Finding]:
    eta, kernel = recipe.sampler.eta, recipe.sampler.kernel
    if eta == 0:
        yield ("sampler.eta",), "0 leaves no random step, so there is nothing to train"
    elif kernel == "cps" and eta > 1:
        yield ("sampler.eta",), f"the cps kernel needs eta in (0, 1], where 1 is all new noise; got {eta:g}"


def _best_of(recipe: Recipe) -> Iterator[Finding]:
    objective, train = recipe.objective, recipe.train
    if "best_of_n" not in objective.select:
        return
    whole = train.group_size if objective.best_of_scope == "group" else train.prompts_per_iteration * train.group_size
    if objective.best_of > whole:
        keys = ("objective.best_of", "train.group_size")
        yield keys, f"cannot keep {objective.best_of} of the {whole} samples of a {objective.best_of_scope}"
    if objective.best_of % 2:
        yield ("objective.best_of",), f"must be even, half of it the best and half the worst; got {objective.best_of}"


def _penalty(recipe: Recipe) -> Iterator[Finding]:
    objective = recipe.objective
    if objective.beta > 0 and objective.kl == "none":
        yield ("objective.beta", "objective.kl"), f"{objective.beta:g} weighs a KL term, but objective.kl is none"


def _guidance(recipe: Recipe) -> Iterator[Finding]:
    model = recipe.model
    if model.guidance_scale > 1 and not model.guidance_in_training and not recipe.train.off_policy:
        keys = ("model.guidance_in_training", "model.guidance_scale")
        reason = f"false trains another density than rollouts with guidance {model.guidance_scale:g} draw from"
        yield keys, f"{reason}; set train.off_policy to declare that, or model.guidance_scale to 1"


def _scores(recipe: Recipe) -> Iterator[Finding]:
    reward = recipe.reward
    if not reward.names:
        yield ("reward.names",), "names no scorer, so there is nothing to learn from"
    elif not any(reward.names.values()):
        yield ("reward.names",), "gives every scorer weight 0 (monitor only), so there is nothing to learn from"
    used = {*reward.names, *recipe.eval.scorers}
    for name in reward.options:
        if name not in used:
            unused = f"gives options to {name!r}, which the recipe does not use"
            yield ("reward.options",), f"{unused}{did_you_mean(name, sorted(used))}"


def _guard_rails(recipe: Recipe) -> Iterator[Finding]:
    for name, limit in recipe.run.guard_rails.items():
        if name not in RAILS:
            known = ", ".join(RAILS)
            yield ("run.guard_rails",), f"there is no guard rail {name!r}{did_you_mean(name, RAILS)} (rails: {known})"
        elif limit < 0:
            yield ("run.guard_rails",), f"the limit of {name} is {limit:g}; right would be 0 (off) or more"


def _size(recipe: Recipe) -> Iterator[Finding]:
    for key in ("height", "width"):
        size = getattr(recipe.model, key)
        if size % 8:
            keys = (f"model.{key}",)
            yield keys, f"{size} is no multiple of 8 pixels, the least side of a latent; {max(8, size // 8 * 8)} is"


def _betas(recipe: Recipe) -> Iterator[Finding]:
    if not all(0 <= beta < 1 for beta in recipe.train.betas):
        shown = ", ".join(f"{beta:g}" for beta in recipe.train.betas)
        yield ("train.betas",), f"each lies in [0, 1), got {shown}"


def _run_dir(recipe: Recipe) -> Iterator[Finding]:
    try:
        recipe.run.dir.format(recipe=recipe.name, seed=recipe.train.seed)
    except (KeyError, IndexError, ValueError):
        yield ("run.dir",), f"{recipe.run.dir!r} may hold {{recipe}} and {{seed}} and no other braces"


def on_policy_only(recipe: Recipe) -> bool:
    """Whether every update trains on samples of the very weights that it changes."""
    train = recipe.train
    return train.updates_per_iteration == 1 and train.inner_epochs == 1 and not train.off_policy


def _idle_clip(recipe: Recipe) -> Iterator[Finding]:
    low, high = recipe.objective.clip_low, recipe.objective.clip_high
    keys = ("objective.clip_high", "objective.clip_low")
    if on_policy_only(recipe):
        one = "with one update per iteration every ratio is exactly 1"
        yield keys, f"the clip range can never act: {one}"
    elif low >= 1:
        yield keys[::-1], f"the lower clip range {low:g} can never act: a ratio is above 0, and 1 - {low:g} is not"
    if recipe.model.kind == "flow" and max(low, high) > LOOSE_CLIP and not on_policy_only(recipe):
        why = "the log-prob is a mean over the latent's elements, and published ratios stay within 1e-6 to 1e-2 of 1"
        yield keys, f"the clip range {max(low, high):g} will hardly ever act: {why}"


def _idle_keys(recipe: Recipe) -> Iterator[Finding]:
    objective, model, sampler = recipe.objective, recipe.model, recipe.sampler
    if objective.kl != "none" and objective.beta == 0:
        yield ("objective.beta",), "0: the KL is only logged, at the price of a reference forward per trained forward"
    if model.adapter == "full" and model.lora_targets is not None:
        yield ("model.lora_targets",), "is not used: model.adapter is full"
    if sampler.density == "unscaled" and sampler.kernel != "cps":
        yield ("sampler.density",), f"unscaled is the published score of cps, not of {sampler.kernel}"
    if (sampler.density == "unscaled") != (objective.ratio == "unscaled"):
        keys = ("objective.ratio", "sampler.density")
        yield keys, f"{objective.ratio} does not belong to density {sampler.density}; published recipes pair the two"
    if objective.weight == "noise_level" and sampler.kernel == "dance_sde":
        why = "weighs steps by their noise, and that of dance_sde only follows their length, not the level"
        yield ("objective.weight", "sampler.kernel"), f"noise_level {why}"
    if recipe.train.shuffle_rewards:
        yield ("train.shuffle_rewards",), "true: a control experiment, nothing is to be learned"


def _small_groups(recipe: Recipe) -> Iterator[Finding]:
    train = recipe.train
    if train.group_size < 4 and recipe.objective.advantage == "grpo":
        yield ("train.group_size",), f"{train.group_size}: the mean and spread of so few samples are mostly noise"


FAULTS: tuple[Callable[[Recipe], Iterator[Finding]], ...] = (
    wrong_kind,
    likelihood_fits,
    masked_model,
    _updates,
    _window,
    _tree,
    _pruning,
    _peers,
    _randomness,
    _best_of,
    _penalty,
    _guidance,
    _scores,
    _guard_rails,
    _size,
    _betas,
    _run_dir,
    refused,
)
CAUTIONS: tuple[Callable[[Recipe], Iterator[Finding]], ...] = (
    _idle_clip,
    _idle_keys,
    _small_groups,
    loose_sequence_clip,
    lossy,
)
