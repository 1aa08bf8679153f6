"""Where the answer stands in a model's text, and how well the text keeps to the form that was asked for."""

from __future__ import annotations

import re

INSTRUCTION = (
    "First think step by step between <reasoning> and </reasoning>. "
    "Then write the final answer, and nothing else, between <answer> and </answer>."
)
"""What prompts in style "chat" end with."""

TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")

_OPEN = re.compile(r"<\s?answer\s?>", re.IGNORECASE)
_CLOSE = re.compile(r"<\s?/\s?answer\s?>", re.IGNORECASE)
_FORM = re.compile(r"\s*<reasoning>(?P<reasoning>.*)</reasoning>\s*<answer>(?P<answer>.*)</answer>\s*", re.DOTALL)


def extract_answer(text: str, *, tagged: bool = True) -> str | None:
    """The text of the last <answer> tag, stripped.

    Tags may be in capitals; a missing end tag is forgiven, since a text may have been cut off.

    Args:
        text: what the model wrote.
        tagged: whether an answer without tags counts for nothing; else the whole text is the answer then.

    Returns:
        str | None: None where there is no answer, or an empty one.
    """
    opened = list(_OPEN.finditer(text))
    if not opened:
        return None if tagged else text.strip() or None
    inside = text[opened[-1].end() :]
    closed = _CLOSE.search(inside)
    return (inside[: closed.start()] if closed else inside).strip() or None


def format_reward(text: str) -> float:
    """How well a text keeps to the form: reasoning tags, then answer tags, both filled, and nothing around them.

    Args:
        text: what the model wrote; line ends inside the tags are allowed.

    Returns:
        float: 1 for the whole form, else an eighth for each of the four tags that stands there exactly once.
    """
    single = sum(text.count(tag) == 1 for tag in TAGS)
    form = _FORM.fullmatch(text) if single == len(TAGS) else None
    if form and form["reasoning"].strip() and form["answer"].strip():
        return 1.0
    return single / 8
