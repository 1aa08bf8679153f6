"""A user's own reward: a plain function ``f(images, prompts, metadata)`` that returns one number per picture."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reward_models.importing import import_function
from reward_models.scorer import Scorer
from reward_models.scores import ScorerError, Scores, as_scores

UserFunction = Callable[..., Any]


def user_scorer(spec: str, *, device: str = "cpu", **options: Any) -> Scorer:
    """A scorer around a user's function.

    Args:
        spec: ``package.module:function`` or ``path/to/file.py:function``. The function is called as
            ``f(images float32 [N, 3, H, W] in [0, 1], prompts, metadata)`` with copies, and returns N floats, a tensor
            [N] or an array. None, NaN or an infinity makes its sample invalid, an exception its whole batch.
        device: Handed to the function if it has a parameter of that name.
        **options: Further keyword arguments of the function.

    Returns:
        The scorer; its version is a hash of the file that defines the function.

    Raises:
        ScorerError: The function cannot be imported or does not take these arguments.
    """
    function = import_function(spec)
    if "device" in inspect.signature(function).parameters:
        options = {"device": device, **options}
    _check_signature(spec, function, options)
    return Scorer(
        name=spec,
        version=_source_hash(function),
        needs=("prompt", "metadata"),
        thread_safe=False,
        deterministic=False,
        function=partial(_call, partial(function, **options), spec),
    )


def _call(function: UserFunction, spec: str, images: Tensor, prompts: list[str], metadata: list[Any]) -> Scores:
    answer = function(images.clone(), list(prompts), [dict(row) for row in metadata])
    if isinstance(answer, Scores):
        return answer
    return as_scores(_as_column(answer, len(prompts), spec))


def _as_column(answer: Any, count: int, spec: str) -> Tensor:
    if isinstance(answer, str | bytes | Mapping) or not (hasattr(answer, "shape") or hasattr(answer, "__len__")):
        raise ScorerError(
            f"reward '{spec}' returned {type(answer).__name__} for {count} images; "
            "right would be a list of floats or a tensor, one number (or None) per image"
        )
    shape = tuple(answer.shape) if hasattr(answer, "shape") else (len(answer),)
    if shape != (count,):
        raise ScorerError(
            f"reward '{spec}' returned {list(shape)} numbers for {count} images; "
            f"right would be [{count}], one per image"
        )
    return torch.tensor([_as_float(value, i, spec) for i, value in enumerate(answer)], dtype=torch.float64)


def _as_float(value: Any, position: int, spec: str) -> float:
    if value is None:
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ScorerError(
            f"reward '{spec}' returned {value!r} for image {position}; right would be a number, or None if it has none"
        ) from None


def _check_signature(spec: str, function: UserFunction, options: Mapping[str, Any]) -> None:
    signature = inspect.signature(function)
    try:
        signature.bind(None, None, None, **options)
    except TypeError as error:
        given = f" with options {', '.join(sorted(options))}" if options else ""
        raise ScorerError(
            f"reward '{spec}' has the signature {signature} and cannot be called as f(images, prompts, metadata)"
            f"{given}: {error}"
        ) from None


def _source_hash(function: UserFunction) -> str:
    source = inspect.getsourcefile(inspect.unwrap(function))
    return hashlib.sha256(Path(source).read_bytes()).hexdigest()[:12] if source else "unknown"
