"""Trees, windows, win matrices and profiles by step: drawn where their numbers say."""

from __future__ import annotations

import json
import random
import re
from html import unescape
from itertools import pairwise
from pathlib import Path

import pytest
from report_rows import branch_tree, chain_tree, comb_tree, node, per_step, tree_of, win_row, write_lines

from flowgrpo.report import write_report
from flowgrpo.report.matrices import matrix_chart, read_matrix
from flowgrpo.report.run_data import RunData, read_run
from flowgrpo.report.steps import policy_section
from flowgrpo.report.tree_chart import tree_chart
from flowgrpo.report.tree_data import average_reward, level_places, read_tree, rows_of
from flowgrpo.report.windows import read_windows, window_chart
from flowgrpo.runfolder import RunFolder, read_jsonl


def tip(figure: str) -> dict:
    return json.loads(unescape(re.search(r'data-tip="(.*?)"', figure)[1]))


def edges(figure: str) -> list[tuple[float, float, float, float, str]]:
    """(x0, y0, x1, y1, kind) of every edge."""
    found = []
    for ways, kind in re.findall(r'<path d="([^"]*)" class="edge (\w+)"', figure):
        for way in ways.split("M")[1:]:
            numbers = [float(part) for part in re.findall(r"[\d.]+", way)]
            found.append((*numbers[:2], *numbers[-2:], kind))
    return found


def chart_of(row: dict) -> str:
    tree = read_tree(row)
    assert tree is not None
    return tree_chart(tree)


SMALL = tree_of(
    [
        node(0, -1, 0, 0.5),
        node(1, 0, 1, 0.25, -2.0),
        node(2, 0, 1, 0.75, 1.0, kept=False),
        node(3, 1, 4, 0.25),
        node(4, 2, 4, 0.75),
    ],
    4,
)


def test_edges_run_from_parent_to_child_and_look_like_what_they_are() -> None:
    figure = chart_of(SMALL)
    (x0, y0, x1, y1, a), (x3, y3, x4, y4, b), (*_, c), (_, _, x2, y2, d) = edges(figure)
    assert [a, b, c, d] == ["drawn", "ode", "ode", "pruned"]
    assert (x1, y1) == (x3, y3) and x2 == x1 and y4 == y3
    assert x1 - x0 == pytest.approx((x4 - x0) / 4, abs=0.2)
    assert y0 == pytest.approx((y1 + y2) / 2, abs=0.2) and y1 < y2


def test_colour_is_the_sign_and_strength_of_the_advantage() -> None:
    dots = re.findall(r'class="(node(?: minus)?)" style="--share:(\d+)%"', chart_of(SMALL))
    assert dots == [("node minus", "100"), ("node", "54")]
    assert "advantage −2 … +2" in chart_of(SMALL)


def test_rewards_are_written_beside_few_leaves_and_drawn_as_bars_beside_many() -> None:
    few = chart_of(SMALL)
    assert re.findall(r'class="tick">(0\.\d+)</text>', few) == ["0.25", "0.75"] and "bar" not in few
    many = chart_of(comb_tree())
    widths = [float(width) for width in re.findall(r'width="([\d.]+)" height="[\d.]+" class="bar', many)]
    tree = read_tree(comb_tree())
    rewards = [tree.nodes[leaf].reward for leaf in tree.leaves]
    assert len(widths) == 54 and (min(widths), max(widths)) == (2.0, 40.0)
    low, high = min(rewards), max(rewards)
    assert widths == pytest.approx([2 + 38 * (reward - low) / (high - low) for reward in rewards], abs=0.06)


@pytest.mark.parametrize(
    ("row", "roots", "leaves", "drawn"),
    [
        (chain_tree(), 12, 12, 108),
        (chain_tree(12, 25, range(4, 8)), 12, 12, 48),
        (branch_tree(1), 1, 16, 202),
        (comb_tree(), 1, 54, 54),
        (comb_tree(24), 1, 216, 216),
    ],
)
def test_every_kind_of_tree_is_drawn_in_full(row, roots, leaves, drawn) -> None:
    tree, figure = read_tree(row), chart_of(row)
    assert f"{roots} {'root' if roots == 1 else 'roots'}, {leaves} leaves" in figure
    assert f"{drawn} draws" in figure
    assert len(edges(figure)) == len(tree.nodes) - roots
    assert sum(kind == "drawn" for *_, kind in edges(figure)) == drawn
    ys = sorted({y for _, _, _, y, _ in edges(figure)})
    assert len(ys) >= leaves and all(x1 > x0 for x0, _, x1, _, _ in edges(figure))
    values = tip(figure)
    assert len(values["columns"]) == tree.levels + 1 == len(values["xs"])
    assert len(values["texts"]) == len(values["ys"]) == len(values["rows"]) <= 3000 // tree.levels + 1


def test_leaves_stand_in_their_order_and_trees_apart() -> None:
    tree = read_tree(chain_tree(3, 4, range(1, 3)))
    rows = rows_of(tree)
    assert [rows[leaf] for leaf in tree.leaves] == [0.0, 2.0, 4.0]
    tree = read_tree(SMALL)
    assert [rows_of(tree)[number] for number in range(5)] == [0.5, 0.0, 1.0, 0.0, 1.0]
    assert average_reward(tree) == 0.5


def test_steps_without_a_draw_are_narrow_where_there_are_many() -> None:
    short = level_places(read_tree(chain_tree(1, 12, range(2, 4))))
    assert short == pytest.approx([level / 12 for level in range(13)])
    long = level_places(read_tree(chain_tree(1, 24, range(2, 6))))
    widths = [right - left for left, right in pairwise(long)]
    assert (
        widths[2] == pytest.approx(4 * widths[0]) and widths[5] == widths[2] and widths[6] == pytest.approx(widths[0])
    )
    assert long[-1] == pytest.approx(1)
    assert "Deterministic steps are drawn narrow." in chart_of(chain_tree(1, 24, range(2, 6)))


def test_the_pointer_reads_the_node_that_a_leaf_passed() -> None:
    values = tip(chart_of(SMALL))
    assert values["columns"] == [f"step {level}" for level in range(5)]
    assert values["texts"][1][0] == "reward 0.5"
    assert values["texts"][1][1] == "reward 0.75\nadvantage 1, pruned"
    assert values["texts"][0][3] == "reward 0.25\nadvantage −2"


BROKEN = [
    {},
    {"iteration": 1, "nodes": []},
    {"iteration": 1, "nodes": [None]},
    {"iteration": 1, "nodes": "text"},
    tree_of([node(0, -1, 0, 0.5), node(1, 5, 1, 0.5)], 2),
    tree_of([node(0, 1, 0, 0.5), node(1, 0, 1, 0.5)], 2),
    tree_of([node(0, -1, 0, 0.5), node(1, 0, 0, 0.5)], 2),
    tree_of([node(0, -1, 0, 0.5), node(0, -1, 1, 0.5)], 2),
    tree_of([node(-3, -1, 0, 0.5)], 2),
    tree_of([node(0, -1, 10**9, 0.5)], 2),
    tree_of([node(0, -1, 0.5, 0.5)], 2),
]


@pytest.mark.parametrize("row", BROKEN)
def test_what_is_no_tree_is_left_out(row) -> None:
    assert read_tree(row) is None


def test_a_tree_without_numbers_is_drawn_all_the_same() -> None:
    row = tree_of([node(0, -1, 0, None), {"id": 1, "parent": 0, "step": 1, "noise": True}], 2)
    figure = chart_of(row)
    assert "mean reward –" in figure and "NaN" not in figure and 'class="node plain"' in figure


def test_a_window_is_a_path_of_filled_cells() -> None:
    rows = [{"iteration": i, "steps": 4, "trained_steps": [min(2, i // 2)]} for i in (1, 2, 3, 4)]
    figure = window_chart(read_windows(rows))
    assert figure.count('class="cell"') == 4 and figure.count('class="cell still"') == 12
    texts = tip(figure)["texts"]
    assert [row.index("trained") if "trained" in row else None for row in texts] == [0, 1, 3, None]
    assert "which ones changed 2 times" in figure


def test_many_iterations_are_shares_and_absent_steps_stay_empty() -> None:
    rows = [{"iteration": i, "steps": 2 if i <= 48 else 3, "trained_steps": [i % 2]} for i in range(1, 97)]
    figure = window_chart(read_windows(rows))
    texts = tip(figure)["texts"]
    assert texts[0] == ["trained in 50.0 % of the iterations"] * 48
    assert texts[2] == ["not in the plan"] * 24 + ["not trained"] * 24
    assert "1 of 2 to 3 sampling steps" in figure


def test_only_iterations_that_say_what_they_trained_have_a_window() -> None:
    rows = [
        {"iteration": 1},
        {"iteration": 2, "trained_steps": "no"},
        {"iteration": 3, "trained_steps": [1, None, -4, "x", 10**9], "steps": None},
        {"iteration": 4, "trained_steps": []},
    ]
    (window,) = read_windows(rows)
    assert (window.iteration, window.steps, window.trained) == (3, 2, frozenset({1}))


def test_win_rates_are_means_over_the_opponents() -> None:
    matrix = read_matrix(win_row(3, 4))
    assert matrix.rates == pytest.approx([0.5 / 3, 1 / 3, 2 / 3, 2.5 / 3])
    figure = matrix_chart(matrix)
    assert re.findall(r'class="on">([\d.]+|½)</text>', figure)[:3] == ["½", "0", "0"]
    assert re.findall(r'class="on">(0\.\d\d)</text>', figure) == ["0.17", "0.33", "0.67", "0.83"]
    assert figure.count('class="cell"') == figure.count('class="cell minus"') == 3
    assert figure.count('class="cell still"') == 6
    assert tip(figure)["texts"][3][0] == "won 1\nwin rate 0.8333"


def test_numbers_in_the_cells_up_to_sixteen_members() -> None:
    assert matrix_chart(read_matrix(win_row(1, 16))).count(">½<") == 30
    assert matrix_chart(read_matrix(win_row(1, 17))).count(">½<") == 0


@pytest.mark.parametrize(("value", "text"), [(0.25, ".25"), (2 / 3, ".67"), (0.999, "1"), (0.001, "0"), (0.75, ".75")])
def test_a_number_in_a_cell_has_three_characters_at_most(value, text) -> None:
    row = {"iteration": 1, "scorer": "s", "prompt": "p", "matrix": [[None, value], [1 - value, None]]}
    assert f'class="on">{text}</text>' in matrix_chart(read_matrix(row))


@pytest.mark.parametrize("matrix", [None, [], [[None]], [[None, 1], [0]], [[None, 2], [0, None]], [[None, 1], 3]])
def test_what_is_no_matrix_is_left_out(matrix) -> None:
    assert read_matrix({"iteration": 1, "scorer": "s", "prompt": "p", "matrix": matrix}) is None


def test_weights_and_ratios_by_step(make_run) -> None:
    run = make_run(1)
    values = per_step([1, 2], random.Random(0))
    values |= {"weight": [1.6, 0.4], "ratio_minus_1_mean": [-1e-4, 1e-4], "ratio_minus_1_std": [2e-4, 0.0]}
    write_lines(run / "metrics.jsonl", [{"iteration": 1, "per_step": values}])
    page = policy_section(read_run(run))
    charts = {re.search(r"<title>(.*?)</title>", chart)[1]: chart for chart in page.split("<figure")[1:]}
    assert tip(charts["Loss weight by step"])["texts"] == [["mean over iterations 1.6", "mean over iterations 0.4"]]
    assert tip(charts["Loss weight by step"])["columns"] == ["sampling step 1", "sampling step 2"]
    assert tip(charts["Ratio − 1 by step"])["texts"][0][0] == "mean over samples −1.00e−4 ± 2.00e−4"
    assert "band" not in charts["Loss weight by step"]


def test_sections_are_there_only_where_something_was_recorded(make_run) -> None:
    run = make_run(3)
    whole = write_report(run).read_text(encoding="utf-8")
    assert all(f"<h2>{title}</h2>" in whole for title in ("Tree", "Window", "Win matrix"))
    assert "<script>alert" not in whole.split("<main>")[1].split("<script>")[0]
    for name in ("trees.jsonl", "matrices.jsonl"):
        (run / name).unlink()
    rows = [
        {key: value for key, value in row.items() if key != "trained_steps"}
        for row in read_jsonl(run / "metrics.jsonl")
    ]
    write_lines(run / "metrics.jsonl", rows)
    page = write_report(run).read_text(encoding="utf-8")
    assert not any(f"<h2>{title}</h2>" in page for title in ("Tree", "Window", "Win matrix"))
    assert "trees.jsonl" not in page and "Incomplete." not in page


def test_damaged_rows_are_counted_and_the_rest_is_drawn(make_run) -> None:
    run = make_run(2)
    write_lines(run / "trees.jsonl", [SMALL, {"iteration": 1}])
    write_lines(run / "matrices.jsonl", [{"matrix": 3}, win_row(1, 3)])
    page = write_report(run).read_text(encoding="utf-8")
    assert "1 of 2 recorded trees cannot be read" in page and "1 of 2 recorded matrices cannot be read" in page
    assert "Iteration 1, group 2" in page and "preference, iteration 1" in page
    with open(run / "trees.jsonl", "a") as file:
        file.write('{"iteration": 2, "no')
    assert "trees.jsonl: line 3 is cut off" in write_report(run).read_text(encoding="utf-8")


def test_what_a_lost_part_of_a_run_recorded_is_taken_back(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for path in (folder.trees, folder.matrices, folder.metrics):
        write_lines(path, [{"iteration": i} for i in (1, 2, 3)])
    folder.rewind(2)
    for path in (folder.trees, folder.matrices, folder.metrics):
        assert [row["iteration"] for row in read_jsonl(path)] == [1, 2]
    assert not folder.timing.exists()


def test_a_run_of_old_has_no_trees(tmp_path: Path) -> None:
    assert RunData(RunFolder(tmp_path), {}).trees == ()
