"""The resolved recipe: every value with its origin, what was chosen on purpose before what was left at its default."""

from __future__ import annotations

import json
from typing import Any

from flowgrpo.report.markup import Html, join, note, table, tag
from flowgrpo.report.run_data import Row, RunData, as_mapping

DEFAULT = "default"


def recipe_section(run: RunData) -> Html:
    """One collapsible table per section; its heading already lists what was set."""
    values, origins = as_mapping(run.recipe.get("values")), as_mapping(run.recipe.get("origins"))
    sections = {name: as_mapping(section) for name, section in values.items() if isinstance(section, dict)}
    single = {name: value for name, value in values.items() if name not in sections}
    if not sections and not single:
        return note("The recipe was not recorded.")
    head = note("; ".join(f"{name}: {written(value)}" for name, value in single.items())) if single else None
    return join([head, *(_section(name, section, origins) for name, section in sections.items() if section)])


def written(value: Any) -> str:
    """A recipe value as YAML would show it on one line."""
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def _section(name: str, values: Row, origins: Row) -> Html:
    found = {key: str(origins.get(f"{name}.{key}", "not recorded")) for key in values}
    chosen = [key for key in values if found[key] != DEFAULT]
    left = [key for key in values if found[key] == DEFAULT]
    brief = ", ".join(f"{key} = {written(values[key])}" for key in chosen) or "all defaults"
    rows = [
        (
            tag("th", key, scope="row", class_="set" if key in chosen else None),
            tag("code", written(values[key])),
            found[key],
        )
        for key in [*chosen, *left]
    ]
    heading = tag(
        "summary", tag("b", name), " ", tag("span", f"{len(chosen)} of {len(values)} set"), tag("small", brief)
    )
    return tag(
        "details", heading, table(("key", "value", "origin"), rows, f"{name} section of the recipe", titled=True)
    )
