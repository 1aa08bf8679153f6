"""Golden files: JSON with ``what``, ``source``, ``equations`` and ``cases`` of ``inputs`` and ``outputs``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden-dir", type=Path, default=HERE, help="directory of golden JSON files (default: the copies here)"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per case, or one per file that no adapter covers or that cannot be read."""
    if "golden_case" not in metafunc.fixturenames:
        return
    # The option is missing when a parent directory is collected: this conftest is then loaded too late to add it.
    directory = metafunc.config.getoption("golden_dir", HERE)
    files = sorted(directory.glob("*.json"))
    if not files:
        raise pytest.UsageError(f"--golden-dir: no *.json file in {directory}")
    params = [param for path in files for param in _params(path, metafunc.module.ADAPTERS)]
    metafunc.parametrize("golden_case", params)


def _params(path: Path, adapters: dict) -> list:
    if path.stem not in adapters:
        pending = pytest.mark.skip(reason=f"pending: no adapter for {path.stem}")
        return [pytest.param(None, id=path.stem, marks=pending)]
    cases = json.loads(path.read_text())["cases"]
    return [pytest.param((path.stem, case), id=f"{path.stem}-{i}") for i, case in enumerate(cases)]
