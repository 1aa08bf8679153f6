"""From a model or a folder of pictures to the table, on the command line."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flowgrpo.benchmarks.geneval import load_tracks as load_geneval
from flowgrpo.benchmarks.shapes import CHECKS, meets, points_of
from flowgrpo.benchmarks.tasks import Point
from flowgrpo.benchmarks.unigenbench import load_tracks
from flowgrpo.cli import main
from flowgrpo.errors import PromptError
from reward_models.shapes import CATEGORIES, caption, parse, render, sample_scene
from tests.benchmarks.bench_files import PUBLISHED, needs_published_files


def render_track(folder: Path, wrong: Callable[[int, int], bool], samples: int = 2) -> None:
    """Faithful pictures of the embedded track, those that `wrong` names of another prompt."""
    (track,) = load_tracks("shapes")
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for task in track.tasks:
        for k in range(samples):
            prompt = "a large white cross" if wrong(task.index, k) else task.prompt
            Image.fromarray(render(parse(prompt), rng)).save(folder / f"{track.picture_name(task.index, k)}.png")


def stage(name: str, words: list[str]) -> list[str]:
    """The same command line for one stage alone."""
    return [*words[:2], name, *words[2:]]


def rows_of(out: str) -> dict[str, dict]:
    return {row["name"]: row for row in map(json.loads, out.strip().splitlines())}


@pytest.mark.parametrize("kind", CATEGORIES)
def test_shapes_judge_agrees_with_gold(kind: str) -> None:
    """A faithful picture meets every point; a picture of another scene does not, where gold says so too."""
    from reward_models.gold import score_gold

    rng = np.random.default_rng(1)
    scenes = [sample_scene(rng, kind) for _ in range(12)]
    for scene, other in zip(scenes, scenes[1:] + scenes[:1], strict=True):
        points = [Point(name, cue, "", name) for name, cue in points_of(scene)]
        for drawn in (scene, other):
            picture = torch.tensor(render(drawn, rng)).permute(2, 0, 1) / 255
            strict = bool(score_gold(picture[None], [caption(scene)])[1][0])
            assert all(meets(caption(scene), picture, points)) == strict


def test_every_check_can_fail() -> None:
    scene, rng = parse("a small red circle above a large blue square"), np.random.default_rng(0)
    points = [Point(name, cue, "", name) for name, cue in points_of(scene)]
    assert {point.label for point in points} == set(CHECKS)
    wrong = {
        "a large red circle below a small blue square": {"Size", "Space", "Comparison"},
        "a small blue circle above a large red square": {"Size", "Matching", "Space", "Comparison"},
        "a small red circle": {"Quantity", "Color", "Shape", "Size", "Matching", "Space", "Comparison"},
    }
    for text, failing in wrong.items():
        verdicts = meets(caption(scene), torch.tensor(render(parse(text), rng)).permute(2, 0, 1) / 255, points)
        failed = {point.label.split()[-1] for point, value in zip(points, verdicts, strict=True) if not value}
        assert failed == failing, text


def test_pictures_on_disk_to_table_page_and_official_files(there: Path, capsys) -> None:
    render_track(there / "pics", lambda index, k: index % 3 == 0 and k == 1)
    words = ["eval", "unigenbench", "--data", "shapes", "--images", "pics", "--samples", "2", "--out", "out"]
    assert main([*words, "--json"]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert rows["Attribute"]["expected"] == rows["Attribute"]["judged"] > rows["Attribute"]["correct"] > 0
    names = ("Attribute", "Relationship", "Compound", "Entity Layout")
    assert rows["Overall"]["accuracy"] == pytest.approx(sum(rows[name]["accuracy"] for name in names) / 4)
    held = json.loads((there / "out/shapes/official.json").read_text())
    assert held["primary_dimensions"]["Attribute "]["correct"] == rows["Attribute"]["correct"]
    with open(there / "out/shapes/official.csv", newline="") as file:
        written = list(csv.DictReader(file))
    assert len(written) == 120
    assert sum(sum(json.loads(row["result_json"])["score"]) for row in written) == rows["Overall"]["correct"]
    page = (there / "out/report.html").read_text()
    assert "Worst cases" in page and page.count("data:image/png") == 16 and "<script" not in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "Attribute - Color" in shown and f"{100 * rows['Overall']['accuracy']:.2f}" in shown


def test_what_is_missing_is_said_and_lowers_the_pessimistic_score_only(there: Path, capsys) -> None:
    render_track(there / "pics", lambda index, k: False)
    for name in ("0_0.png", "5_1.png"):
        (there / "pics" / name).unlink()
    words = ["eval", "unigenbench", "--data", "shapes", "--images", "pics", "--samples", "2", "--out", "out"]
    assert main(words) == 0
    assert "incomplete: 2 of 120 pictures do not exist" in capsys.readouterr().out
    overall = json.loads((there / "out/shapes/results.json").read_text())["table"][0]
    assert overall["accuracy"] == 1.0 and 0.9 < overall["pessimistic"] < 1.0 and overall["invalid"] > 0


def test_shards_and_stages_make_the_same_table(there: Path, capsys) -> None:
    render_track(there / "pics", lambda index, k: (index + k) % 4 == 0)
    words = ["eval", "unigenbench", "--data", "shapes", "--images", "pics", "--samples", "2"]
    assert main([*words, "--out", "whole", "--json"]) == 0
    whole = capsys.readouterr().out
    for part in ("2/3", "1/3"):
        assert main([*stage("judge", words), "--out", "parts", "--shard", part]) == 0
    assert main([*stage("score", words), "--out", "parts"]) == 0
    assert "have not been judged yet" in capsys.readouterr().out
    assert main([*stage("judge", words), "--out", "parts", "--shard", "3/3"]) == 0
    assert main([*stage("score", words), "--out", "parts", "--json"]) == 0
    assert capsys.readouterr().out == whole
    assert not (there / "parts/report.html").exists()
    assert main([*stage("report", words), "--out", "parts"]) == 0
    assert capsys.readouterr().out == ""
    assert (there / "parts/report.html").read_text() == (there / "whole/report.html").read_text()
    assert len(list((there / "parts/answers/shapes").iterdir())) == 3


def test_models_are_compared_on_the_same_prompts(there: Path) -> None:
    render_track(there / "bad", lambda index, k: index % 2 == 0)
    render_track(there / "good", lambda index, k: False)
    words = ["eval", "unigenbench", "--data", "shapes", "--samples", "1"]
    assert main([*words, "--images", "bad", "--out", "a"]) == 0
    assert main([*words, "--images", "good", "--out", "b", "--compare", "a"]) == 0
    page = (there / "b/report.html").read_text()
    assert "against bad" in page and 'class="gain up"' in page and 'class="gain down"' not in page
    assert main([*words, "--images", "good", "--out", "c", "--compare", "bad"]) == 2


GENEVAL = [
    {"prompt": "a red circle", "tag": "single_object", "include": [{"class": "circle", "count": 1}]},
    {"prompt": "two blue squares", "tag": "counting", "include": [{"class": "square", "count": 2}], "exclude": []},
    {"prompt": "three blue squares", "tag": "counting", "include": [{"class": "square", "count": 3}]},
]


def test_geneval_is_the_mean_over_tags(there: Path, capsys) -> None:
    (there / "meta.jsonl").write_text("".join(json.dumps(row) + "\n" for row in GENEVAL))
    rng = np.random.default_rng(0)
    for index, drawn in enumerate(["a red circle", "two blue squares", "two blue squares"]):
        for k in range(2):
            file = there / f"pics/{index:05d}/samples/{k:05d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(render(parse(drawn), rng)).save(file)
    words = ["eval", "geneval", "--data", "meta.jsonl", "--images", "pics", "--samples", "2", "--judge", "gold_strict"]
    assert main([*words, "--json"]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert [rows[name]["accuracy"] for name in ("single_object", "counting", "Overall")] == [1.0, 0.5, 0.75]


BAD_META = {
    "tag": ({**GENEVAL[0], "tag": "count"}, "'tag' must be one of .*got 'count'; did you mean 'counting'"),
    "include": ({**GENEVAL[0], "include": []}, "'include' must be a list of objects"),
    "clause": ({**GENEVAL[0], "include": [{"class": "x", "count": "1"}]}, 'expects "class", a text, and "count"'),
    "exclude": ({**GENEVAL[0], "exclude": {}}, "'exclude' must be a list"),
}


@pytest.mark.parametrize("row, said", BAD_META.values(), ids=BAD_META.keys())
def test_faulty_geneval_rows_are_named(tmp_path: Path, row: dict, said: str) -> None:
    file = tmp_path / "meta.jsonl"
    file.write_text(json.dumps(GENEVAL[1]) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(PromptError, match=rf"meta\.jsonl:2: .*{said}"):
        load_geneval(file)


WRONG = {
    "benchmark": (["unigen", "--data", "shapes"], "unknown benchmark 'unigen'; did you mean 'unigenbench'?"),
    "stage": (
        ["unigenbench", "jugde", "demo"],
        "unknown stage 'jugde'; did you mean 'judge'? (stages: generate, judge",
    ),
    "no data": (["unigenbench"], "--data"),
    "shard": (["unigenbench", "--data", "shapes", "--shard", "4/3"], "is no part such as 1/4"),
    "samples": (["unigenbench", "--data", "shapes", "--samples", "0"], "is no whole number from 1"),
    "no pictures": (["unigenbench", "--data", "shapes", "--images", "."], "no picture of track 'shapes'"),
    "nothing drawn": (["unigenbench", "judge", "--data", "shapes", "--out", "o"], "no picture of track 'shapes'"),
    "track": (["geneval", "--data", "shapes/train", "--track", "en"], "geneval has one track"),
    "both": (["unigenbench", "generate", "--data", "shapes", "--images", "."], "--images names pictures that exist"),
}


@pytest.mark.parametrize("words, said", WRONG.values(), ids=WRONG.keys())
def test_wrong_command_lines_end_with_one_sentence(there: Path, capsys, words: list[str], said: str) -> None:
    assert main(["eval", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("flowgrpo: error: ") and said in line


@needs_published_files
def test_the_whole_english_track_is_counted_as_a_recorded_judge_said(there: Path, capsys) -> None:
    """600 prompts, a picture each; the judge's answers are a rule that a test can compute for itself."""
    (track,) = load_tracks(PUBLISHED, ("en",))
    (there / "pics/en").mkdir(parents=True)
    for task in track.tasks:
        Image.new("RGB", (2, 2), (task.index % 256, task.index // 256, 0)).save(there / f"pics/en/{task.index}_0.png")
    (there / "mine.py").write_text(
        "def judge(prompt, picture, points):\n    return [(len(prompt) + len(p.cue)) % 3 > 0 for p in points]\n"
    )
    words = ["eval", "unigenbench", "--data", str(PUBLISHED), "--track", "en", "--images", "pics", "--samples", "1"]
    assert main([*words, "--judge", "mine.py:judge", "--json"]) == 0
    rows = rows_of(capsys.readouterr().out)
    shares: dict[str, list[bool]] = {}
    for task in track.tasks:
        for point in task.points:
            shares.setdefault(point.name.split(" - ")[0], []).append((len(task.prompt) + len(point.cue)) % 3 > 0)
    assert len(shares) == 10
    assert {name: rows[name]["correct"] for name in shares} == {name: sum(held) for name, held in shares.items()}
    overall = sum(sum(held) / len(held) for held in shares.values()) / 10
    assert rows["Overall"]["accuracy"] == pytest.approx(overall, abs=1e-12) and rows["Overall"]["judged"] == 1813
