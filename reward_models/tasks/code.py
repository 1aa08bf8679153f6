"""Code that answers a programming problem: the share of its test cases that it passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reward_models.sandbox import Case, Limits, SandboxError, run_cases
from reward_models.tasks.code_format import code_format_reward, extract_code
from reward_models.tasks.problems import TaskError


def code_reward(
    text: str, metadata: Mapping[str, Any], limits: Limits | None = None, *, workers: int = 2
) -> dict[str, float]:
    """Run the fenced Python block of a text against the problem's test cases.

    Source: coupled-GRPO (DiffuCoder, arXiv 2506.20639), code reward: nothing is run, and the score is 0, unless the
    text has the full form of `code_format_reward`. Otherwise than there, a case passes only if a process that the code
    does not run in found it so, and one endless case costs that case alone.

    Args:
        text: what the model wrote.
        metadata: `test_cases`, as `reward_models.sandbox.run_cases` takes them.
        limits: of each case.
        workers: cases at a time.

    Returns:
        dict[str, float]: `score`, the share of cases passed, and `strict`, 1 where all are.

    Raises:
        TaskError: the metadata hold no test cases, one of them is none, or the sandbox is not to be had.
    """
    cases = _checked_cases(metadata)
    if code_format_reward(text) < 1:
        return {"score": 0.0, "strict": 0.0}
    try:
        outcomes = run_cases(extract_code(text), cases, limits, workers=workers)
    except SandboxError as error:
        raise TaskError(str(error)) from error
    share = sum(outcome.verdict == "passed" for outcome in outcomes) / len(outcomes)
    return {"score": share, "strict": float(share == 1)}


def _checked_cases(metadata: Mapping[str, Any]) -> Sequence[Case]:
    """The test cases of a problem, checked for their form.

    Raises:
        TaskError: there are none, or one is neither text nor a mapping with the texts `input` and `output`.
    """
    cases = metadata.get("test_cases")
    if not isinstance(cases, Sequence) or isinstance(cases, str) or not cases:
        raise TaskError(f"metadata need test_cases, a list that is not empty; got {cases!r:.80}")
    for number, case in enumerate(cases, 1):
        pair = isinstance(case, Mapping) and all(isinstance(case.get(name), str) for name in ("input", "output"))
        if not (isinstance(case, str) or pair):
            raise TaskError(
                f"test case {number} must be statements such as 'assert f(2) == 4', or have the texts input and "
                f"output; got {case!r:.80}"
            )
    return cases
