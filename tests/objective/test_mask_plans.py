"""Mask plans: what views show, whose masks they are, and the mean of every estimator against the exact ELBO.

Noise-free where possible: the expectation of an estimator over its masks is computed from all masks, not sampled.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import combinations, permutations
from typing import Any

import pytest
import torch
from masked_toy import EOS, KEYS, MASK, PROMPT, REQUIRED, Toy, estimators, one_row, plan_of, rows
from torch import Tensor

from flowgrpo.likelihood_masked import exact_elbo, likelihood, logits_at
from flowgrpo.mask_plans import ESTIMATORS, FORMS, coupled, coupled_elbo, espo, gauss_legendre, one_step, sdmc, uniform
from flowgrpo.views import Completions, MaskPlan, completions, keyed_draw


def test_scored_up_to_and_including_the_first_end_token() -> None:
    ids = torch.tensor([[1, 0, 2, 3, 0, 0], [1, 0, 2, 3, 4, 5]])
    given = completions(ids, prompt_columns=2, eos_ids=(EOS, 5))
    assert given.length.tolist() == [3, 4]  # an end token in the prompt does not count
    assert given.scored[0].tolist() == [False, False, True, True, True, False]
    assert completions(ids, prompt_columns=2, eos_ids=()).length.tolist() == [4, 4]


@estimators
def test_views_of_every_estimator(name: str) -> None:
    """What is scored is masked, belongs to the answer, and its target is the token; all else is shown as it is."""
    given = rows()
    for view in plan_of(name, given).views:
        assert bool((view.inputs[view.scored] == MASK).all())
        assert not bool((view.scored & ~given.scored).any())
        assert torch.equal(view.targets, given.ids)
        shown = view.inputs != MASK
        assert torch.equal(view.inputs[shown], given.ids[shown])
        assert bool((view.weights[view.scored] > 0).all()) and not bool(view.weights[~view.scored].any())


@pytest.mark.parametrize("name", sorted(set(ESTIMATORS) - {"one_step", "coupled"}))
def test_tokens_after_the_end_are_clean_or_masked_in_every_view(name: str) -> None:
    ids = rows().ids
    for tail in ("clean", "masked"):
        given = completions(ids, prompt_columns=PROMPT, eos_ids=(EOS,), tail=tail)
        after = given.completion & ~given.scored
        assert after.any()
        for view in plan_of(name, given).views:
            assert bool(((view.inputs == MASK) == (tail == "masked"))[after].all())


def test_one_step_masks_the_whole_completion_and_some_of_the_prompt() -> None:
    padded = torch.ones(4, PROMPT, dtype=torch.long)
    padded[:, 0] = 0
    given = completions(rows().ids, prompt_columns=PROMPT, eos_ids=(EOS,), attention_mask=padded)
    draw = keyed_draw(KEYS)
    for probability, hidden in ((0.0, 0), (1.0, 8)):  # two real prompt tokens in each of four rows
        (view,) = one_step(given, draw, mask_id=MASK, prompt_mask=probability).views
        assert bool((view.inputs[:, PROMPT:] == MASK).all())
        assert int((view.inputs[:, :PROMPT] == MASK).sum()) == hidden
    shares = [
        (one_step(rows(), keyed_draw([(i, j) for j in range(4)]), mask_id=MASK, prompt_mask=0.3).views[0].inputs)
        for i in range(200)
    ]
    hidden_share = (torch.stack(shares)[:, :, :PROMPT] == MASK).double().mean().item()
    assert hidden_share == pytest.approx(0.3, abs=0.04)  # 4 sigma of 2400 coins


def test_coupled_masks_are_complementary_and_weigh_each_token_twice() -> None:
    given = rows()
    times = torch.tensor([0.25, 0.4, 0.5, 0.75], dtype=torch.float64)
    whole, first, second = coupled(given, keyed_draw(KEYS), mask_id=MASK, times=times).views
    assert torch.equal(first.scored | second.scored, given.scored)
    assert not bool((first.scored & second.scored).any())
    share = times.unsqueeze(1)
    pair = torch.where(first.scored, 0.5 / share, 0.5 / (1 - share)) * given.scored
    torch.testing.assert_close(first.weights + second.weights, pair)
    torch.testing.assert_close(whole.weights, 0.5 * given.scored.double())


def test_times_of_coupled_lie_in_their_range() -> None:
    given = rows(4, 6)
    for key in range(30):
        _, first, _ = coupled(given, keyed_draw([(key, j) for j in range(4)]), mask_id=MASK).views
        weights = first.weights[first.scored]
        assert bool(((weights > 0.5 / 0.8) & (weights < 0.5 / 0.2)).all())


def test_masks_belong_to_keys_not_to_batches_or_padding() -> None:
    given = rows()
    for name in ESTIMATORS:
        whole = plan_of(name, given)
        order = [2, 0]
        fewer = completions(given.ids[order], prompt_columns=PROMPT, eos_ids=(EOS,))
        options = REQUIRED.get(name, {})
        part = ESTIMATORS[name](fewer, keyed_draw([KEYS[i] for i in order]), mask_id=MASK, **options)
        wider_ids = torch.nn.functional.pad(given.ids, (2, 0), value=EOS)
        attention = torch.nn.functional.pad(torch.ones(4, PROMPT), (2, 0))
        wider = completions(wider_ids, prompt_columns=PROMPT + 2, eos_ids=(EOS,), attention_mask=attention)
        padded = plan_of(name, wider)
        for view, other, moved in zip(whole.views, part.views, padded.views, strict=True):
            assert torch.equal(view.inputs[order], other.inputs) and torch.equal(view.weights[order], other.weights)
            assert torch.equal(view.inputs, moved.inputs[:, 2:]) and torch.equal(view.weights, moved.weights[:, 2:])
    again, other = plan_of("sdmc", given), sdmc(given, keyed_draw([(6, 1, s) for s in range(4)]), mask_id=MASK)
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(plan_of("sdmc", given).views, again.views, strict=True))
    assert any(not torch.equal(a.inputs, b.inputs) for a, b in zip(again.views, other.views, strict=True))


def test_parts_of_a_plan_are_the_plan_of_the_parts() -> None:
    model, plan = Toy(), plan_of("sdmc", rows())
    logits_fn = logits_at(model, shift=0)
    whole = likelihood(logits_fn, plan, per="token")
    halves = [likelihood(logits_fn, plan.rows(part), per="token") for part in (slice(0, 1), torch.tensor([1, 2, 3]))]
    torch.testing.assert_close(torch.cat(halves), whole, rtol=1e-12, atol=1e-12)


# --- unbiasedness, by enumeration -------------------------------------------------------------------------------------


def test_exact_elbo_is_the_mean_over_orders_of_guessing_one_by_one() -> None:
    """The any-order form: mean over all permutations of the sum of log p(next | those before)."""
    given, model = one_row(4), Toy()
    total = 0.0
    with torch.no_grad():
        for order in permutations(range(PROMPT, PROMPT + 4)):
            ids = given.ids.clone()
            ids[0, PROMPT:] = MASK
            for place in order:
                total += torch.log_softmax(model(ids)[0, place], 0)[given.ids[0, place]].item()
                ids[0, place] = given.ids[0, place]
        exact = exact_elbo(logits_at(model, shift=0), given, mask_id=MASK)
    assert exact.elbo.item() == pytest.approx(total / 24, rel=1e-12)
    profile = exact.by_count[0]
    assert exact.elbo.item() == pytest.approx(sum(h.item() / (k + 1) for k, h in enumerate(profile)), rel=1e-12)


def test_exact_elbo_of_rows_of_unequal_length() -> None:
    given, logits_fn = rows(3, 5), logits_at(Toy(), shift=0)
    with torch.no_grad():
        together = exact_elbo(logits_fn, given, mask_id=MASK, batch=7)
        for row in range(3):
            alone = exact_elbo(
                logits_fn, completions(given.ids[[row]], prompt_columns=PROMPT, eos_ids=(EOS,)), mask_id=MASK
            )
            torch.testing.assert_close(together.elbo[row], alone.elbo[0], rtol=1e-12, atol=0)
            assert int(together.by_count[row].isfinite().sum()) == int(given.length[row])


def expected(plan: Callable[[Any], MaskPlan], noises: list[Any], logits_fn: Any) -> float:
    """Mean of an estimator over equally likely noises."""
    with torch.no_grad():
        return sum(likelihood(logits_fn, plan(noise), per="sequence").item() for noise in noises) / len(noises)


def masks_of(tokens: int, count: int) -> list[Tensor]:
    """Noise whose `count` lowest positions are each subset in turn."""
    noises = []
    for subset in combinations(range(tokens), count):
        noise = torch.full((1, PROMPT + tokens), 0.9, dtype=torch.float64)
        noise[0, [PROMPT + place for place in subset]] = 0.1
        noises.append(noise)
    return noises


def test_complementary_pairs_are_unbiased() -> None:
    """All counts k = 0 ... n, all masks of each: the mean of either pair is the exact ELBO."""
    given, logits_fn, tokens = one_row(), logits_at(Toy(), shift=0), 5
    exact = exact_elbo(logits_fn, given, mask_id=MASK).elbo.item()
    by_count, by_time = [], []
    for count in range(tokens + 1):
        share = torch.tensor([[(count + 0.5) / (tokens + 1)]], dtype=torch.float64)
        masks = masks_of(tokens, count)
        for function, means in ((espo, by_count), (coupled_elbo, by_time)):
            middle = torch.tensor([[0.5]], dtype=torch.float64) if function is coupled_elbo else share

            def plan(noise: Tensor, function: Any = function, middle: Tensor = middle) -> MaskPlan:
                return function(given, lambda turn, where: noise if turn else middle, mask_id=MASK)

            means.append(expected(plan, masks, logits_fn))
    assert sum(by_count) / (tokens + 1) == pytest.approx(exact, rel=1e-12)
    assert sum(by_time) / (tokens + 1) == pytest.approx(exact, rel=1e-12)  # k is uniform for uniform t


def test_several_espo_pairs_spread_their_counts_and_average() -> None:
    given, draw = rows(1, 5), keyed_draw(KEYS[:1])
    counts = [int(view.scored.sum()) for view in espo(given, draw, mask_id=MASK, pairs=3).views[::2]]
    assert sorted((count - counts[0]) % 6 for count in counts) == [0, 2, 4]
    halves = [
        espo(given, lambda turn, where: draw(0 if turn == 0 else 1, where), mask_id=MASK, pairs=n) for n in (1, 2)
    ]
    assert halves[0].views[0].weights.max() == 2 * halves[1].views[0].weights.max()


@pytest.mark.parametrize("tokens", [3, 5])
def test_sdmc_with_independent_masks_is_exact_from_half_as_many_nodes(tokens: int) -> None:
    """Given t the mean over masks is a polynomial of degree n - 1, which N >= n / 2 nodes integrate exactly."""
    given, logits_fn = one_row(tokens), logits_at(Toy(), shift=0)
    profile = exact_elbo(logits_fn, given, mask_id=MASK)
    nodes = math.ceil(tokens / 2)
    for count in (nodes, nodes + 2):
        mean = sum(weight * bernoulli_mean(given, time, logits_fn) for time, weight in gauss_legendre(count))
        assert mean == pytest.approx(profile.elbo.item(), rel=1e-10)
    if nodes > 1:
        mean = sum(weight * bernoulli_mean(given, time, logits_fn) for time, weight in gauss_legendre(1))
        assert abs(mean / profile.elbo.item() - 1) > 1e-5


def bernoulli_mean(given: Completions, time: float, logits_fn: Any) -> float:
    """Mean over all masks, each with its probability, of the estimate at one time."""
    tokens, total = int(given.length), 0.0
    for count in range(1, tokens + 1):
        masks = masks_of(tokens, count)
        scaled = [torch.where(noise < 0.5, time / 2, (1 + time) / 2) for noise in masks]

        def plan(noise: Tensor) -> MaskPlan:
            quadrature = ((time, 1.0),)
            return sdmc(given, lambda turn, where: noise, mask_id=MASK, nodes=quadrature, form="bernoulli")

        share = len(masks) * time**count * (1 - time) ** (tokens - count)
        total += share * expected(plan, scaled, logits_fn)
    return total


def test_exact_counts_estimate_better_than_the_ports_form() -> None:
    """Given k the mean is coefficient * H_k, so that the bias of either form follows from the exact profile."""
    given, logits_fn = one_row(6), logits_at(Toy(), shift=0)
    exact = exact_elbo(logits_fn, given, mask_id=MASK)
    bias = {}
    for form in ("exact", "floor"):
        total = 0.0
        for time, weight in gauss_legendre(3):
            moment = torch.tensor([time], dtype=torch.float64)
            masked, coefficient = FORMS[form](given, torch.rand(1, PROMPT + 6, dtype=torch.float64), moment)
            total += weight * float(coefficient) * exact.by_count[0, int(masked.sum()) - 1].item()
        bias[form] = abs(total / exact.elbo.item() - 1)
    assert bias["exact"] < 0.02 < bias["floor"]


def test_exact_counts_give_every_count_its_part_of_the_time_axis() -> None:
    """The midpoint rule on n equal parts visits k = 1 ... n once each: unbiased for any n."""
    given, logits_fn = one_row(), logits_at(Toy(), shift=0)
    midpoints = tuple(((k + 0.5) / 5, 1 / 5) for k in range(5))
    views = sdmc(given, keyed_draw(KEYS[:1]), mask_id=MASK, nodes=midpoints).views
    assert [int(view.scored.sum()) for view in views] == [1, 2, 3, 4, 5]
    exact = exact_elbo(logits_fn, given, mask_id=MASK)
    weighted = sum(view.weights.max().item() * exact.by_count[0, k].item() for k, view in enumerate(views))
    assert weighted == pytest.approx(exact.elbo.item(), rel=1e-12)


def test_masks_of_a_node_share_its_weight() -> None:
    views = sdmc(rows(1, 6), keyed_draw(KEYS[:1]), mask_id=MASK, nodes=2, masks=3).views
    assert len(views) == 6 and len({tuple(view.inputs[0].tolist()) for view in views[:3]}) > 1
    assert [int(view.scored.sum()) for view in views] == [2] * 3 + [5] * 3
    assert views[0].weights.max().item() == pytest.approx(0.5 / 3 * 6 / 2)
    floor = sdmc(rows(1, 6), keyed_draw(KEYS[:1]), mask_id=MASK, nodes=2, form="floor").views
    assert [int(view.scored.sum()) for view in floor] == [1, 4]
    assert floor[1].weights.max().item() == pytest.approx(0.5 / ((1 + 3**-0.5) / 2))


SAMPLED = {
    "coupled_elbo": coupled_elbo,
    "espo": partial(espo, pairs=2),
    "uniform": partial(uniform, draws=2),
    "uniform_exact": partial(uniform, draws=2, form="exact"),
}


@pytest.mark.parametrize("name", SAMPLED)
def test_sampled_estimates_average_to_the_exact_elbo(name: str) -> None:
    """3000 keyed draws; within 4 standard errors, which are below 3 % of the ELBO."""
    tokens, draws = 5, 3000
    given, logits_fn = one_row(tokens), logits_at(Toy(), shift=0)
    many = completions(given.ids.expand(draws, -1), prompt_columns=PROMPT, eos_ids=(EOS,))
    with torch.no_grad():
        exact = exact_elbo(logits_fn, given, mask_id=MASK).elbo.item()
        plan = SAMPLED[name](many, keyed_draw([(9, i) for i in range(draws)]), mask_id=MASK)
        values = likelihood(logits_fn, plan, per="sequence").flatten()
    error = values.std().item() / draws**0.5
    assert error < 0.03 * abs(exact)
    assert abs(values.mean().item() - exact) < 4 * error


def test_every_part_of_a_key_and_the_turn_change_the_noise() -> None:
    keys = [(5, 1, 0), (5, 1, 1), (5, 2, 0), (6, 1, 0)]
    draw, where = keyed_draw(keys), torch.ones(4, 40, dtype=torch.bool)
    where[:, ::3] = False
    noise = torch.cat([draw(turn, where) for turn in (0, 1)])
    assert len({tuple(row) for row in noise.tolist()}) == 8
    assert bool((noise[:, ::3] == 1).all())
    inside = noise[:, where[0]]
    assert bool(((inside > 0) & (inside < 1)).all())
    assert inside.mean().item() == pytest.approx(0.5, abs=0.08)  # 4 sigma of 208 uniform draws
