"""`flowgrpo cite`: complete BibTeX of what a recipe follows, from one table."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from flowgrpo.assets import shipped_recipes
from flowgrpo.cli import main
from flowgrpo.errors import RecipeError
from flowgrpo.likelihoods import LIKELIHOODS
from flowgrpo.objective import ADVANTAGES, RATIOS, SELECTIONS, WEIGHTS
from flowgrpo.paper_parts import PARTS, parts_in_use
from flowgrpo.papers import PAPERS, bibtex, papers_of
from flowgrpo.planning import PLANS
from flowgrpo.recipe_loading import load_recipe
from reward_models import SCORERS
from samplers import KERNELS, ORDERS, REMASKINGS, SOLVERS
from samplers.windows import WINDOWS

ROOT = Path(__file__).resolve().parents[2]
TABLES = {
    "sampler.kernel": KERNELS,
    "sampler.window": WINDOWS,
    "sampler.plan": PLANS,
    "sampler.solver": SOLVERS,
    "sampler.order": ORDERS,
    "sampler.remasking": REMASKINGS,
    "objective.likelihood": LIKELIHOODS,
    "objective.advantage": ADVANTAGES,
    "objective.ratio": RATIOS,
    "objective.weight": WEIGHTS,
    "objective.select": SELECTIONS,
    "reward.names": SCORERS,
}
FIELDS = ("title", "author", "journal", "eprint", "archivePrefix", "year")


def entries(text: str) -> dict[str, dict[str, str]]:
    """Name -> fields; fails on anything that is neither an entry nor a comment nor an empty line."""
    found = {}
    pattern = r"@\w+\{(\w+),\n((?:  \w+ = \{.*\},\n)+)\}"
    for name, body in re.findall(pattern, text):
        found[name] = dict(re.findall(r"  (\w+) = \{(.*)\},", body))
    rest = re.sub(pattern, "", text)
    assert all(not line or line.startswith("% ") for line in rest.splitlines()), rest
    return found


def test_every_paper_has_a_complete_entry_of_its_own() -> None:
    text = "\n".join(map(bibtex, PAPERS))
    found = entries(text)
    assert len(found) == len(PAPERS) == len({paper.arxiv for paper in PAPERS.values()})
    for fields in found.values():
        assert tuple(fields) == FIELDS and all(fields.values())
        assert fields["journal"].endswith(fields["eprint"])
        year, month = int(fields["eprint"][:2]) + 2000, int(fields["eprint"][2:4])
        assert int(fields["year"]) == year and 1 <= month <= 12 and re.fullmatch(r"\d{4}\.\d{5}", fields["eprint"])
        assert fields["title"].startswith("{") and fields["title"].endswith("}")
        authors = fields["author"].split(" and ")
        assert len(set(authors)) == len(authors) and all(" " in name for name in authors if name != "others")
        assert "others" not in authors[:-1]
    assert text.isascii() or "ü" in text


@pytest.mark.parametrize(
    ("named", "keys"),
    [
        (None, []),
        ("", []),
        ("mix_grpo", ["mix_grpo"]),
        ("arXiv 2507.21802", ["mix_grpo"]),
        ("arXiv:2507.21802, flow_cps", ["mix_grpo", "flow_cps"]),
        ("2507.21802,mix_grpo", ["mix_grpo"]),
    ],
)
def test_papers_are_named_by_key_or_number(named: str | None, keys: list[str]) -> None:
    assert papers_of(named) == keys


def test_every_unknown_paper_is_named_with_its_near_miss() -> None:
    with pytest.raises(RecipeError) as caught:
        papers_of("mixgrpo, flow_grpo, arXiv 1111.11111")
    first, second = caught.value.problems
    assert "paper: 'mixgrpo'" in first and "did you mean 'mix_grpo'" in first
    assert "'arXiv 1111.11111' is not in the table" in second


def test_every_shipped_recipe_can_be_cited(capsys: pytest.CaptureFixture[str]) -> None:
    for name in shipped_recipes():
        assert main(["cite", name]) == 0
        said = capsys.readouterr().out
        recipe = load_recipe(name).recipe
        keys = list(dict.fromkeys((*papers_of(recipe.paper), *parts_in_use(recipe))))
        assert [fields.get("eprint") for fields in entries(said).values()] == [
            *(PAPERS[key].arxiv for key in keys),
            None,
        ]
        assert "flowgrpo" in entries(said)
        assert ("names no paper" in said) == (not papers_of(recipe.paper))


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("demo", {"flow_cps", "grpo"}),
        ("grpo_guard", {"grpo_guard", "flow_grpo", "grpo"}),
        ("mix_grpo_flash", {"mix_grpo", "flow_grpo", "dpm_solver_pp", "grpo"}),
        ("branch_grpo_pruned", {"branch_grpo", "dance_grpo", "grpo"}),
        ("tempflow_grpo", {"tempflow_grpo", "flow_grpo", "grpo"}),
        ("mdpo", {"mdpo", "llada", "grpo"}),
    ],
)
def test_parts_bring_their_papers(name: str, keys: set[str]) -> None:
    recipe = load_recipe(name).recipe
    assert {*papers_of(recipe.paper), *parts_in_use(recipe)} == keys


def test_every_part_of_the_table_exists() -> None:
    for key, papers in PARTS.items():
        section, name = key.split(".")
        assert set(papers) <= set(TABLES[key]), key
        assert hasattr(getattr(load_recipe("demo").recipe, section), name)
        assert set(papers.values()) <= set(PAPERS)


def test_an_unknown_recipe_gives_the_error_that_train_gives(capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for command in ("cite", "train"):
        assert main([command, "flow_grp"]) == 2
        said.append(capsys.readouterr().err)
    assert said[0] == said[1] and "did you mean 'flow_grpo'" in said[0]


def test_own_recipe_files_are_cited_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\npaper: branch_grpo, grpo_guard\n")
    assert main(["cite", str(tmp_path / "mine.yaml")]) == 0
    said = entries(capsys.readouterr().out).values()
    assert [fields.get("eprint") for fields in said][:2] == ["2509.06040", "2510.22319"]
    (tmp_path / "mine.yaml").write_text("paper: branchgrpo\n")
    assert main(["cite", str(tmp_path / "mine.yaml")]) == 2
    assert "did you mean 'branch_grpo'" in capsys.readouterr().err


def test_a_mixture_on_the_command_line_is_cited(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cite", "demo", "--objective.ratio", "guard", "--objective.weight", "inverse_dt"]) == 0
    said = capsys.readouterr().out
    assert "2510.22319" in said and "(objective.ratio guard, objective.weight inverse_dt)" in said


def test_cite_needs_no_torch() -> None:
    code = (
        "import sys; from flowgrpo.cli import main; main(['cite', 'flow_grpo']);"
        "print({'torch', 'diffusers', 'numpy'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert shown.stdout.splitlines()[-1] == "set()"


def test_the_citation_file_names_papers_as_the_table_does() -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    listed = {paper.arxiv: paper for paper in PAPERS.values()}
    blocks = text.split("  - type: article\n")[1:]
    assert len(blocks) >= 9
    for block in blocks:
        title = re.search(r'title: "(.*)"', block)[1]
        paper = listed[re.search(r"arXiv:([\d.]+)", block)[1]]
        names = re.findall(r"family-names: (.*)\n\s+given-names: (.*)", block)
        assert title == paper.title
        assert [f"{given} {family}" for family, given in names] == [n for n in paper.authors if n != "others"][
            : len(names)
        ]
