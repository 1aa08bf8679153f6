"""Form of a code answer: one fenced Python block at the end of the text. Running code is another matter."""

from __future__ import annotations

import ast
import re

_BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
_FENCE = "```"


def code_format_reward(text: str) -> float:
    """Whether a text is any words, one fenced Python block, and nothing after its closing line.

    Source: coupled-GRPO (DiffuCoder, arXiv 2506.20639), code format reward.

    Args:
        text: what the model wrote; it must end with the line end after the closing fence.

    Returns:
        float: 1 where the block parses as Python, 0.5 where it has a syntax error, 0 for any other form.
    """
    fenced = text.split(_FENCE)
    if len(fenced) != 3 or not fenced[1].startswith("python\n") or fenced[2] != "\n":
        return 0.0
    return 1.0 if _parses(extract_code(text).strip()) else 0.5


def extract_code(text: str) -> str:
    """Content of the first fenced Python block, empty where there is none."""
    block = _BLOCK.search(text)
    return block[1] if block else ""


def _parses(code: str) -> bool:
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
