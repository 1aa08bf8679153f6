"""Reading the prompt files: what the published ones hold, what is repaired, and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowgrpo.benchmarks.testpoints import DIMENSIONS, ENGLISH, TABLE, theme_names
from flowgrpo.benchmarks.unigenbench import TRACKS, _repaired, load_track, load_tracks
from flowgrpo.errors import PromptError
from reward_models.shapes import parse
from scripts.make_unigen_shapes import SIZES, make_file
from tests.benchmarks.bench_files import PUBLISHED, dimensions, needs_published_files, write_csv

POINTS = {"en": 1813, "en_long": 3920, "zh": 1813, "zh_long": 3920}
TOTALS = {  # short and long, as counted on the published files by hand
    "Style": (250, 301),
    "World Knowledge": (158, 173),
    "Attribute": (234, 1311),
    "Action": (263, 622),
    "Relationship": (197, 464),
    "Compound": (194, 343),
    "Grammar": (187, 197),
    "Entity Layout": (134, 315),
    "Logical Reasoning": (109, 102),
    "Text Generation": (87, 92),
}


def test_table_has_27_points_in_ten_dimensions() -> None:
    assert len(TABLE) == 27 and len(ENGLISH) == 54
    assert {name.partition("-")[0].strip() for name, _, _ in TABLE} == set(DIMENSIONS)
    assert all(("-" in english) == ("-" in chinese.replace("/", "")) for english, chinese, _ in TABLE)


@needs_published_files
def test_published_files_are_read_whole() -> None:
    tracks = load_tracks(PUBLISHED)
    assert tuple(track.name for track in tracks) == TRACKS
    for track in tracks:
        assert [task.index for task in track.tasks] == list(range(600))
        points = [point for task in track.tasks for point in task.points]
        assert len(points) == POINTS[track.name]
        assert Counter(point.dimension for point in points) == {
            name: pair["long" in track.name] for name, pair in TOTALS.items()
        }
        assert len({(task.theme, task.subtheme) for task in track.tasks}) == 20
    sizes = Counter(task.theme for task in tracks[0].tasks)
    assert sizes == {
        "Art": 157,
        "Film & Story": 150,
        "Illustration": 113,
        "Design": 110,
        "Creative Divergence": 70,
    }


@needs_published_files
def test_languages_agree_and_known_defects_are_met() -> None:
    tracks = {track.name: track for track in load_tracks(PUBLISHED)}
    for english, chinese in (("en", "zh"), ("en_long", "zh_long")):
        for a, b in zip(tracks[english].tasks, tracks[chinese].tasks, strict=True):
            assert [point.label for point in a.points] == [point.label for point in b.points]
            assert (a.theme, a.subtheme) == (b.theme, b.subtheme)
    (warning,) = tracks["en_long"].warnings
    assert "comma" in warning and not any(tracks[name].warnings for name in ("en", "zh", "zh_long"))
    assert [point.name for point in tracks["en_long"].tasks[509].points][:3] == [
        "Action - Full-body (Character/Anthropomorphic)",
        "Grammar - Negation",
        "Attribute - Color",
    ]
    for index in (163, 440):
        names = [point.name for point in tracks["en_long"].tasks[index].points]
        assert len(names) == len(set(names)) + 1


def test_spellings_of_subthemes_are_merged() -> None:
    assert theme_names("Art", "Art-Three-dimensional Art") == ("Art", "Sculptural Art")
    assert theme_names("艺术", "艺术-立体艺术") == ("Art", "Sculptural Art")
    assert theme_names("创意发散", "创意发散-其他") == theme_names("Creative Divergence", "Creative divergence-other")
    assert theme_names("Shapes", "Pair") == ("Shapes", "Pair")


def test_a_name_with_several_hyphens_belongs_to_the_part_before_the_first(tmp_path: Path) -> None:
    name = "Entity Layout - Three-Dimensional Space"
    (task,) = load_track(write_csv(tmp_path / "test_prompts_x.csv", [(3, "p", dimensions([name], ["c"]))])).tasks
    assert task.points[0].dimension == "Entity Layout" and task.points[0].label == name


def test_jsonl_is_read_like_csv(tmp_path: Path) -> None:
    held = dimensions(["Style", "Attribute - Color"], ["ink", "red"])
    lines = [{"index": 0, "prompt_en": "p", "sub_dims_en": held}]
    lines.append({"index": 7, "prompt_en": "q", "sub_dims_en": json.loads(held)})
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (read,) = load_tracks(tmp_path / "mine.jsonl")
    assert read.name == "mine" and [task.index for task in read.tasks] == [0, 7]
    assert read.tasks[0].points == read.tasks[1].points


texts = st.lists(st.text(alphabet='ab,"\\ :[]{}', max_size=6), min_size=2, max_size=6)


@given(texts, st.integers(0, 4))
def test_a_missing_comma_is_put_back_whatever_the_texts_hold(entries: list[str], where: int) -> None:
    written = [json.dumps(entry) for entry in entries]
    where %= len(written) - 1
    parts = [part + ("" if i == where else ",") for i, part in enumerate(written[:-1])] + written[-1:]
    error = json.JSONDecodeError("m", "d", 0)
    assert _repaired("[" + " ".join(parts) + "]", "place", error) == entries


GOOD = dimensions(["Style"], ["ink"])
BAD = {
    "unknown point": ([(0, "p", dimensions(["Attribute - Colour"], ["c"]))], "did you mean 'Attribute - Color'"),
    "lengths": ([(0, "p", dimensions(["Style"], ["a", "b"]))], "1 test points but 2 descriptions"),
    "no points": ([(0, "p", dimensions([], []))], "'Testpoints' must be a list of texts"),
    "misspelt key": ([(0, "p", GOOD.replace('"Testpoints"', '"Testpoint"'))], "did you mean"),
    "no JSON": ([(0, "p", "{")], "not valid JSON"),
    "a list": ([(0, "p", "[]")], "expects a JSON object, got list"),
    "empty prompt": ([(0, " ", GOOD)], "'prompt_en' must be a text"),
    "index": ([("x", "p", GOOD)], "'index' must be a whole number from 0, got 'x'"),
    "index twice": ([(4, "p", GOOD), (4, "q", GOOD)], "index 4 is already in line 2"),
    "few fields": ([(0, "p")], "expects 3 fields"),
}


@pytest.mark.parametrize("rows, said", BAD.values(), ids=BAD.keys())
def test_faulty_rows_are_named_with_file_and_line(tmp_path: Path, rows: list, said: str) -> None:
    file = write_csv(tmp_path / "test_prompts_en.csv", rows)
    with pytest.raises(PromptError) as caught:
        load_track(file)
    assert said in str(caught.value) and f"{file}:{len(rows) + 1}" in str(caught.value)


def test_faulty_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=r"holds none of test_prompts_en\.csv"):
        load_tracks(tmp_path)
    write_csv(tmp_path / "test_prompts_en.csv", [(0, "p", GOOD)])
    with pytest.raises(PromptError, match=r"no track 'enn'; did you mean 'en'\? \(tracks here: en\)"):
        load_tracks(tmp_path, ("enn",))
    with pytest.raises(PromptError, match=r"ends in \.csv or \.jsonl"):
        load_track(tmp_path / "missing.csv")
    with pytest.raises(PromptError, match="expects the columns index, prompt_en"):
        load_track(write_csv(tmp_path / "other.csv", [(0, "p", GOOD)], ("index", "prompt", "x")))
    (tmp_path / "latin.csv").write_bytes(b"index,prompt_en,sub_dims_en\n0,\xe9,{}\n")
    with pytest.raises(PromptError, match="not UTF-8"):
        load_track(tmp_path / "latin.csv")


def test_the_embedded_track_is_what_its_script_writes() -> None:
    from flowgrpo.assets import asset

    assert asset("prompts/shapes/unigen.csv").read_text(encoding="utf-8") == make_file(0)
    (track,) = load_tracks("shapes")
    assert len(track.tasks) == sum(SIZES.values()) and not track.warnings
    assert all(parse(task.prompt) for task in track.tasks)
    assert {point.dimension for task in track.tasks for point in task.points} == {
        "Attribute",
        "Compound",
        "Entity Layout",
        "Relationship",
    }


def test_shards_are_disjoint_and_complete() -> None:
    (track,) = load_tracks("shapes")
    parts = [track.part((i, 7), limit=40).tasks for i in range(7)]
    assert sorted((task for part in parts for task in part), key=lambda task: task.index) == list(track.tasks[:40])
