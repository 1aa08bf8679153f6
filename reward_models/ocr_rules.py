"""The arithmetic of the text-rendering reward (Flow-GRPO, arXiv 2505.05470): how much of a text stands in a picture.

Pure Python; whatever reads the pictures is in `reward_models.ocr`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_QUOTED = (re.compile(r'"([^"]*)"'), re.compile(r"“([^”]*)”"))


def quoted(prompt: str) -> str | None:
    """The text between the first two double quotes of a prompt, else between the first pair of curly ones, or None."""
    found = next((match for pattern in _QUOTED if (match := pattern.search(prompt))), None)
    return found[1] if found else None


def normal(text: str) -> str:
    """Lower case without blanks: what is compared."""
    return text.replace(" ", "").lower()


def joined(lines: Iterable[tuple[str, float]]) -> str:
    """The lines of a reader, in its order and without separator, that have a confidence above 0."""
    return "".join(text for text, confidence in lines if confidence > 0)


def levenshtein(first: str, second: str) -> int:
    """Fewest insertions, deletions and substitutions of characters that make one text the other."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(second, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


def text_reward(recognised: str, target: str) -> float:
    """1 where the target stands anywhere in the text, else 1 - distance/length, and never below 0.

    Further text beside the target costs nothing, which a policy can exploit.

    Args:
        recognised: What was read.
        target: What was asked for.

    Returns:
        In [0, 1]; case and blanks do not matter.

    Raises:
        ValueError: The target is empty.
    """
    read, wanted = normal(recognised), _checked(target)
    return 1.0 if wanted in read else _share(read, wanted)


def video_reward(frames: Sequence[str], target: str) -> float:
    """Mean over the frames with a reward above 0 of 1 - distance/length, or 0 where there is none.

    Text beside the target counts as errors here. One good frame is enough for that frame's reward.

    Args:
        frames: What was read in every fourth frame.
        target: What was asked for.

    Returns:
        In [0, 1].

    Raises:
        ValueError: The target is empty.
    """
    wanted = _checked(target)
    positive = [share for text in frames if (share := _share(normal(text), wanted)) > 0]
    return sum(positive) / len(positive) if positive else 0.0


def _checked(target: str) -> str:
    wanted = normal(target)
    if not wanted:
        raise ValueError("there is no text to look for: the target is empty")
    return wanted


def _share(read: str, wanted: str) -> float:
    return 1 - min(levenshtein(read, wanted), len(wanted)) / len(wanted)
