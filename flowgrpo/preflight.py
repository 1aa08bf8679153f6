"""What can be known before anything is loaded: do the files, names and folders of a recipe exist?

`flowgrpo check` prints it, and `flowgrpo train` refuses to start without it, before torch is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flowgrpo.assets import EMBEDDED_MODELS
from flowgrpo.errors import AssetError, PromptError, RecipeError
from flowgrpo.likelihoods import likelihood_of
from flowgrpo.model_facts import ModelFacts, find_model, is_hub_name, read_config, read_model
from flowgrpo.objective import READERS, unfit
from flowgrpo.policies.masked_families import contradictions
from flowgrpo.prompts import PromptSet, load_prompts
from flowgrpo.recipe import Recipe
from flowgrpo.recipe_checks import cautions
from flowgrpo.recipe_loading import DEFAULT
from flowgrpo.runfolder import run_folder
from reward_models import check_name

OWN_FUNCTIONS = (
    "sampler.kernel",
    "sampler.plan",
    "sampler.window",
    "sampler.order",
    "sampler.remasking",
    "sampler.schedule",
    *(f"objective.{key}" for key in ("advantage", "select", "ratio", "surrogate", "kl", "weight")),
)
"""Keys that may hold a user's own function as "file.py:function"."""

MEDIA = {"flow": "image", "masked_lm": "text"}
"""`model.kind` -> what scorers look at."""


@dataclass(slots=True)
class Preflight:
    """What was found: faults with their place, remarks, the prompt sets by use, and the model if it is on this disk."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    prompts: dict[str, PromptSet] = field(default_factory=dict)
    model: ModelFacts | None = None


def preflight(recipe: Recipe, origins: Mapping[str, str]) -> Preflight:
    """Look at everything that a recipe names; loads no model."""
    found = Preflight()
    found.problems += [_placed(origins, key, text) for key, text in _unknown_scorers(recipe)]
    found.problems += [_placed(origins, key, text) for key, text in _missing_files(recipe)]
    found.problems += [_placed(origins, key, text) for key, text in _no_room(recipe)]
    found.problems += [_placed(origins, key, text) for key, text in _unread(recipe)]
    _look_at_prompts(found, recipe, origins)
    _look_at_model(found, recipe, origins)
    found.warnings += [_placed(origins, keys[0], text) for keys, text in cautions(recipe)]
    return found


def require_ready(recipe: Recipe, origins: Mapping[str, str]) -> None:
    """Raises: RecipeError: with everything that `preflight` found wrong."""
    problems = preflight(recipe, origins).problems
    if problems:
        raise RecipeError(problems)


def _placed(origins: Mapping[str, str], key: str, text: str) -> str:
    return f"{origins.get(key, 'default')}: {key}: {text}"


def _unknown_scorers(recipe: Recipe) -> Iterator[tuple[str, str]]:
    for key, names in (("reward.names", recipe.reward.names), ("eval.scorers", recipe.eval.scorers)):
        for name in names:
            try:
                check_name(name, single=key == "eval.scorers", media=MEDIA[recipe.model.kind])
            except ValueError as error:
                yield key, str(error)


def _missing_files(recipe: Recipe) -> Iterator[tuple[str, str]]:
    chosen = [(key, spec) for key in OWN_FUNCTIONS for spec in _named(recipe, *key.split("."))]
    chosen += [("reward.names", name) for name in recipe.reward.names]
    chosen += [("eval.scorers", name) for name in recipe.eval.scorers]
    for key, spec in chosen:
        source, colon, _ = spec.rpartition(":")
        if colon and source.endswith(".py") and not Path(source).is_file():
            yield key, f"file {source!r} does not exist"


def _no_room(recipe: Recipe) -> Iterator[tuple[str, str]]:
    folder = run_folder(recipe)
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        yield "run.dir", f"{str(folder)!r} cannot be made: {str(nearest)!r} is a file"


def _unread(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Choices that read what the likelihood does not give; a user's own functions are not imported to ask them."""
    section, likelihood = recipe.objective, likelihood_of(recipe)
    for key in READERS:
        if ":" not in getattr(section, key):
            for text in unfit(section, key, likelihood.fields, likelihood.title):
                yield f"objective.{key}", text


def _named(recipe: Recipe, section: str, key: str) -> tuple[str, ...]:
    """Names of functions at a key that holds one or several."""
    held = getattr(getattr(recipe, section), key)
    return (held,) if isinstance(held, str) else tuple(held)


def _look_at_prompts(found: Preflight, recipe: Recipe, origins: Mapping[str, str]) -> None:
    sets = [("data.prompts", "train", recipe.data.prompts, recipe.data.limit)]
    sets += [("eval.prompts", name, path, None) for name, path in recipe.eval.prompts.items()]
    for key, use, path, limit in sets:
        try:
            found.prompts[use] = load_prompts(path, limit=limit)
        except (PromptError, AssetError) as error:
            found.problems.append(_placed(origins, key, str(error)))
        else:
            found.warnings += found.prompts[use].warnings
    if origins.get("data.prompts") == DEFAULT and recipe.model.path not in EMBEDDED_MODELS:
        text = f"{recipe.data.prompts} belongs to the embedded model; what is yours to be trained on?"
        found.warnings.append(_placed(origins, "data.prompts", text))
    trained = found.prompts.get("train")
    wanted = recipe.train.prompts_per_iteration
    if trained is not None and len(trained.prompts) < wanted:
        text = f"{wanted} of {len(trained.prompts)} prompts: some come twice in an iteration, as groups of their own"
        found.warnings.append(_placed(origins, "train.prompts_per_iteration", text))


def _look_at_model(found: Preflight, recipe: Recipe, origins: Mapping[str, str]) -> None:
    folder = find_model(recipe.model.path, index=INDEX[recipe.model.kind], revision=recipe.model.revision)
    if folder is None:
        if is_hub_name(recipe.model.path):
            text = f"{recipe.model.path!r} is not on this disk; it will be fetched by its hub name"
            found.warnings.append(_placed(origins, "model.path", text))
        else:
            embedded = f"no embedded model ({', '.join(EMBEDDED_MODELS)})"
            text = f"{recipe.model.path!r} is no folder, no hub name (owner/name) and {embedded}"
            found.problems.append(_placed(origins, "model.path", text))
        return
    try:
        problems = LOOKS[recipe.model.kind](found, recipe, folder)
    except ValueError as error:
        problems = [("model.path", str(error))]
    found.problems += [_placed(origins, key, text) for key, text in problems]


def _pipeline(found: Preflight, recipe: Recipe, folder: Path) -> list[tuple[str, str]]:
    found.model = read_model(folder)
    return list(_sizes(recipe, found.model))


def _language_model(found: Preflight, recipe: Recipe, folder: Path) -> list[tuple[str, str]]:
    config = read_config(folder)
    return [(f"model.{key}", text) for key, text in contradictions(recipe.model, config)]


LOOKS: dict[str, Callable[[Preflight, Recipe, Path], list[tuple[str, str]]]] = {
    "flow": _pipeline,
    "masked_lm": _language_model,
}
INDEX = {"flow": "model_index.json", "masked_lm": "config.json"}
"""`model.kind` -> the file that its folders have."""


def _sizes(recipe: Recipe, model: ModelFacts) -> Iterator[tuple[str, str]]:
    side = model.token_pixels
    for key in ("height", "width"):
        size = getattr(recipe.model, key)
        if size % side:
            yield f"model.{key}", f"{size} is no multiple of {side} pixels, one image token of this model"
