"""Text rendering as a reward: read the picture, compare with the quoted text of the prompt."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reward_models import ocr_rules
from reward_models.eight_bit import as_arrays
from reward_models.ocr_rules import joined, quoted, text_reward
from reward_models.scorer import Scorer
from reward_models.scores import ScorerError, Scores, as_scores
from reward_models.user import own_part
from reward_models.weights import source_version

Reader = Callable[[Sequence[np.ndarray]], Sequence[str | None]]
"""Pictures uint8 [H, W, 3] in RGB -> what stands in each; None where it could not be read."""


def ocr(*, device: str = "cpu", reader: str = "rapidocr", batch: int = 1) -> Scorer:
    """1 where the quoted text of the prompt stands in the picture, less by its edit distance where it does not.

    The target is the metadata's "text" where there is one, else what stands in the prompt's first double quotes. A
    sample without target and a picture that the reader fails on are invalid, where the original scores 0 or stops.

    Args:
        device: Handed to a reader of yours that takes it.
        reader: "rapidocr" (the extra ``ocr``: PaddleOCR's networks on ONNX Runtime, on the CPU), or your own `Reader`
            as ``package.module:function`` or ``path/to/file.py:function``.
        batch: Pictures per call of the reader; where it raises, that many samples are lost.

    Returns:
        The scorer; scores in [0, 1].

    Raises:
        ScorerError: There is no such reader.
    """
    read, engine = _READERS[reader]() if reader in _READERS else _own(reader, device)
    return Scorer(
        name="ocr",
        version=source_version(ocr_rules, further=engine),
        needs=("prompt", "metadata"),
        range=(0.0, 1.0),
        licence="Apache-2.0" if reader in _READERS else "unknown",
        max_batch=batch,
        thread_safe=False,
        function=partial(_score, read=read),
    )


def _score(images: Tensor, prompts: list[str], metadata: list[Mapping[str, Any]], *, read: Reader) -> Scores:
    texts = list(read(as_arrays(images)))
    if len(texts) != len(prompts):
        raise ScorerError(f"scorer 'ocr' got {len(texts)} texts from its reader for {len(prompts)} pictures")
    targets = [row.get("text") or quoted(prompt) or "" for prompt, row in zip(prompts, metadata, strict=True)]
    pairs = list(zip(texts, targets, strict=True))
    errors = {i: _fault(*pair) for i, pair in enumerate(pairs)}
    values = [math.nan if errors[i] else text_reward(text or "", target) for i, (text, target) in enumerate(pairs)]
    return as_scores(torch.tensor(values, dtype=torch.float64), errors={i: text for i, text in errors.items() if text})


def _fault(text: str | None, target: str) -> str:
    if not ocr_rules.normal(target):
        return 'the prompt holds no text in double quotes, and its metadata no "text"'
    return "the reader could not read the picture" if text is None else ""


def _rapidocr() -> tuple[Reader, Any]:
    try:
        import rapidocr
    except ImportError as error:
        raise ScorerError(
            f"scorer 'ocr' needs the extra ocr (rapidocr and onnxruntime): {error}; or name a reader of yours with the "
            "option reader"
        ) from None
    engine = rapidocr.RapidOCR()
    # It warns of every picture without text, which is no fault here.
    logging.getLogger("RapidOCR").setLevel(logging.ERROR)

    def read(pictures: Sequence[np.ndarray]) -> list[str]:
        # The engine takes arrays in the order blue, green, red.
        results = [engine(np.ascontiguousarray(picture[..., ::-1])) for picture in pictures]
        return [joined(zip(result.txts or (), result.scores or (), strict=True)) for result in results]

    return read, ["rapidocr", getattr(rapidocr, "__version__", "unknown")]


def _own(spec: str, device: str) -> tuple[Reader, Any]:
    if ":" not in spec:
        raise ScorerError(
            f"scorer 'ocr' knows no reader '{spec}'; right would be {', '.join(_READERS)} or your own as "
            "package.module:function"
        )
    return own_part(spec, device)


_READERS: dict[str, Callable[[], tuple[Reader, Any]]] = {"rapidocr": _rapidocr}
