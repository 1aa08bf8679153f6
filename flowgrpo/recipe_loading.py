"""From a recipe file and the command line to a `Recipe`, with the origin of every value.

    loaded = load_recipe("flow_grpo", ["--data.prompts", "my.txt", "--train.lr=1e-4"])
    loaded.recipe.train.lr, loaded.origins["train.lr"]          # (0.0001, "command line")

Later sources win: defaults, the recipe that `extends` names, the file, the command line. Every fault is reported, all
at once, each with its file and line, the key, what is allowed, and the nearest match.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, get_origin

from pydantic import ValidationError

from flowgrpo.assets import shipped_recipes
from flowgrpo.errors import RecipeError, did_you_mean
from flowgrpo.recipe import Recipe, Section
from flowgrpo.recipe_checks import faults
from flowgrpo.recipe_messages import not_in_names, sentences
from flowgrpo.recipe_values import Item, Plain, ValueSyntaxError, converted, kinds, read_mapping, without_lines
from flowgrpo.runfolder import write_atomically
from reward_models import SCORERS

COMMAND_LINE = "command line"
DEFAULT = "default"
SECTIONS: dict[str, type[Section]] = {
    key: info.annotation
    for key, info in Recipe.model_fields.items()
    if isinstance(info.annotation, type) and issubclass(info.annotation, Section)
}
TOP_LEVEL = tuple(key for key in Recipe.model_fields if key not in SECTIONS)
NOT_IN_HASH = frozenset(
    (
        "model.gradient_checkpointing",
        "model.attention",
        "model.compile",
        "model.offload_decoder",
        "model.decode_batch_size",
        "model.guidance_passes",
        "sampler.batch_size",
        "sampler.latent_store",
        "reward.workers",
        "reward.timeout_s",
        "train.micro_batch_size",
        "train.iterations",
        "train.max_minutes",
        "train.plateau_patience",
        "train.plateau_delta",
    )
)
"""Keys that change how long or how fast a run goes, but not where it goes."""
HASHED_IF_CHANGED = frozenset(("model.decode_tiling", "train.lr_decay_updates"))
"""Keys that came later: at their default they leave the hash of older runs as it was."""


class LoadedRecipe(NamedTuple):
    """A recipe and where each value came from: "demo.yaml:12", "default" or "command line", by "section.key"."""

    recipe: Recipe
    origins: dict[str, str]


@dataclass(frozen=True, slots=True)
class Entry:
    """An unconverted value and its origin."""

    value: Any
    origin: str


@dataclass(slots=True)
class Source:
    """What one file or the command line says: entries with their dotted keys, and the faults found while reading."""

    entries: list[tuple[str, Entry]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    extends: Entry | None = None


def dotted_keys() -> list[str]:
    """Every "section.key" of the schema, in its order."""
    return [f"{section}.{key}" for section, schema in SECTIONS.items() for key in schema.model_fields]


def load_recipe(name_or_file: str | Path | None, overrides: Sequence[str] | Mapping[str, Any] = ()) -> LoadedRecipe:
    """Read a recipe by its shipped name or from a YAML file, and apply overrides.

    Args:
        name_or_file: a shipped name ("demo"), a path that ends in .yaml or .yml, or None for the defaults alone.
        overrides: command-line words (`["--train.lr", "1e-4"]` or `["--train.lr=1e-4"]`), or a mapping of dotted keys
            to Python values (`{"train.lr": 1e-4}`).

    Raises: RecipeError: with every fault of the file, the overrides and their combination.
    """
    files = [] if name_or_file is None else _file_sources(name_or_file)
    sources = [*files, _override_source(overrides)]
    problems = [problem for source in sources for problem in source.problems]
    entries: dict[str, Entry] = {}
    for source in sources:
        for key, entry in source.entries:
            _place(entries, key, entry)
    recipe, invalid = _validated(entries)
    if recipe is None or problems or invalid:
        raise RecipeError(problems + invalid)
    return LoadedRecipe(recipe, {key: _origin(entries, key) for key in (*TOP_LEVEL, *dotted_keys())})


def recipe_values(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON values, section by section."""
    return recipe.model_dump(mode="json")


def recipe_hash(recipe: Recipe) -> str:
    """16 hex digits over the values that decide a run's results.

    Left out are the sections `eval` and `run` and the keys of `NOT_IN_HASH`: a run may be resumed with more iterations,
    smaller micro-batches, other evaluations or from another folder, but not with another learning rate.
    """
    kept = {
        f"{section}.{key}": value
        for section, keys in recipe_values(recipe).items()
        if section in SECTIONS and section not in ("eval", "run")
        for key, value in keys.items()
        if _counts(f"{section}.{key}", value)
    }
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def _counts(key: str, value: Any) -> bool:
    section, _, name = key.partition(".")
    untouched = key in HASHED_IF_CHANGED and value == SECTIONS[section].model_fields[name].default
    return key not in NOT_IN_HASH and not untouched


def write_recipe(path: Path, recipe: Recipe, origins: Mapping[str, str]) -> None:
    """Leave the resolved recipe in a run folder: name, hash, values, and the origin of every value.

    Raises: RunError: the folder cannot be written.
    """
    record = {
        "name": recipe.name,
        "hash": recipe_hash(recipe),
        "values": recipe_values(recipe),
        "origins": dict(origins),
    }
    write_atomically(path, json.dumps(record, indent=1) + "\n")


def _file_sources(name_or_file: str | Path) -> list[Source]:
    """The file's source, preceded by the one that it extends."""
    source = _file_source(*_located(str(name_or_file), Path()))
    if source.extends is None:
        return [source]
    try:
        base = _file_source(*_located(str(source.extends.value), Path(name_or_file).parent))
    except RecipeError as error:
        source.problems += [f"{source.extends.origin}: extends: {problem}" for problem in error.problems]
        return [source]
    if base.extends is not None:
        source.problems.append(f"{source.extends.origin}: extends: {source.extends.value!r} itself extends a recipe")
    return [base, source]


def _located(name: str, folder: Path) -> tuple[Path, str]:
    """Path of a recipe and the label that its origins carry."""
    shipped = shipped_recipes()
    if name in shipped:
        return shipped[name], shipped[name].name
    path = folder / name
    if path.is_file():
        return path, name
    if Path(name).suffix in (".yaml", ".yml"):
        raise RecipeError(f"recipe file {name!r} does not exist")
    hint = did_you_mean(name, shipped)
    raise RecipeError(f"unknown recipe {name!r}{hint} (shipped: {', '.join(shipped)}; or a path to a .yaml file)")


def _file_source(path: Path, label: str) -> Source:
    try:
        items = read_mapping(path.read_text(encoding="utf-8"))
    except ValueSyntaxError as error:
        raise RecipeError(f"{label}:{error.line}: {error}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise RecipeError(f"{label}:{line}: not UTF-8 text") from error
    except OSError as error:
        raise RecipeError(f"recipe file {label!r} cannot be read: {error.strerror}") from error
    source = Source()
    for key, item in items.items():
        _add_top_level(source, key, item, label)
    return source


def _add_top_level(source: Source, key: str, item: Item, label: str) -> None:
    place = f"{label}:{item.line}"
    if key == "extends":
        source.extends = Entry(item.value, place)
    elif key in TOP_LEVEL:
        source.entries.append((key, Entry(without_lines(item.value), place)))
    elif key not in SECTIONS:
        hint = _hint(key, list(Recipe.model_fields), section=None)
        source.problems.append(f"{place}: unknown section {key!r}{hint} (sections: {', '.join(SECTIONS)})")
    elif isinstance(item.value, dict):
        for name, entry in item.value.items():
            _add(source, f"{key}.{name}", Entry(without_lines(entry.value), f"{label}:{entry.line}"))
    elif item.value != "":
        source.problems.append(f"{place}: section {key!r} holds keys and their values, not {item.value!r}")


def _override_source(overrides: Sequence[str] | Mapping[str, Any]) -> Source:
    source = Source()
    pairs = overrides.items() if isinstance(overrides, Mapping) else _pairs(overrides, source.problems)
    for key, value in pairs:
        _add(source, key, Entry(value, COMMAND_LINE))
    return source


def _pairs(words: Sequence[str], problems: list[str]) -> list[tuple[str, Any]]:
    """`--key VALUE`, `--key=VALUE`, and `--key` alone for true."""
    pairs: list[tuple[str, Any]] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            problems.append(f"{COMMAND_LINE}: {word!r} belongs to no key; overrides are written --section.key VALUE")
            continue
        key, equals, value = word[2:].partition("=")
        if equals or (rest and not rest[0].startswith("--")):
            pairs.append((key, Plain(value if equals else rest.pop(0))))
        elif _is_switch(key):
            pairs.append((key, Plain("true")))
        else:
            problems.append(f"{COMMAND_LINE}: --{key} needs a value")
    return pairs


def _is_switch(dotted: str) -> bool:
    section, _, key = dotted.partition(".")
    info = SECTIONS[section].model_fields.get(key) if section in SECTIONS else None
    return info is not None and bool in list(kinds(info.annotation))


def _add(source: Source, dotted: str, entry: Entry) -> None:
    """Record an entry under a known key; a deeper key ("reward.options.clip.model") must lie in a mapping."""
    section, _, key = dotted.partition(".")
    name, *deeper = key.split(".")
    place = f"{entry.origin}: {dotted}"
    if section not in SECTIONS:
        source.problems.append(f"{place}: unknown section {section!r}{_hint(dotted, SECTIONS, section=None)}")
    elif name not in SECTIONS[section].model_fields:
        fields = SECTIONS[section].model_fields
        hint = _hint(name, fields, section=section)
        source.problems.append(f"{place}: unknown key{hint} (keys of {section}: {', '.join(fields)})")
    elif deeper and not _holds_mapping(section, name):
        source.problems.append(f"{place}: {section}.{name} is a single value, it has no key {'.'.join(deeper)!r}")
    else:
        source.entries.append((dotted, entry))


def _hint(word: str, here: Any, *, section: str | None) -> str:
    """The nearest key here; failing that, the same key in another section."""
    near = did_you_mean(word, here)
    elsewhere = [key for key in dotted_keys() if key.rpartition(".")[2] == word.rpartition(".")[2]]
    if not near and elsewhere and section is None:
        return f"; did you mean {elsewhere[0]!r}?"
    return near or (f"; did you mean {elsewhere[0]!r}?" if elsewhere else "")


def _holds_mapping(section: str, name: str) -> bool:
    annotation = SECTIONS[section].model_fields[name].annotation
    return any(get_origin(kind) is dict for kind in kinds(annotation))


def _place(entries: dict[str, Entry], dotted: str, entry: Entry) -> None:
    """Put an entry into `entries`; a deeper key goes into a copy of the mapping already there."""
    section, *rest = dotted.split(".", 2)
    if len(rest) < 2:
        entries[dotted] = entry
        return
    name, deeper = rest
    target = f"{section}.{name}"
    held = entries[target].value if target in entries else getattr(SECTIONS[section](), name)
    mapping = _as_mapping(held, SECTIONS[section].model_fields[name].annotation)
    entries[target] = Entry(_with(mapping, deeper, entry.value), entry.origin)


def _as_mapping(value: Any, annotation: Any) -> dict[str, Any]:
    """What a mapping's key holds so far, whichever way it was written; faults are found later, where it is typed."""
    try:
        value = converted(value, annotation)
    except ValueSyntaxError:
        return {}
    # A list of names stands for names of weight 1, in the one mapping that may be written so.
    return dict.fromkeys(value, 1.0) if isinstance(value, list) else value if isinstance(value, dict) else {}


def _with(mapping: Any, deeper: str, value: Any) -> dict[str, Any]:
    """A copy of `mapping` with `value` at a key."""
    base = mapping if isinstance(mapping, dict) else {}
    head = _first_key(deeper, base)
    if head == deeper:
        return {**base, deeper: value}
    return {**base, head: _with(base.get(head), deeper[len(head) + 1 :], value)}


def _first_key(deeper: str, known: Mapping[str, Any]) -> str:
    """The first key of a dotted path. Keys that hold dots themselves, such as hpsv2.1, mine.py:reward or a file name
    that is there already, are not split."""
    whole = [key for key in (*known, *SCORERS) if deeper == key or deeper.startswith(f"{key}.")]
    own = re.match(r"[^:]+:[^.]+", deeper)
    return own.group() if own else max(whole, key=len, default=deeper.partition(".")[0])


def _origin(entries: Mapping[str, Entry], key: str) -> str:
    return entries[key].origin if key in entries else DEFAULT


def _validated(entries: Mapping[str, Entry]) -> tuple[Recipe | None, list[str]]:
    """The recipe, or None, and everything that is wrong with its values."""
    values, problems = _typed(entries)
    for section, schema in SECTIONS.items():
        unknown = not_in_names(schema, values.get(section, {}))
        problems += [f"{_place_of(entries, (section, key))}: {text}" for key, text in unknown]
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        details = error.errors(include_url=False)
        return None, problems + [f"{_place_of(entries, place)}: {text}" for place, text in sentences(details)]
    if not problems:
        problems = [f"{_first_given(entries, keys)}: {text}" for keys, text in faults(recipe)]
    return recipe, problems


def _typed(entries: Mapping[str, Entry]) -> tuple[dict[str, Any], list[str]]:
    """Nested values with every open word converted."""
    values: dict[str, Any] = {}
    problems = []
    for dotted, entry in entries.items():
        section, _, key = dotted.partition(".")
        schema, name = (SECTIONS[section], key) if key else (Recipe, section)
        try:
            value = converted(entry.value, schema.model_fields[name].annotation)
        except ValueSyntaxError as error:
            problems.append(f"{entry.origin}: {dotted}: {error}")
            continue
        (values.setdefault(section, {}) if key else values)[name] = value
    return values, problems


def _place_of(entries: Mapping[str, Entry], location: tuple[str | int, ...]) -> str:
    dotted = ".".join(str(part) for part in location)
    key = ".".join(str(part) for part in location[:2]) if location[0] in SECTIONS else str(location[0])
    return f"{_origin(entries, key)}: {dotted}"


def _first_given(entries: Mapping[str, Entry], keys: Sequence[str]) -> str:
    """Origin of the first key that somebody set, for faults that several keys make together."""
    given = [key for key in keys if key in entries] or list(keys)
    return f"{_origin(entries, given[0])}: {given[0]}"
