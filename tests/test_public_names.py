"""The names that others rely on, called in the positional orders that they were published with.

Each call is checked against a number worked out by hand or a closed form, so that a changed order cannot pass unseen.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import flowgrpo
import reward_models
import samplers
from flowgrpo.advantages import group_advantages, tree_advantages
from flowgrpo.likelihood_masked import completions, coupled, exact_elbo, keyed_draw, one_step, sdmc
from flowgrpo.ratios import guard, plain, sequence
from flowgrpo.records import Record
from flowgrpo.weights import noise_level
from samplers import KERNELS, Gaussian, Plan, sample_flow
from samplers.kernels import cps, dance_sde, euler, flow_sde
from samplers.masked import sample_masked, transfer_schedule
from samplers.plans import all_steps, branch, single_branch, window, window_start
from samplers.solvers import dpm_solver_pp

X, V = torch.tensor([[0.5, -1.0]]), torch.tensor([[2.0, 0.25]])
SIGMA, NEXT, ETA, SECOND = 0.8, 0.6, 0.5, 0.9
MASK = 3


def numbers(tensor: Tensor) -> object:
    return pytest.approx(tensor.flatten().tolist(), abs=1e-6)


def by_hand(x: float, v: float) -> dict[Callable[..., Gaussian], tuple[float, float]]:
    dt, x0, x1 = NEXT - SIGMA, x - SIGMA * v, x + (1 - SIGMA) * v
    g2 = ETA**2 * SIGMA / (1 - SIGMA)
    score = -(x - (1 - SIGMA) * x0) / SIGMA**2
    flow = x * (1 + g2 * dt / (2 * SIGMA)) + v * (1 + g2 * (1 - SIGMA) / (2 * SIGMA)) * dt
    angle = ETA * math.pi / 2
    return {
        euler: (x + v * dt, 0.0),
        flow_sde: (flow, math.sqrt(-g2 * dt)),
        dance_sde: (x + v * dt - ETA**2 * score * dt / 2, ETA * math.sqrt(-dt)),
        cps: ((1 - NEXT) * x0 + NEXT * math.cos(angle) * x1, NEXT * math.sin(angle)),
    }


ORDERS = {euler: (), flow_sde: (ETA, SECOND), dance_sde: (ETA,), cps: (ETA,)}


@pytest.mark.parametrize("kernel", ORDERS, ids=lambda kernel: kernel.__name__)
def test_kernels_take_their_positional_orders_and_ignore_further_keywords(kernel) -> None:
    rest = ORDERS[kernel]
    drawn_from = kernel(X, V, SIGMA, NEXT, *rest)
    want = [by_hand(x, v)[kernel] for x, v in zip(X[0].tolist(), V[0].tolist(), strict=True)]
    assert drawn_from.mean.flatten().tolist() == numbers(torch.tensor([mean for mean, _ in want]))
    assert drawn_from.std.expand_as(X).flatten().tolist() == numbers(torch.tensor([std for _, std in want]))
    assert kernel(X, V, SIGMA, NEXT, *rest, anything="else").mean.equal(drawn_from.mean)
    assert KERNELS[kernel.__name__] is kernel
    assert kernel(X, V, SIGMA, NEXT, eta=ETA, sigma_max=SECOND).mean.equal(drawn_from.mean)


def test_sigma_max_stands_in_only_where_sigma_is_one() -> None:
    assert flow_sde(X, V, SIGMA, NEXT, ETA, 0.2).std.equal(flow_sde(X, V, SIGMA, NEXT, ETA, 0.9).std)
    at_one = flow_sde(X, V, 1.0, NEXT, ETA, SECOND)
    assert at_one.std.item() == pytest.approx(ETA * math.sqrt((1 - NEXT) / (1 - SECOND)))


@pytest.mark.parametrize("std", [0.5, torch.tensor(0.5), torch.full((1, 1), 0.5)])
def test_gaussian_takes_any_std_that_broadcasts(std) -> None:
    gaussian = Gaussian(X, std)
    noise = torch.tensor([[1.0, -2.0]])
    x_next = gaussian.sample(noise)
    assert x_next.flatten().tolist() == numbers(X + 0.5 * noise)
    each = [-0.5 * z**2 - math.log(0.5) - 0.5 * math.log(2 * math.pi) for z in (1.0, -2.0)]
    assert gaussian.log_prob(x_next).item() == pytest.approx(sum(each) / 2, rel=1e-5)
    assert gaussian.log_prob(x_next, "sum", "gaussian").item() == pytest.approx(sum(each), rel=1e-5)
    assert gaussian.log_prob(x_next, "mean", "unscaled").item() == pytest.approx(-(0.25 + 1) / 2)


GRID = (1.0, 0.75, 0.5, 0.25, 0.0)


def test_plans_and_the_engine() -> None:
    plans = all_steps(GRID), window(GRID, 1, 2), branch(GRID, [0, 2], 3), single_branch(GRID, 2)
    assert all(isinstance(plan, Plan) for plan in plans)
    assert [plan.trained_steps for plan in plans] == [(0, 1, 2), (1, 2), (0, 1, 2), (0, 1, 2)]
    assert (
        window_start(7, steps=10, width=3, stride=2, tau=2) == 6 == window_start(99, steps=10, width=3, stride=2, tau=2)
    )
    assert window_start(99, steps=10, width=3, stride=2, tau=2, stop=5) == 2
    leaves = [len(sample_flow(lambda x, sigma, rows: 0 * x, X, plan, keys=[(0,)]).samples) for plan in plans]
    assert leaves == [1, 1, 9, 6]


def test_dpm_solver_first_order_is_euler() -> None:
    x0 = X - SIGMA * V
    assert dpm_solver_pp(X, [(SIGMA, x0)], NEXT, order=1).flatten().tolist() == numbers(X + (NEXT - SIGMA) * V)


def test_masked_sampling() -> None:
    assert transfer_schedule([5], 2).tolist() == [[3, 2]]
    ids = torch.tensor([[1, MASK, MASK]])
    filled = sample_masked(lambda ids: torch.eye(4)[[2, 1, 0]].expand(1, 3, 4), ids, mask_id=MASK, steps=2)
    assert filled.ids.tolist() == [[1, 1, 0]]


def test_advantages() -> None:
    rewards, valid = torch.tensor([1.0, 3.0, 5.0, 9.0]), torch.tensor([True, True, True, False])
    group = torch.tensor([0, 0, 1, 1])
    assert group_advantages(rewards, valid, group).tolist() == pytest.approx([-1 / 1.0001, 1 / 1.0001, 0, 0])
    leaf_of, edge_of = torch.tensor([0, 1, 2]), torch.tensor([0, 1, 0])
    values, heard = tree_advantages(
        rewards, valid, leaf_of, edge_of, step=torch.tensor([0, 0]), peers=torch.zeros(4, dtype=torch.int64)
    )
    assert values.tolist() == [0.0, 0.0] and heard.tolist() == [True, True]  # (1 + 5) / 2 equals 3


def test_ratios_and_weights() -> None:
    fields = {"log_prob": 2.0, "old_log_prob": 1.0, "length": 4.0, "std": 0.5, "eps_gap": 0.1, "old_gap": 0.2}
    record = Record(**{name: torch.full((1, 1), value) for name, value in fields.items()})
    assert plain(record).item() == pytest.approx(0.1 / 0.5 - 0.2 / (2 * 0.25))
    assert guard(record).item() == pytest.approx(0.1)
    assert sequence(record).item() == pytest.approx(0.25)
    assert noise_level(record, trained_std=torch.tensor([0.5, 0.3])).item() == pytest.approx(0.5 / 0.4)


def test_likelihoods_of_text() -> None:
    rows = completions(torch.tensor([[1, 0, 1]]), prompt_columns=1, eos_ids=())
    draw = keyed_draw([(0,)])
    assert len(one_step(rows, draw, mask_id=MASK, prompt_mask=0.0).views) == 1
    assert len(coupled(rows, draw, mask_id=MASK).views) == 3 == len(sdmc(rows, draw, mask_id=MASK).views)
    elbo = exact_elbo(lambda ids, wanted: torch.zeros(int(wanted.sum()), 4), rows, mask_id=MASK)
    assert elbo.elbo.item() == pytest.approx(-2 * math.log(4), rel=1e-5)


def test_scorers_by_name(tmp_path: Path) -> None:
    assert isinstance(reward_models.load("jpeg_compressibility", device="cpu"), reward_models.Scorer)
    names = list(inspect.signature(reward_models.load).parameters)
    assert names[:2] == ["name", "device"] and "hpsv2" in reward_models.SCORERS


def test_the_trainer_takes_a_loaded_recipe() -> None:
    loaded = flowgrpo.load_recipe("demo", ["--train.lr", "3e-4"])
    assert loaded.recipe.train.lr == 3e-4
    assert next(iter(inspect.signature(flowgrpo.Trainer).parameters)) == "recipe"
    assert next(iter(inspect.signature(flowgrpo.evaluate).parameters)) == "recipe"


def test_integrations_have_their_names() -> None:
    from samplers.diffusers_schedulers import FlowSDEScheduler
    from samplers.transformers_generate import masked_generate

    scheduler = FlowSDEScheduler.from_config(FlowSDEScheduler(shift=3.0).config, kernel="cps", eta=0.8)
    assert (scheduler.config.shift, scheduler.config.kernel, scheduler.config.eta) == (3.0, "cps", 0.8)
    assert list(inspect.signature(masked_generate).parameters)[:2] == ["model", "input_ids"]


def test_samplers_are_lazy() -> None:
    assert set(samplers.__all__) == set(dir(samplers))
