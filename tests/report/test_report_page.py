"""The page as a document: complete, escaped, self-contained, and written for runs that are not complete."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from flowgrpo.errors import RunError, UsageError
from flowgrpo.report import SECTIONS, write_report
from flowgrpo.report.run_data import read_run

FILES = ("recipe.json", "metrics.jsonl", "timing.jsonl", "eval.jsonl", "events.jsonl", "images/index.json")
UNCLOSED = {"meta", "img"}


class Outline(HTMLParser):
    """Elements in order with their attributes; fails where a closing tag does not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in UNCLOSED:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data)


def outline(page: str) -> Outline:
    found = Outline()
    found.feed(page)
    found.close()
    assert found.open == []
    return found


def written(run: Path) -> str:
    return write_report(run).read_text(encoding="utf-8")


def test_a_finished_run_has_every_section_and_no_gap(make_run):
    run = make_run()
    page = written(run)
    found = outline(page)
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert headings == [title for title, _ in SECTIONS if title != "Answers"]  # those of a run that draws pictures
    assert "Incomplete." not in page
    assert [a["href"] for t, a in found.elements if t == "a"][: len(headings)] == [
        f"#{title.lower().replace(' ', '-')}" for title in headings
    ]
    ids = {a.get("id") for _, a in found.elements}
    assert all(a["href"][1:] in ids for t, a in found.elements if t == "a")


def test_out_names_the_file(make_run, tmp_path):
    target = tmp_path / "elsewhere" / "page.html"
    assert write_report(make_run(3), target) == target
    assert target.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_every_text_from_the_run_is_escaped(make_run):
    run, attack = make_run(3), '"><script>alert("x")</script><img src=x onerror=alert(1)>'
    recipe = json.loads((run / "recipe.json").read_text())
    recipe |= {"name": attack, "hash": attack}
    recipe["values"][attack] = {attack: attack}
    recipe["origins"][f"{attack}.{attack}"] = attack
    (run / "recipe.json").write_text(json.dumps(recipe))
    index = json.loads((run / "images/index.json").read_text())
    index["prompts"] = [attack] * 4
    index["columns"][0]["label"] = attack
    (run / "images/index.json").write_text(json.dumps(index))
    evaluation = {"label": "final", "iteration": 3, "set": attack, "scorer": attack, "mean": 0.5, "ci95": 0.1, "n": 8}
    evaluation |= {
        "by_category": {attack: {"mean": 0.5, "ci95": 0.1, "n": 8}},
        "steps": attack,
        "guidance_scale": attack,
    }
    (run / "eval.jsonl").write_text(json.dumps(evaluation) + "\n")
    (run / "events.jsonl").write_text(json.dumps({"time": attack, "kind": attack, "message": attack}) + "\n")
    rows = [json.loads(line) | {f"image/{attack}": 0.5, f"reward/{attack}/mean": 0.5} for line in lines(run, "metrics")]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    times = [json.loads(line) | {f"time/{attack}": 0.5} for line in lines(run, "timing")]
    (run / "timing.jsonl").write_text("".join(json.dumps(row) + "\n" for row in times))
    found = outline(written(run))
    assert [t for t, _ in found.elements].count("script") == 1
    assert not any(
        "onerror" in name or name.startswith("on") for _, attributes in found.elements for name in attributes
    )
    assert all(a["src"].startswith("data:image/") for t, a in found.elements if t == "img")
    assert sum("<script>alert" in shown for shown in found.texts) >= 10


def lines(run: Path, name: str) -> list[str]:
    return (run / f"{name}.jsonl").read_text().splitlines()


def test_nothing_comes_from_outside(make_run):
    page = written(make_run())
    assert "http:" not in page and "https:" not in page
    assert "url(" not in page and "@import" not in page
    for _, attributes in outline(page).elements:
        for name in ("src", "href", "srcset", "action", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/", "#"))
    policies = [a["content"] for _, a in outline(page).elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1 and policies[0].startswith("default-src 'none'; img-src data:;")


@pytest.mark.parametrize("file", [file for file in FILES if file != "recipe.json"])
def test_a_missing_file_is_named_and_the_rest_is_shown(make_run, file):
    run = make_run(5)
    (run / file).unlink()
    page = written(run)
    outline(page)
    assert f"{file} is missing" in page
    assert ("<img" in page) == (file != "images/index.json")


@pytest.mark.parametrize("kept", ["recipe.json", "metrics.jsonl"])
def test_a_run_with_one_file_has_a_report(make_run, kept):
    run = make_run(5)
    for file in FILES:
        if file != kept:
            (run / file).unlink()
    page = written(run)
    outline(page)
    assert page.count(" is missing") == len(FILES) - 1


@pytest.mark.parametrize("iterations", [1, 2, 1000])
def test_any_number_of_iterations(make_run, iterations):
    page = written(make_run(iterations))
    outline(page)
    assert "NaN" not in page and "Infinity" not in page and ">nan<" not in page
    assert len(page) < 900_000


def test_a_cut_off_line_is_reported_and_left_out(make_run):
    run = make_run(5)
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(text[:-40])
    page = written(run)
    assert "metrics.jsonl: line 5 is cut off or damaged; 1 of 5 left out." in page
    assert re.search(r"<dt>Iterations</dt><dd>4</dd>", page)


@pytest.mark.parametrize("content", [b"\xff\xfe not text", b"[1, 2", b"7\n[]\nnull\n", b""])
@pytest.mark.parametrize("file", FILES)
def test_any_content_of_a_file_still_gives_a_page(make_run, file, content):
    run = make_run(2)
    (run / file).write_bytes(content)
    outline(written(run))


def test_values_of_wrong_types_are_left_out(make_run):
    run = make_run(2)
    odd = [None, True, "text", [], {}, float("nan"), float("inf")]
    keys = list(json.loads(lines(run, "metrics")[0]))
    rows = [
        {"iteration": 3 + place} | {key: value for key in keys if key != "iteration"} for place, value in enumerate(odd)
    ]
    rows.append({"iteration": 20, "per_step": {"step": [1, None, "x"], "rollout_gap": [None, 2], "std": "no"}})
    with open(run / "metrics.jsonl", "a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
    page = written(run)
    outline(page)
    assert "not finite and left out" in page


def test_prompts_that_utf8_cannot_hold_are_written_with_a_mark(make_run):
    run = make_run(2)
    index = json.loads((run / "images/index.json").read_text())
    index["prompts"][0] = "broken \ud83d surrogate"
    (run / "images/index.json").write_text(json.dumps(index))
    assert "broken ? surrogate" in written(run)


def test_pictures_outside_the_image_folder_or_of_another_kind_are_not_embedded(make_run):
    run = make_run(2)
    (run / "images/before/001.png").write_text("<svg onload=alert(1)>")
    (run / "images/before/002.png").unlink()
    index = json.loads((run / "images/index.json").read_text())
    index["columns"][0]["files"][0] = "../../run/images/before/003.png"
    (run / "outside.png").write_bytes((run / "images/before/003.png").read_bytes())
    index["columns"][0]["files"][3] = "../outside.png"
    (run / "images/index.json").write_text(json.dumps(index))
    page = written(run)
    assert page.count('class="hole"') == 3
    assert page.count("<img") == 3 * 4 - 3


def test_large_pictures_are_shrunk_and_only_small_ones_keep_their_pixels(make_run, make_picture):
    run = make_run(2)
    assert written(run).count('class="pixelated"') == 12
    (run / "images/before/000.png").write_bytes(make_picture(0, 0, 512, noisy=True))
    page = written(run)
    assert page.count("data:image/jpeg") == 1 and page.count('class="pixelated"') == 11
    assert len(page) < 600_000


def test_warnings_come_first(make_run):
    page = written(make_run(2))
    table = page[page.index('<section id="events">') :]
    assert table.index("warning") < table.index("start")
    assert "<b>Warning. </b>clip range 1e-4 &lt;b&gt;never" in page[: page.index("<nav")]


def test_origins_stand_beside_their_values(make_run):
    page = written(make_run(2))
    row = re.search(r"<tr><th[^>]*>kernel</th><td><code>cps</code></td><td>demo.yaml:12</td></tr>", page)
    assert row
    assert "2 of 4 set" in page and "kernel = cps, eta = 0.8" in page


def test_a_folder_that_is_no_run_is_refused_with_a_hint(make_run, tmp_path):
    run = make_run(2)
    with pytest.raises(UsageError, match=r"does not exist.*did you mean 'run'"):
        write_report(tmp_path / "runn")
    with pytest.raises(UsageError, match="is a file, not a run folder"):
        write_report(run / "recipe.json")
    with pytest.raises(UsageError, match=r"neither recipe.json nor metrics.jsonl; it contains the runs run"):
        write_report(tmp_path)


def test_a_target_that_cannot_be_written_is_one_clear_error(make_run):
    run = make_run(2)
    with pytest.raises(RunError, match="cannot write"):
        write_report(run, run / "recipe.json" / "page.html")


def test_the_report_imports_neither_torch_nor_diffusers():
    code = "import sys, flowgrpo.report; print({'torch', 'diffusers', 'PIL'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"


def test_steps_that_never_moved_are_shown_as_exact_zeros(make_run):
    run = make_run(1)
    zeros = {"step": [0, 1], "ratio_minus_1_mean": [0.0, 0.0], "rollout_gap": [0.0, 0.0]}
    (run / "metrics.jsonl").write_text(json.dumps({"iteration": 1, "per_step": zeros}) + "\n")
    page = written(run)
    assert page.count("Exactly 0 at every step of every iteration.") == 2
    assert '<tr><th scope="row">step 1</th><td>0</td><td>0</td></tr>' in page


def test_a_single_category_is_not_shown_twice(make_run):
    run = make_run(2)
    row = {"label": "final", "iteration": 2, "set": "s", "scorer": "g", "mean": 0.5, "ci95": 0.1, "n": 8, "steps": 4}
    (run / "eval.jsonl").write_text(json.dumps(row | {"by_category": {"all": {"mean": 0.5, "n": 8}}}) + "\n")
    assert len(re.findall(r'<th scope="row">all', written(run))) == 1


def test_an_iteration_whose_pictures_were_drawn_twice_is_shown_once(make_run):
    run = make_run(6)
    index = json.loads((run / "images/index.json").read_text())
    index["columns"][1]["iteration"] = index["columns"][2]["iteration"]
    (run / "images/index.json").write_text(json.dumps(index))
    page = written(run)
    assert page.count("<span>after</span>") == 4 == page.count("<span>before</span>")
    assert "<span>iteration 3</span>" not in page


def test_statistics_of_evaluated_pictures_stand_with_the_guard_rails(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text("{}")
    rows = [
        {"label": label, "iteration": i, "set": "mine", "scorer": scorer, "mean": mean, "ci95": 0.1, "n": 4}
        for label, i, shift in (("base", 0, 0.0), ("final", 2, 0.1))
        for scorer, mean in (("gold", 0.5 + shift), ("image/edges", 0.2 - shift))
    ]
    (tmp_path / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = read_run(tmp_path)
    assert [row["scorer"] for row in run.evaluations] == ["gold", "gold"]
    page = write_report(tmp_path).read_text()
    assert "Pictures of evaluations" in page and "-50.0 %" in page and "image/edges" not in page
