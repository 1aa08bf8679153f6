"""The benchmark of estimators: looked-up estimates are the real ones, and its statistics are right."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

import pytest
import torch

from flowgrpo.likelihood_masked import exact_elbo, likelihood, logits_at
from flowgrpo.mask_plans import coupled, sdmc
from flowgrpo.views import Completions
from scripts.bench_estimators import BUDGETS, comparison_table, document, kept, summary_table
from scripts.elbo_tables import (
    CONTENDERS,
    MASK,
    Tabulated,
    canvases,
    coupled_independent,
    estimates,
    generator_draw,
    independent_elbo,
    moments,
    tabulate,
)
from scripts.estimator_summary import compare, ratio, summarise, verdict
from scripts.estimators_picture import LABELS, picture
from tests.objective import masked_toy

TOKENS, DRAWS = 4, 3000


@pytest.fixture(scope="module")
def row() -> Completions:
    return masked_toy.one_row(TOKENS)


@pytest.fixture(scope="module")
def answer(row: Completions) -> Tabulated:
    return tabulate(logits_at(masked_toy.Toy(), shift=0), row, mask_id=masked_toy.MASK)


def test_table_holds_the_exact_elbo(row: Completions, answer: Tabulated) -> None:
    with torch.no_grad():
        exact = exact_elbo(logits_at(masked_toy.Toy(), shift=0), row, mask_id=masked_toy.MASK)
    assert answer.elbo == pytest.approx(float(exact.elbo[0]), abs=1e-12)
    counts = torch.tensor([bin(number).count("1") for number in range(2**TOKENS)])
    for k in range(1, TOKENS + 1):
        mean = answer.log_probs[counts == k].sum(1).mean()
        assert float(mean) == pytest.approx(float(exact.by_count[0, k - 1]), abs=1e-12)


def test_looked_up_estimates_are_what_the_model_says(row: Completions, answer: Tabulated) -> None:
    """One draw of masks, once on lookup canvases and once on the real row."""

    def draw(turn: int, where: torch.Tensor) -> torch.Tensor:
        noise = torch.rand(1, TOKENS, generator=torch.Generator().manual_seed(turn), dtype=torch.float64)
        return torch.nn.functional.pad(noise, (where.shape[1] - TOKENS, 0), value=1.0)

    for estimator in (partial(sdmc, nodes=3), partial(coupled, times=torch.tensor([0.4]))):
        plan = estimator(row, draw, mask_id=masked_toy.MASK)
        with torch.no_grad():
            asked = likelihood(logits_at(masked_toy.Toy(), shift=0), plan, per="sequence")
        looked_up = estimates(estimator(canvases(TOKENS, 1), draw, mask_id=MASK), answer)
        assert float(looked_up[0]) == pytest.approx(float(asked[0, 0]), abs=1e-12)


def test_a_table_holds_one_answer() -> None:
    with pytest.raises(ValueError, match="one answer, got 2 rows"):
        tabulate(logits_at(masked_toy.Toy(), shift=0), masked_toy.rows(2, 3), mask_id=masked_toy.MASK)


@pytest.mark.parametrize("name", CONTENDERS)
@pytest.mark.parametrize("budget", BUDGETS)
def test_contenders_spend_their_budget(name: str, budget: int) -> None:
    contender = CONTENDERS[name]
    times, left = divmod(budget, contender.forwards)
    if times and not left:
        assert len(contender.plan(canvases(5, 2), generator_draw(0), times).views) == budget


@pytest.mark.parametrize("name", ["uniform_exact", "independent_elbo", "coupled_elbo", "espo", "sdmc_2_bernoulli"])
def test_unbiased_contenders_hit_the_exact_elbo(answer: Tabulated, name: str) -> None:
    mean, variance = moments(answer, (2,), draws=DRAWS, seed=0)[name]["2"]
    assert abs(mean - answer.elbo) < 4 * (variance / DRAWS) ** 0.5


def test_independent_twins_differ_from_the_coupled_ones_in_the_second_mask_alone() -> None:
    rows = canvases(6, 400)
    elbo, published = independent_elbo(rows, generator_draw(1)), coupled_independent(rows, generator_draw(1))
    for first, second in (elbo.views, published.views[1:]):
        both = (first.scored & second.scored).any(1).float().mean()
        neither = (~first.scored & ~second.scored).any(1).float().mean()
        assert float(both) > 0.3 and float(neither) > 0.3
    share = 0.5 / published.views[1].weights.amax(1).clamp(min=0.5)
    rest = 0.5 / published.views[2].weights.amax(1).clamp(min=0.5)
    drawn = published.views[1].scored.any(1) & published.views[2].scored.any(1)
    torch.testing.assert_close((share + rest)[drawn], torch.ones(int(drawn.sum()), dtype=torch.float64))


def rows_of(*pairs: tuple[tuple[float, float], tuple[float, float]]) -> list[dict[str, object]]:
    """Problems with an exact ELBO of -10 and (mean error, variance) of two estimators at 2 forwards."""
    return [
        {"elbo": -10.0, "estimates": {name: {"2": [-10 + e, v]} for name, (e, v) in zip("ab", pair, strict=True)}}
        for pair in pairs
    ]


def test_summary_by_hand() -> None:
    rows = rows_of(((1.0, 4.0), (0.0, 1.0)), ((-3.0, 12.0), (0.0, 3.0)))
    a, b = summarise(rows, draws=5)
    assert (a.bias, a.bias_se) == pytest.approx((-1.0, 2.0))
    assert a.bias_rms == pytest.approx(((1 + 9) / 2 - (4 + 12) / 2 / 4) ** 0.5)
    assert (a.std, a.rmse) == pytest.approx((8**0.5, 13**0.5))
    assert a.std_se == pytest.approx(4 / (2 * 8**0.5)) and a.rmse_se == pytest.approx(8 / (2 * 13**0.5))
    assert b.bias == 0 and b.bias_rms == 0
    (found,) = compare(rows, [("a", "b", 2)])
    assert (found.variance, found.error) == pytest.approx((4.0, 6.5))
    assert found.variance_se == pytest.approx(0.0) and found.error_se == pytest.approx(1.5 / 2)
    with pytest.raises(ValueError, match="at least 2 problems, got 1"):
        summarise(rows[:1], draws=5)


def test_ratio_and_verdict() -> None:
    value, error = ratio([1.0, 2.0, 3.0], [2.0, 2.0, 2.0])
    assert (value, error) == pytest.approx((1.0, 1 / 3**0.5 / 2))
    assert [verdict(0.5, 0.2), verdict(0.5, 0.3), verdict(1.5, 0.2)] == ["less", "even", "more"]


def test_file_continues_and_is_read_back(tmp_path: Path) -> None:
    rows = rows_of(((1.0, 4.0), (0.0, 1.0)), ((-3.0, 12.0), (0.0, 3.0)))
    path, settings = tmp_path / "estimators.json", {"draws": 5}
    summaries, comparisons = summarise(rows, 5), compare(rows, [("a", "b", 2)])
    path.write_text(document({"settings": settings, "problems": rows}, summaries, comparisons))
    assert json.loads(path.read_text())["summary"][0]["estimator"] == "a"
    assert kept(path, settings)["problems"] == rows
    assert kept(path, {"draws": 6})["problems"] == []
    assert "a " in summary_table(summaries) and "a / b" in comparison_table(comparisons)


def test_picture_places_dots_at_the_bias() -> None:
    rows = summarise(rows_of(((1.0, 4.0), (0.0, 1.0)), ((3.0, 4.0), (0.0, 1.0))), draws=5)
    drawn = picture(rows, (2,))
    dots = [float(x) for x in re.findall(r'circle cx="([\d.]+)"', drawn)]
    ends = [
        tuple(map(float, pair))
        for pair in re.findall(r'x1="([\d.]+)" x2="([\d.]+)" y1="[\d.]+" y2="[\d.]+" class="std"', drawn)
    ]
    assert dots[0] - dots[1] == pytest.approx(ends[0][1] - dots[0], abs=0.2)  # bias 2 is one standard deviation of 2
    assert ends[1][1] - ends[1][0] == pytest.approx(dots[0] - dots[1], abs=0.2)
    assert drawn.startswith('<svg xmlns="http://www.w3.org/2000/svg"') and set(LABELS) == set(CONTENDERS)
    with pytest.raises(ValueError, match="no estimator was measured at 7 forwards"):
        picture(rows, (7,))
