"""Calls of a reward model: in slices that fit its batch limit and its memory, with failures as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, cuda

from reward_models.scores import ScorerError, Scores, concatenate, failed

Rows = list[Mapping[str, Any]]
Samples = Tensor | list[str]
"""Pictures [N, 3, H, W], or N texts."""
Function = Callable[[Any, list[str], Rows], Scores]

_LONGEST_ERROR = 300
_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")


def call_in_slices(
    function: Function, samples: Samples, prompts: list[str], metadata: Rows, *, limit: int | None, label: str
) -> Scores:
    """Score N samples in slices of at most `limit`.

    A slice that runs out of memory is tried again at half its size, and the smaller limit holds for the slices after
    it. Any other exception makes its slice invalid with the exception's text.

    Args:
        function: The model's function.
        samples: What is scored, of length N.
        prompts: N texts.
        metadata: N mappings.
        limit: Samples per call; None is all at once.
        label: The scorer's name, for error texts.

    Returns:
        Scores of length N in order.

    Raises:
        ScorerError: The function answered in the wrong form.
    """
    count, start = len(prompts), 0
    size = max(1, min(limit or count, count))
    parts: list[Scores] = []
    while start < count:
        cut = slice(start, start + size)
        try:
            part = function(samples[cut], prompts[cut], metadata[cut])
        except ScorerError:
            raise
        except Exception as error:
            if _is_out_of_memory(error) and size > 1:
                size = _after_out_of_memory(size)
                continue
            part = failed(len(prompts[cut]), f"scorer '{label}' raised {_one_line(error)}")
        parts.append(_of_length(part, len(prompts[cut]), label))
        start += size
    return concatenate(parts)


def _after_out_of_memory(size: int) -> int:
    if cuda.is_available():
        cuda.empty_cache()
    return size // 2


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError | cuda.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in text for words in _OUT_OF_MEMORY)
    )


def _one_line(error: Exception) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= _LONGEST_ERROR else text[: _LONGEST_ERROR - 3] + "..."


def _of_length(part: Scores, count: int, label: str) -> Scores:
    if not isinstance(part, Scores):
        raise ScorerError(f"scorer '{label}' returned {type(part).__name__}; right would be Scores")
    if len(part) != count:
        raise ScorerError(f"scorer '{label}' returned {len(part)} scores for {count} samples; right would be one each")
    return part
