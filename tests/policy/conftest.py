"""Tiny random pipelines on disk, one of each kind per session, and sections that describe them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flowgrpo.recipe import Model
from tests.tiny import IMAGE_SIZE, tiny_flux_pipeline, tiny_sd3_pipeline

BUILDERS: dict[str, Callable[[int, Path], Path]] = {
    "sd3": tiny_sd3_pipeline,
    "sd3_t5": partial(tiny_sd3_pipeline, t5=True),
    "flux": tiny_flux_pipeline,
}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Kind -> pipeline folder; tests must not write into it."""
    return {kind: build(7, tmp_path_factory.mktemp(kind)) for kind, build in BUILDERS.items()}


@pytest.fixture(scope="session")
def section(folders: dict[str, Path]) -> Callable[..., Model]:
    """section(kind, **values): a `model` section for one of the folders."""

    def make(kind: str = "sd3", **values: Any) -> Model:
        small = {"height": IMAGE_SIZE, "width": IMAGE_SIZE, "max_sequence_length": 20, "lora_rank": 2, "lora_alpha": 6}
        return Model(path=str(folders[kind]), **{**small, **values})

    return make
