"""A user's own reward: a plain function that returns one number per picture, or one verdict per pair of pictures."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reward_models.groupwise import groupwise_scorer, is_groupwise
from reward_models.importing import import_function
from reward_models.pairwise import Judge, Tournament, by_pairs, is_pairwise_judge, pairwise_scorer
from reward_models.scorer import Scorer
from reward_models.scores import ScorerError, Scores, as_scores
from reward_models.text_scorer import TextScorer

UserFunction = Callable[..., Any]

_TOURNAMENT = {option.name for option in fields(Tournament)}


def user_scorer(spec: str, *, device: str = "cpu", **options: Any) -> Scorer:
    """A scorer around a user's function.

    Args:
        spec: ``package.module:function`` or ``path/to/file.py:function``. The function is called as
            ``f(images float32 [N, 3, H, W] in [0, 1], prompts, metadata)`` with copies, and returns N floats, a tensor
            [N] or an array. None, NaN or an infinity makes its sample invalid, an exception its whole batch. One that
            is marked with `pairwise_judge` is called as ``f(prompts, images_a, images_b)`` and returns n verdicts, one
            that is marked with `groupwise_reward` with the pictures of one group at a time.
        device: Handed to the function if it has a parameter of that name.
        **options: Further keyword arguments of the function; those of `Tournament` are the tournament's where the
            function is a pairwise judge.

    Returns:
        The scorer; its version is a hash of the file that defines the function.

    Raises:
        ScorerError: The function cannot be imported or does not take these arguments.
    """
    function = import_function(spec)
    if "device" in inspect.signature(function).parameters:
        options = {"device": device, **options}
    card: dict[str, Any] = {
        "name": spec,
        "version": source_hash(function),
        "thread_safe": False,
        "deterministic": False,
    }
    if is_pairwise_judge(function):
        tournament = Tournament(**{key: options.pop(key) for key in _TOURNAMENT & set(options)})
        _check_signature(spec, function, options, "prompts, images_a, images_b")
        judge = partial(_judge, partial(function, **options), spec)
        return pairwise_scorer(by_pairs(judge), tournament=tournament, **card)
    _check_signature(spec, function, options, "images, prompts, metadata")
    reward = partial(_call, partial(function, **options), spec)
    card["needs"] = ("prompt", "metadata")
    return groupwise_scorer(reward, **card) if is_groupwise(function) else Scorer(function=reward, **card)


def user_text_scorer(spec: str, *, device: str = "cpu", **options: Any) -> TextScorer:
    """A scorer of texts around a user's function ``f(texts, prompts, metadata)``; otherwise as `user_scorer`.

    Args:
        spec: ``package.module:function`` or ``path/to/file.py:function``.
        device: Handed to the function if it has a parameter of that name.
        **options: Further keyword arguments of the function.

    Raises:
        ScorerError: The function cannot be imported or does not take these arguments.
    """
    function = import_function(spec)
    if "device" in inspect.signature(function).parameters:
        options = {"device": device, **options}
    _check_signature(spec, function, options, "texts, prompts, metadata")
    return TextScorer(
        name=spec,
        version=source_hash(function),
        media="text",
        needs=("prompt", "metadata"),
        thread_safe=False,
        deterministic=False,
        function=partial(_call_on_texts, partial(function, **options), spec),
    )


def _call_on_texts(
    function: UserFunction, spec: str, texts: list[str], prompts: list[str], metadata: list[Any]
) -> Scores:
    answer = function(list(texts), list(prompts), [dict(row) for row in metadata])
    return answer if isinstance(answer, Scores) else as_scores(_as_column(answer, len(texts), spec, "text"))


def own_part(spec: str, device: str) -> tuple[UserFunction, str]:
    """A user's function that serves as part of a scorer, such as a detector, and its version.

    Args:
        spec: Its import path.
        device: Handed to it if it has a parameter of that name.

    Raises:
        ValueError: Nothing callable is there.
    """
    function = import_function(spec)
    takes_device = "device" in inspect.signature(function).parameters
    return (partial(function, device=device) if takes_device else function), source_hash(function)


def _judge(function: Judge, spec: str, prompts: list[str], images_a: Tensor, images_b: Tensor) -> Tensor:
    return _as_column(function(list(prompts), images_a, images_b), len(prompts), spec, "pair")


def _call(function: UserFunction, spec: str, images: Tensor, prompts: list[str], metadata: list[Any]) -> Scores:
    answer = function(images.clone(), list(prompts), [dict(row) for row in metadata])
    if isinstance(answer, Scores):
        return answer
    return as_scores(_as_column(answer, len(prompts), spec, "image"))


def _as_column(answer: Any, count: int, spec: str, what: str) -> Tensor:
    if isinstance(answer, str | bytes | Mapping) or not (hasattr(answer, "shape") or hasattr(answer, "__len__")):
        raise ScorerError(
            f"reward '{spec}' returned {type(answer).__name__} for {count} {what}s; "
            f"right would be a list of floats or a tensor, one number (or None) per {what}"
        )
    shape = tuple(answer.shape) if hasattr(answer, "shape") else (len(answer),)
    if shape != (count,):
        raise ScorerError(
            f"reward '{spec}' returned {list(shape)} numbers for {count} {what}s; "
            f"right would be [{count}], one per {what}"
        )
    return torch.tensor([_as_float(value, f"{what} {i}", spec) for i, value in enumerate(answer)], dtype=torch.float64)


def _as_float(value: Any, place: str, spec: str) -> float:
    if value is None:
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ScorerError(
            f"reward '{spec}' returned {value!r} for {place}; right would be a number, or None if it has none"
        ) from None


def _check_signature(spec: str, function: UserFunction, options: Mapping[str, Any], arguments: str) -> None:
    signature = inspect.signature(function)
    try:
        signature.bind(None, None, None, **options)
    except TypeError as error:
        given = f" with options {', '.join(sorted(options))}" if options else ""
        raise ScorerError(
            f"reward '{spec}' has the signature {signature} and cannot be called as f({arguments}){given}: {error}"
        ) from None


def source_hash(function: UserFunction) -> str:
    """12 hexadecimal digits of the file that defines a function, or "unknown"."""
    source = inspect.getsourcefile(inspect.unwrap(function))
    return hashlib.sha256(Path(source).read_bytes()).hexdigest()[:12] if source else "unknown"
