"""Guard rails: each is quiet below its limit, speaks above it, once; and a run says what they find."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowgrpo.errors import RecipeError
from flowgrpo.guard_rails import RAILS, Watch, alarms, difference, new_alarms, watch_of
from flowgrpo.image_stats import colour_entropy, image_statistics
from flowgrpo.progress import Progress
from flowgrpo.recipe import Recipe
from flowgrpo.recipe_loading import load_recipe
from flowgrpo.runfolder import read_jsonl
from flowgrpo.trainer import Trainer
from reward_models.scorer import Card

W = 4
WATCH = Watch({name: rail.limit for name, rail in RAILS.items()}, W, {"clip": 1.0}, {"gold": 1.0})
QUIET = {"reward/zero_std_groups": 0.1, "reward/invalid": 0.0}


def rows(**columns: Sequence[float]) -> list[dict[str, Any]]:
    """Iterations with these columns; "image_edges" is image/edges, a bare name a scorer's mean."""
    keys = {name: name.replace("image_", "image/") if "_" in name else f"reward/{name}/mean" for name in columns}
    length = len(next(iter(columns.values())))
    return [
        {"iteration": i + 1, **QUIET, **{keys[name]: values[i] for name, values in columns.items()}}
        for i in range(length)
    ]


def rails(found: Sequence[Any]) -> list[str]:
    return [alarm.rail for alarm in found]


def noisy(level: float, count: int, seed: int, scale: float = 0.01) -> list[float]:
    draw = random.Random(seed)
    return [level + draw.gauss(0, scale) for _ in range(count)]


@pytest.mark.parametrize("name", ["edges", "sharpness", "colour_entropy", "diversity"])
def test_what_pictures_lose(name: str) -> None:
    key, limit = f"image_{name}", RAILS[name].limit
    for factor, expected in ((1 - limit + 0.01, []), (1 - limit - 0.01, [name]), (2.0, [])):
        held = rows(**{key: [0.2] * W + [0.5] * 3 + [0.2 * factor] * W})
        assert rails(alarms(held, WATCH)) == expected, factor
    assert not alarms(rows(**{key: [0.2] * W + [0.01] * (W - 1)}), WATCH), "there is no second window yet"


def test_pictures_that_grow_alike_in_clip_space() -> None:
    said = rows(clip_diversity=[0.3] * W + [0.14] * W, clip=[*noisy(0.1, W, 0), *noisy(0.5, W, 1)])
    for row in said:  # the helper takes names with an underscore for keys
        row["reward/clip_diversity/mean"] = row.pop("clip_diversity")
    (alarm,) = alarms(said, WATCH)
    assert alarm.rail == "clip_diversity" and alarm.message.endswith("while clip rose")
    assert not alarms([{**row, "reward/clip_diversity/mean": 0.3} for row in said], WATCH)


def test_pictures_that_glare() -> None:
    assert rails(alarms(rows(image_saturation=[0.2] * W + [0.31] * W), WATCH)) == ["saturation"]
    assert not alarms(rows(image_saturation=[0.2] * W + [0.29] * W), WATCH)
    assert not alarms(rows(image_saturation=[0.0] * W + [0.0] * W), WATCH)


def test_a_loss_says_whether_the_reward_rose() -> None:
    held = rows(image_edges=[0.2] * W + [0.05] * W, clip=[*noisy(0.1, W, 0), *noisy(0.5, W, 1)])
    (alarm,) = alarms(held, WATCH)
    moved = "image/edges fell by 75% since the first 4 iterations (0.2 to 0.05, limit 40%)"
    assert alarm.message == f"guard rail edges: {moved} while clip rose"


def test_groups_and_judgements() -> None:
    calm = [{"iteration": i, **QUIET} for i in range(6)]
    assert not alarms(calm, WATCH)
    flat = [{**row, "reward/zero_std_groups": 0.6} for row in calm]
    assert rails(alarms(flat, WATCH)) == ["zero_std"] and not alarms(flat[: W - 1], WATCH)
    mute = [{**row, "reward/invalid": 0.06} for row in calm]
    (alarm,) = alarms(mute, WATCH)
    assert (
        alarm.message.startswith("guard rail invalid: 6% of the samples got no score") and "limit 5%" in alarm.message
    )


# -- over-optimisation -------------------------------------------------------------------------------------------------


def test_a_monitor_that_falls_while_the_reward_rises() -> None:
    """It rises first: the comparison is with the best window, not with the first."""
    gold = [*noisy(0.5, W, 0), *noisy(0.7, W, 1), *noisy(0.55, W, 2)]
    clip = [*noisy(0.2, W, 3), *noisy(0.3, W, 4), *noisy(0.5, W, 5)]
    (alarm,) = alarms(rows(gold=gold, clip=clip), WATCH)
    assert alarm.rail == "hacking" and alarm.about == "reward/gold/mean"
    assert "gold, which is not trained on, got worse while clip, which is trained on, got better" in alarm.message
    assert f"up to iteration {2 * W} " in alarm.message
    assert not alarms(rows(gold=gold, clip=[0.2] * 3 * W), WATCH), "nothing was gained by it"
    assert not alarms(rows(gold=clip, clip=gold), WATCH), "it rises while what is trained on falls"


def test_directions() -> None:
    up, down = [*noisy(0.5, W, 0), *noisy(0.7, W, 1)], [*noisy(0.7, W, 2), *noisy(0.5, W, 3)]
    lower = replace(WATCH, monitors={"gold": -1.0})
    assert rails(alarms(rows(gold=up, clip=up), lower)) == ["hacking"], "of this monitor less is better"
    assert not alarms(rows(gold=down, clip=up), lower)
    assert rails(alarms(rows(gold=down, clip=down), replace(WATCH, trained={"clip": -1.0}))) == ["hacking"]


def test_where_only_win_rates_are_trained_the_monitor_counts_alone() -> None:
    held = rows(gold=[*noisy(0.7, W, 2), *noisy(0.5, W, 3)])
    assert not alarms(held, WATCH) and rails(alarms(held, replace(WATCH, trained={}))) == ["hacking"]


def test_noise_is_no_alarm() -> None:
    """200 runs of 60 iterations whose scores only scatter: hardly one alarm (a limit of 2 would give dozens)."""
    watch, loud = replace(WATCH, window=10), 0
    for seed in range(200):
        held = rows(gold=noisy(0.5, 60, seed, 0.1), clip=noisy(0.5, 60, 1000 + seed, 0.1))
        loud += bool(alarms(held, watch))
    assert loud <= 1


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=9), st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=9))
@settings(max_examples=60, deadline=None)
def test_differences_are_welchs(a: list[float], b: list[float]) -> None:
    error = math.sqrt(torch.tensor(a).double().var() / len(a) + torch.tensor(b).double().var() / len(b))
    gap = sum(a) / len(a) - sum(b) / len(b)
    found = difference(a, b)
    assert found == pytest.approx(-difference(b, a))
    if error > 1e-6:
        assert found == pytest.approx(gap / error, rel=1e-6, abs=1e-6)


def test_holes_in_the_rows_are_passed_over() -> None:
    held = rows(gold=[*noisy(0.7, W, 2), *noisy(0.5, W, 3)], clip=[*noisy(0.2, W, 0), *noisy(0.5, W, 1)])
    for row in held[1::3]:
        row["reward/gold/mean"] = math.nan
        del row["reward/clip/mean"]
    assert rails(alarms(held, replace(WATCH, limits={"hacking": 3.0}))) in ([], ["hacking"])
    assert not alarms([{"iteration": 1}] * 20, WATCH)


# -- once, and off -----------------------------------------------------------------------------------------------------


def test_what_lasts_is_said_once_and_again_after_a_pause() -> None:
    held = rows(image_edges=[0.2] * W + [0.05] * 3 * W + [0.2] * 3 * W + [0.05] * 2 * W)
    said = [i for i in range(1, len(held) + 1) if new_alarms(held[:i], WATCH)]
    assert len(said) == 2 and said[0] <= 2 * W < said[1]


def test_a_limit_of_zero_is_off() -> None:
    held = rows(image_edges=[0.2] * W + [0.0] * W)
    assert alarms(held, WATCH) and not alarms(held, replace(WATCH, limits={**WATCH.limits, "edges": 0.0}))


def test_what_a_recipe_watches() -> None:
    words = ["--reward.names", "clip=1,preference=1,gold=0,jpeg_compressibility=-1,aesthetic=0"]
    recipe = load_recipe(None, [*words, "--run.guard_rails.edges", "0.9", "--run.guard_window=3"]).recipe
    cards = {name: Card(name=name, version="") for name in recipe.reward.names}
    cards["preference"] = Card(name="preference", version="", kind="pairwise")
    cards["aesthetic"] = Card(name="aesthetic", version="", higher_is_better=False)
    watch = watch_of(recipe, cards)
    assert watch.trained == {"clip": 1.0, "jpeg_compressibility": -1.0}
    assert watch.monitors == {"gold": 1.0, "aesthetic": -1.0}
    assert (watch.window, watch.limits["edges"], watch.limits["hacking"]) == (3, 0.9, 4.0)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("--run.guard_rails.edge=1", "there is no guard rail 'edge'; did you mean 'edges'?"),
        ("--run.guard_rails.edges=-1", "the limit of edges is -1; right would be 0 (off) or more"),
        ("--run.guard_window=1", "must be at least 2"),
    ],
)
def test_wrong_limits(word: str, says: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe(None, [word])
    assert says in str(error.value)


# -- pictures ----------------------------------------------------------------------------------------------------------


def test_entropy_of_colours() -> None:
    flat, halves = torch.full((1, 3, 8, 8), 0.3), torch.zeros(1, 3, 8, 8)
    halves[..., :4] = 1.0
    levels = torch.arange(8).float() / 8 + 0.01
    every = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 16, 32)
    found = [colour_entropy(images).item() for images in (flat, halves, every)]
    assert found == pytest.approx([0.0, math.log(2) / math.log(512), 1.0], abs=1e-6)
    assert colour_entropy(torch.cat([flat, halves[..., :8]])).tolist() == pytest.approx(found[:2], abs=1e-6)
    assert colour_entropy(torch.ones(1, 3, 2, 2)).item() == 0.0


def test_sharpness_is_of_detail_and_not_of_slopes() -> None:
    slope = torch.linspace(0, 1, 9).expand(1, 3, 9, 9)
    board = ((torch.arange(9)[:, None] + torch.arange(9)) % 2).float().expand(1, 3, 9, 9)
    group = torch.zeros(1, dtype=torch.long)
    soft, hard = (image_statistics(images, group)["sharpness"] for images in (slope, board))
    assert soft == pytest.approx(0.0, abs=1e-6) and hard == 1.0


# -- in a run ----------------------------------------------------------------------------------------------------------

FLAT = "def flat(images, prompts, metadata):\n    return [1.0] * len(images)\n"


def test_a_run_says_it_once_in_progress_and_events(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    (tmp_path / "flat.py").write_text(FLAT)
    recipe = make_recipe(reward__names=f"{tmp_path}/flat.py:flat", run__guard_window=2, eval__scorers=["gold"])
    with open(tmp_path / "said.txt", "w") as stream:
        result = Trainer(recipe, progress=Progress(stream)).run()
    events = [row["message"] for row in read_jsonl(result.folder / "events.jsonl") if row["kind"] == "warning"]
    (alarm,) = [text for text in events if text.startswith("guard rail")]
    assert alarm == (
        "guard rail zero_std: 100% of the groups had equal rewards, which teach nothing, over the last 2 iterations "
        "(limit 50%)"
    )
    assert (tmp_path / "said.txt").read_text().count(f"warning: {alarm}\n") == 1
    assert json.dumps(alarm)[1:20] in (result.folder / "report.html").read_text()
