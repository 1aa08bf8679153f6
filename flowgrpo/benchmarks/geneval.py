"""GenEval's prompts as a benchmark (Ghosh et al., arXiv 2310.11513): one question per picture, is all of it right?

Its score is the unweighted mean over tags of the share of right pictures, which is what `tally` makes of test points
whose names are the tags.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flowgrpo.benchmarks.tasks import Point, Task, Track
from flowgrpo.errors import PromptError, did_you_mean
from flowgrpo.prompts import Prompt, load_prompts

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
PICTURE = "{index:05d}/samples/{sample:05d}"
SAMPLES, SEED = 4, 42
"""Pictures per prompt as published, and the seed of the first."""


def load_tracks(source: str | Path, names: tuple[str, ...] = ()) -> tuple[Track, ...]:
    """Read GenEval's metadata: JSON lines with `prompt`, `tag`, `include` and, where needed, `exclude`.

    Args:
        source: the file; its published name is `evaluation_metadata.jsonl`.
        names: must be empty: there is one track.

    Returns: that track; a task's index is its place in the file, from 0.

    Raises: PromptError: missing file, or a faulty row; the message names file and line.
    """
    if names:
        raise PromptError(f"geneval has one track, so {', '.join(names)!r} means nothing here")
    held = load_prompts(source)
    tasks = tuple(_task(index, prompt, f"{source}:{prompt.line}") for index, prompt in enumerate(held.prompts))
    return (Track("geneval", tasks, PICTURE, TAGS),)


def _task(index: int, prompt: Prompt, place: str) -> Task:
    tag = prompt.metadata.get("tag")
    if tag not in TAGS:
        hint = did_you_mean(str(tag), TAGS)
        raise PromptError(f"{place}: 'tag' must be one of {', '.join(TAGS)}, got {tag!r}{hint}")
    _check_clauses(prompt.metadata.get("include"), f"{place}: 'include'", needed=True)
    _check_clauses(prompt.metadata.get("exclude", []), f"{place}: 'exclude'", needed=False)
    # Tags hold no hyphen, so that each is a dimension of its own.
    point = Point(tag, prompt.text, "Everything that the prompt asks for is in the picture.", tag)
    return Task(index, prompt.text, (point,), metadata=prompt.metadata, line=prompt.line)


def _check_clauses(clauses: Any, place: str, *, needed: bool) -> None:
    right = isinstance(clauses, list) and (clauses or not needed)
    if not right or not all(isinstance(entry, dict) for entry in clauses):
        example = '{"class": "bench", "count": 1}'
        raise PromptError(f"{place} must be a list of objects such as {example}, got {clauses!r}")
    for entry in clauses:
        count = entry.get("count")
        if not isinstance(entry.get("class"), str) or isinstance(count, bool) or not isinstance(count, int):
            raise PromptError(f'{place} expects "class", a text, and "count", a whole number, got {entry!r}')
