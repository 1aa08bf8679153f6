"""`flowgrpo models`: every family with hub names and what papers set, without torch."""

from __future__ import annotations

import subprocess
import sys

from flowgrpo.cli.app import main
from flowgrpo.policies.facts import FACTS


def test_all_families_are_listed(capsys):
    assert main(["models"]) == 0
    page = capsys.readouterr().out
    words = " ".join(page.split())
    for name, facts in FACTS.items():
        assert f"{facts.title} ({name})" in words
        assert all(hub in words for hub in facts.hub)
        assert all(paper.settings in words for paper in facts.papers)
    assert max(map(len, page.splitlines())) <= 120


def test_one_family_by_hub_name_and_a_near_miss(capsys):
    assert main(["models", "Qwen/Qwen-Image"]) == 0
    assert capsys.readouterr().out.count("hub  ") == 1
    assert main(["models", "Qwen/Qwen-Imag"]) == 2
    assert "did you mean 'Qwen/Qwen-Image'" in capsys.readouterr().err


def test_no_torch_is_loaded():
    code = "import sys; from flowgrpo.cli.app import main; main(['models']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
