"""Our functions against recorded numbers: ``pytest tests/golden --golden-dir DIR`` for any directory of such files.

An adapter is ``function(inputs) -> outputs``. It builds its tensors in torch's default dtype, which is float64 here,
and float32 where a case also holds ``outputs_float32``. It may leave out an output only where the case carries
``compat``. A case marked ``source_defect`` is run and reported, never failed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from adapters_benchmarks import ADAPTERS as BENCHMARKS
from adapters_likelihood_masked import ADAPTERS as LIKELIHOOD_MASKED
from adapters_masked_samplers import ADAPTERS as MASKED_SAMPLERS
from adapters_objective import ADAPTERS as OBJECTIVE
from adapters_rewards import ADAPTERS as REWARDS
from adapters_samplers import ADAPTERS as SAMPLERS
from adapters_scorers import ADAPTERS as SCORERS
from adapters_text_rewards import ADAPTERS as TEXT_REWARDS
from adapters_trees import ADAPTERS as TREES
from perturbed_credit import advantage_cases, distance_cases, window_cases
from perturbed_steps import kernel_cases, solver_cases
from perturbed_trees import exploration_cases, tree_cases

ADAPTERS = (
    SAMPLERS | TREES | OBJECTIVE | REWARDS | LIKELIHOOD_MASKED | MASKED_SAMPLERS | TEXT_REWARDS | SCORERS | BENCHMARKS
)

FLOAT64 = (1e-6, 2e-7)
"""Relative and absolute tolerance; the absolute one covers constants that a source evaluated in float32."""
FLOAT32 = (1e-4, 2e-5)
TOLERANCES = {
    "coupled_logps": (2e-6, 2e-6),
    "rcr_trace": (1e-5, 1e-5),
    "espo_elbo": (2e-5, 2e-5),
    "hpsv2_preprocess": (0.0, 2e-6),
    "flow_grpo_kl": (1e-6, 1e-14),  # its values are as small as 4e-7
}


def test_golden(golden_case: tuple[str, dict]) -> None:
    stem, case = golden_case
    defect = case["inputs"].get("source_defect")
    try:
        _check(stem, case)
    except Exception as error:
        if defect is None:
            raise
        pytest.skip(f"source defect: {defect}; ours differs: {str(error).splitlines()[0]}")


@pytest.mark.parametrize(
    "cases", [kernel_cases, solver_cases, advantage_cases, distance_cases, window_cases, tree_cases, exploration_cases]
)
def test_cases_that_no_file_holds(cases: Callable[[], Iterator[tuple[str, dict]]]) -> None:
    """Other shapes and edge values, from the equations in plain numpy."""
    for stem, case in cases():
        _check(stem, case)


def _check(stem: str, case: dict) -> None:
    optional = "compat" in case
    with default_dtype(torch.float64):
        got = ADAPTERS[stem](case["inputs"])
    _compare(got, case["outputs"], TOLERANCES.get(stem, FLOAT64), stem, optional)
    if "outputs_float32" in case:
        with default_dtype(torch.float32):
            got = ADAPTERS[stem](case["inputs"])
        _compare(got, case["outputs_float32"], FLOAT32, f"{stem} in float32", optional)


def _compare(got: Any, want: Any, tolerance: tuple[float, float], where: str, optional: bool = False) -> None:
    """Same structure, numbers within tolerance; nan equals nan."""
    got = got.tolist() if isinstance(got, torch.Tensor) else got
    if isinstance(want, dict):
        missing = set(want) - set(got)
        assert optional or not missing, f"{where}: the adapter gives no {sorted(missing)}"
        for key in sorted(set(want) & set(got)):
            _compare(got[key], want[key], tolerance, f"{where}.{key}")
    elif isinstance(want, list):
        assert isinstance(got, (list, tuple)), f"{where}: got {got!r}, want a list"
        assert len(got) == len(want), f"{where}: length {len(got)}, want {len(want)}"
        for i, (ours, theirs) in enumerate(zip(got, want, strict=True)):
            _compare(ours, theirs, tolerance, f"{where}[{i}]")
    elif _is_number(want):
        assert _close(float(got), float(want), *tolerance), f"{where}: got {got}, want {want}"
    else:
        assert got == want, f"{where}: got {got!r}, want {want!r}"


def _is_number(value: Any) -> bool:
    return (isinstance(value, (int, float)) and not isinstance(value, bool)) or value in ("nan", "inf", "-inf")


def _close(got: float, want: float, relative: float, absolute: float) -> bool:
    if math.isnan(want) or math.isinf(want):
        return repr(got) == repr(want)
    return abs(got - want) <= absolute + relative * abs(want)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def test_compare_sees_a_wrong_number_a_missing_key_and_a_wrong_shape() -> None:
    want = {"a": [1.0, 2.0], "b": "nan"}
    _compare({"a": torch.tensor([1.0, 2.0]), "b": math.nan}, want, FLOAT64, "case")
    for wrong in (
        {"a": [1.0, 2.00001], "b": math.nan},
        {"a": [1.0, 2.0]},
        {"a": [1.0], "b": math.nan},
        {"a": [1.0, 2.0], "b": 0.0},
    ):
        with pytest.raises(AssertionError):
            _compare(wrong, want, FLOAT64, "case")
