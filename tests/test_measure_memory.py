"""What `check` says of memory stands beside what was measured, and the record belongs to today's estimate."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import measure_memory as script
from scripts.benchmarks import held

RECORD = Path(__file__).resolve().parent.parent / "assets" / "benchmarks" / "memory.json"


def test_every_setting_was_measured_and_the_estimate_is_within_15_percent() -> None:
    rows = script.newest(held(RECORD), list(script.SETTINGS))
    assert [row["setting"] for row in rows] == list(script.SETTINGS)
    for row in rows:
        assert row["words"] == list(script.SETTINGS[row["setting"]])
        assert row["estimated"] == pytest.approx(row["measured"], rel=0.15), row["setting"]


@pytest.mark.parametrize("name", script.SETTINGS)
def test_the_recorded_estimate_is_what_check_says_today(name: str) -> None:
    (row,) = script.newest(held(RECORD), [name])
    assert script.estimated(script.SETTINGS[name]) == pytest.approx(row["estimated"])


def test_the_documentation_shows_the_record() -> None:
    page = (RECORD.parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    for row in script.newest(held(RECORD), list(script.SETTINGS)):
        sizes = " | ".join(f"{row[key] / 2**20:.1f} MiB" for key in ("estimated", "measured"))
        assert f"| {sizes} |" in page, row["setting"]


def test_the_stages_that_are_measured_differ() -> None:
    """The settings are not one figure in four forms: their estimates are far apart."""
    sizes = sorted(script.estimated(words) for words in script.SETTINGS.values())
    assert sizes[-1] > 2.5 * sizes[0]


def test_a_row_beyond_the_tolerance_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "memory.json"
    row = {"setting": "demo", "estimated": 100 * 2**20, "measured": 120 * 2**20}
    script.add(out, row)
    assert script.main(["--table", "--out", str(out)]) == 1
    assert "100.0         120.0                 0.833  beyond 15%" in capsys.readouterr().out
    script.add(out, {**row, "measured": 110 * 2**20})
    assert script.main(["--table", "--out", str(out)]) == 0
    assert "beyond" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_setting_measured_now_is_within_the_tolerance(tmp_path: Path) -> None:
    assert script.main(["--settings", "small micro-batches", "--out", str(tmp_path / "memory.json")]) == 0
