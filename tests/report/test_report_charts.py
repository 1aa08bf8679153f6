"""Numbers on the page: the same as in the files, at the place that the axis says."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowgrpo.report.bar_chart import bar_chart
from flowgrpo.report.chart_frame import HEIGHT, LEFT, RIGHT, TOP, WIDTH, bin_labels, bins
from flowgrpo.report.curves import PLOTS
from flowgrpo.report.evaluations import Estimate, comparisons, estimate, gain, gain_chip, level_text
from flowgrpo.report.heat_chart import HeatChart, heat_chart
from flowgrpo.report.line_chart import LineChart, Series, line_chart
from flowgrpo.report.numbers import (
    Scale,
    duration,
    linear_ticks,
    log_ticks,
    number,
    scientific,
    tick_labels,
    whole_ticks,
)
from flowgrpo.report.run_data import read_run
from flowgrpo.report.steps import step_matrix, trained_steps
from flowgrpo.report.times import WORK, iteration_seconds, stage_names


def tip(figure: str) -> dict:
    from html import unescape

    return json.loads(unescape(re.search(r'data-tip="(.*?)"', figure)[1]))


def line_points(figure: str) -> list[list[tuple[float, float]]]:
    paths = re.findall(r'<path d="M([^"Z]*)" class="line', figure)
    return [[tuple(map(float, pair.split(","))) for pair in path.split("L")] for path in paths]


def ticks_of(figure: str) -> list[tuple[float, float]]:
    """(pixel, value) of the y ticks."""
    found = re.findall(r'<text x="42" y="([\d.]+)" dy="0.32em"[^>]*>([^<]+)</text>', figure)
    return [(float(y), float(label)) for y, label in found]


def test_a_line_passes_where_its_axis_says():
    values = [0.2, 0.5, 0.35, 0.9]
    figure = line_chart(LineChart("title", [1, 2, 3, 5], [Series("mean", values)]))
    (points,) = line_points(figure)
    (y0, v0), (y1, v1) = ticks_of(figure)[0], ticks_of(figure)[-1]
    for (_, y), value in zip(points, values, strict=True):
        assert v0 + (y - y0) / (y1 - y0) * (v1 - v0) == pytest.approx(value, abs=0.002)
    left, right = LEFT, WIDTH - RIGHT
    assert [x for x, _ in points] == pytest.approx(
        [left, left + (right - left) / 4, left + (right - left) / 2, right], abs=0.1
    )
    assert [text.split()[1] for text in tip(figure)["texts"][0]] == ["0.2", "0.5", "0.35", "0.9"]


def test_the_band_is_one_spread_to_either_side():
    figure = line_chart(LineChart("t", [1, 2], [Series("mean", [0.5, 0.5], [0.1, 0.2])]))
    band = re.search(r'<path d="M([^"]*)Z" class="band', figure)[1]
    heights = [float(pair.split(",")[1]) for pair in band.split("L")]
    upper1, upper2, lower2, lower1 = heights
    assert (lower2 - upper2) / (lower1 - upper1) == pytest.approx(2.0, abs=0.02)
    assert "mean ± std" in figure and "0.5 ± 0.2" in tip(figure)["texts"][0][1]


def test_a_missing_value_interrupts_the_line():
    figure = line_chart(LineChart("t", [1, 2, 3, 4, 5], [Series("m", [1.0, 2.0, None, 3.0, 4.0])]))
    assert [len(points) for points in line_points(figure)] == [2, 2]
    assert line_chart(LineChart("t", [1, 2], [Series("m", [None, None])])) is None


def test_positive_values_over_decades_get_a_logarithmic_axis():
    values = [1e-6, 1e-4, 1e-2]
    (points,) = line_points(line_chart(LineChart("t", [1, 2, 3], [Series("m", values)])))
    steps = [a[1] - b[1] for a, b in itertools.pairwise(points)]
    assert steps[0] == pytest.approx(steps[1], abs=0.2)


def test_many_points_are_averaged_and_the_page_says_so():
    count = 1500
    figure = line_chart(LineChart("t", range(1, count + 1), [Series("m", [float(i) for i in range(count)])]))
    texts = tip(figure)
    assert len(texts["xs"]) == 300 and texts["columns"][0] == "iterations 1 to 5"
    assert texts["texts"][0][0] == "m 2" and texts["texts"][0][-1] == "m 1,497"
    assert "Each point is the mean of 5 iterations." in figure


def test_rounding_noise_is_not_blown_up():
    (points,) = line_points(line_chart(LineChart("t", [1, 2, 3], [Series("m", [0.1, 0.1 + 1e-17, 0.1 - 1e-17])])))
    assert len({y for _, y in points}) == 1


def test_a_limit_far_beyond_the_data_does_not_flatten_it():
    near = line_chart(LineChart("t", [1, 2], [Series("m", [0.5, 0.6])], limits=[("limit", 1.0)]))
    far = line_chart(LineChart("t", [1, 2], [Series("m", [0.5, 0.6])], limits=[("limit", 1e3)]))
    assert 'class="limit"' in near and 'class="limit"' not in far
    assert "limit: 1,000" in far


def test_heat_cells_hold_the_largest_magnitude_of_their_bin_and_its_sign():
    row = [1e-6] * 96
    row[1], row[3] = -3e-4, 2e-5
    figure = heat_chart(HeatChart("t", range(1, 97), [4], [row]))
    values = tip(figure)
    assert len(values["columns"]) == 48 and values["rows"] == ["step 4"]
    assert values["texts"][0][:3] == ["−3.00e−4", "2.00e−5", "1.00e−6"]
    cells = re.findall(r'class="(cell[^"]*)" fill-opacity="([\d.]+)"', figure)
    assert cells[0] == ("cell minus", "1.00") and cells[2] == ("cell", "0.10")
    assert 0.1 < float(cells[1][1]) < 1


def test_heat_of_exact_zeros_says_so_and_of_nothing_is_left_out():
    assert "Exactly 0 at every step" in heat_chart(HeatChart("t", [1, 2], [1], [[0.0, 0.0]]))
    assert heat_chart(HeatChart("t", [1, 2], [1], [[None, None]])) is None
    assert tip(heat_chart(HeatChart("t", [1, 2], [1], [[None, 0.5]])))["texts"] == [["not trained", "5.00e−1"]]


def test_bars_stack_to_their_total():
    figure = bar_chart("t", [1, 2], {"a": [1.0, 2.0], "b": [3.0, None]}, "s")
    bars = re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="[\d.]+" height="([\d.]+)" class="bar (s\d)"', figure)
    heights = {(x, kind): float(height) + 0.6 for x, _, height, kind in bars}
    one = [height for (x, _), height in heights.items() if x == bars[0][0]]
    assert one[1] / one[0] == pytest.approx(3.0, abs=0.02)
    assert sum(one) == pytest.approx((HEIGHT - 34 - TOP) / 1.05, abs=0.1)
    assert tip(figure)["texts"][0] == ["a 1\nb 3\ntotal 4", "a 2\nb 0\ntotal 2"]


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_linear_ticks_lie_inside_are_even_and_few(low, width):
    high = low + max(width, 1e-4 * abs(low))
    ticks = linear_ticks(low, high)
    slack = 1e-6 * (high - low)
    assert 1 <= len(ticks) <= 6
    assert all(low - slack <= tick <= high + slack for tick in ticks)
    assert len(set(tick_labels(ticks))) == len(ticks)


@given(st.floats(1e-9, 1e6), st.floats(2.0, 1e9))
def test_log_ticks_lie_inside_and_are_few(low, factor):
    ticks = log_ticks(low, low * factor)
    assert len(ticks) <= 6
    assert all(low * (1 - 1e-6) <= tick <= low * factor * (1 + 1e-6) for tick in ticks)


@given(st.integers(0, 5000), st.integers(0, 5000))
def test_iteration_ticks_are_whole_and_inside(low, length):
    ticks = whole_ticks(low, low + length)
    assert ticks and all(isinstance(tick, int) and low <= tick <= low + length for tick in ticks)


@given(st.integers(1, 2000), st.integers(1, 100))
def test_bins_cover_every_iteration_once(count, most):
    groups = bins(range(count), most)
    assert [index for group in groups for index in group] == list(range(count))
    assert len(groups) <= most and len(bin_labels(range(count), groups)) == len(groups)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (0.0, "0"), (1234567.5, "1.23e6"), (11520000.0, "11,520,000"), (7680.0, "7,680"), (0.25, "0.25"),
     (1 / 3, "0.3333"), (-2.5e-5, "−2.50e−5"), (12345.67, "12,345.7"), (0.001, "0.001")],
)  # fmt: skip
def test_numbers_for_people(value, shown):
    assert number(value) == shown


def test_scientific_and_durations():
    assert [scientific(v) for v in (0.0, 1.23456e-5, -1.0, None)] == ["0", "1.23e−5", "−1.00e0", "–"]
    assert [duration(s) for s in (0.05, 3.14, 59.6, 598.0, 7260.0)] == [
        "50 ms",
        "3.1 s",
        "1 min 0 s",
        "9 min 58 s",
        "2 h 1 min",
    ]
    assert tick_labels([0.0095, 0.01, 0.0105]) == ["0.0095", "0.0100", "0.0105"]
    assert tick_labels([0.0, 1e-7, 2e-7]) == ["0", "1e−7", "2e−7"]
    assert tick_labels([1.05e-6, 1.1e-6]) == ["1.05e−6", "1.1e−6"]


def test_a_scale_maps_ends_to_ends():
    scale = Scale(1e-4, 1e-2, 100, 0, log=True)
    assert (scale(1e-4), scale(1e-3), scale(1e-2)) == pytest.approx((100, 50, 0))


def test_gain_has_the_interval_of_independent_means():
    change = gain(Estimate(0.42, 0.03, 512), Estimate(0.61, 0.04, 512))
    assert change.mean == pytest.approx(0.19) and change.ci95 == pytest.approx(0.05)
    assert "+19.0 ± 5.0 points" in gain_chip(change, share=True) and 'class="gain up"' in gain_chip(change, share=True)
    assert 'class="gain flat"' in gain_chip(Estimate(0.03, 0.05, None), share=True)
    assert 'class="gain down"' in gain_chip(Estimate(-0.08, 0.05, None), share=True)
    assert gain(None, Estimate(0.5, 0.1, 1)) is None
    assert level_text(Estimate(0.589, 0.042, 512), share=True) == "58.9 % ± 4.2"
    assert level_text(Estimate(21.3125, 0.05, 512), share=False) == "21.31 ± 0.05"


def test_the_base_counts_at_its_best_guidance_and_the_latest_final_row(make_run):
    run = make_run(4)
    rows = [
        {"label": "base", "set": "s", "scorer": "g", "mean": 0.30, "guidance_scale": 1.0, "iteration": 0},
        {"label": "base", "set": "s", "scorer": "g", "mean": 0.45, "guidance_scale": 3.0, "iteration": 0},
        {"label": "base", "set": "s", "scorer": "g", "mean": 0.40, "guidance_scale": 4.5, "iteration": 0},
        {"label": "iteration", "set": "s", "scorer": "g", "mean": 0.70, "iteration": 2},
        {"label": "final", "set": "s", "scorer": "g", "mean": 0.50, "iteration": 4},
        {"label": "final", "set": "s", "scorer": "g", "mean": 0.60, "iteration": 4},
        {"label": "final", "set": "s", "scorer": "g", "mean": None, "iteration": 4},
        {"label": "iteration", "set": "s", "scorer": "clip", "mean": 21.3, "iteration": 2},
    ]
    (run / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second = comparisons(read_run(run))
    assert (estimate(first.base).mean, estimate(first.latest).mean, first.finished) == (0.45, 0.60, True)
    assert (second.base, second.latest_name, second.share) == (None, "iteration 2", False)


def test_per_step_values_keep_their_step_when_the_window_moves(make_run):
    run = make_run(3)
    rows = [
        {"iteration": 1, "per_step": {"step": [1, 2], "rollout_gap": [1e-7, 2e-7]}},
        {"iteration": 2, "per_step": {"step": [2, 5], "rollout_gap": [3e-7, float("nan")]}},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = read_run(run)
    assert trained_steps(data) == [1, 2, 5]
    assert step_matrix(data, "rollout_gap", [1, 2, 5]) == [[1e-7, None], [2e-7, 3e-7], [None, None]]


def test_an_iteration_written_twice_counts_once(make_run):
    run = make_run(3)
    with open(run / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"iteration": 2, "reward/mean": 0.125}) + "\n")
    data = read_run(run)
    assert data.iterations == (1, 2, 3) and data.column("reward/mean")[1] == 0.125


def test_stage_times_leave_out_what_is_no_stage():
    row = {"time/update": 2.0, "time/rollout": 1.0, "time/scoring": 9.0, "time/mine": 0.5}
    assert stage_names([row]) == ["rollout", "update", "mine"]
    assert iteration_seconds(row) == 3.5 and iteration_seconds({**row, "time/total": 4.0}) == 4.0
    assert iteration_seconds({}) is None


def test_every_charted_key_is_explained_in_the_docs():
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    keys = [key for plot in PLOTS for key, _ in plot.lines] + [key for key, _ in WORK]
    assert [key for key in keys if f"`{key}`" not in text] == []
