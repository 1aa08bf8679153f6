"""Plans are values: what they say, what they refuse, what they cost."""

from __future__ import annotations

import subprocess
import sys

import pytest

from samplers.plans import (
    Cost,
    Plan,
    Step,
    all_steps,
    branch,
    cost,
    flash_tail,
    random_window_start,
    single_branch,
    window,
    window_start,
)


def linear(steps: int) -> tuple[float, ...]:
    return (*(1 - i / steps for i in range(steps)), 0.0)


def shifted(steps: int, shift: float) -> tuple[float, ...]:
    return tuple(shift * u / (1 + (shift - 1) * u) for u in linear(steps))


def kinds(plan: Plan) -> str:
    return "".join("S" if step.kind == "sde" else "o" for step in plan.steps)


def test_all_steps_and_window_place_the_noise() -> None:
    assert kinds(all_steps(linear(5))) == "SSSSo"
    assert kinds(window(linear(6), 1, 3)) == "oSSSoo"
    assert window(linear(6), 1, 3).trained_steps == (1, 2, 3)
    assert [step.children for step in window(linear(6), 1, 3, children=4).steps] == [1, 4, 1, 1, 1, 1]


@pytest.mark.parametrize(("start", "width"), [(-1, 2), (0, 0), (4, 2), (5, 1), (0, 6)])
def test_window_must_lie_before_the_last_step(start: int, width: int) -> None:
    with pytest.raises(ValueError, match="last of the 6 steps is never stochastic"):
        window(linear(6), start, width)


@pytest.mark.parametrize("shift", [1.0, 3.0, 0.5])
def test_flash_tail_follows_a_shifted_grid_exactly(shift: float) -> None:
    """u goes on linearly from the end of the window (u = 1 - 4/25) to 0 in n steps, then the shift is applied."""
    plan = window(shifted(25, shift), 0, 4, tail_steps=8)
    assert plan.sigmas[:5] == shifted(25, shift)[:5]
    u = [(1 - 4 / 25) * (1 - i / 8) for i in range(9)]
    assert plan.sigmas[4:] == pytest.approx([shift * level / (1 + (shift - 1) * level) for level in u], rel=1e-12)
    assert [step.solver for step in plan.steps] == ["euler"] * 4 + ["dpmpp_2_midpoint"] * 8


def test_flash_tail_counts_steps() -> None:
    assert flash_tail(25, 0, 4, 0.4) == 8  # round(21 * 0.4) = round(8.4)
    assert flash_tail(10, 5, 4, 0.4) == 1
    with pytest.raises(ValueError, match="compression ratio"):
        flash_tail(25, 0, 4, 0.0)


def test_window_start_moves_by_stride_and_stays_full() -> None:
    starts = [window_start(k, steps=10, width=4, stride=1, tau=3) for k in range(24)]
    assert starts == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3 + [5] * 9
    assert window_start(1000, steps=10, width=2, stride=3, tau=1, stop=6) == 4
    assert window_start(1000, steps=10, width=2, stride=0, tau=1) == 0
    with pytest.raises(ValueError, match="does not fit"):
        window_start(0, steps=4, width=4, stride=1, tau=1)


def test_random_window_start_covers_the_range_and_depends_on_seed_and_iteration_alone() -> None:
    draws = [random_window_start(3, k, width=2, low=1, high=6) for k in range(400)]
    assert set(draws) == {1, 2, 3, 4}
    assert min(draws.count(start) for start in (1, 2, 3, 4)) > 70  # 100 expected, standard deviation 9
    assert draws == [random_window_start(3, k, width=2, low=1, high=6) for k in range(400)]
    assert draws != [random_window_start(4, k, width=2, low=1, high=6) for k in range(400)]


def test_published_tree_costs() -> None:
    """BranchGRPO, T = 20, K = 2: 203 forwards of the split schedule (0, 3, 6, 9), of which the last step's 16 are ODE.

    Edges: 218 in the paper count the last step's 16 too, which is never stochastic here. TempFlow, T = 10, N = 4,
    K = 6: 1116 sampling forwards, 216 trained edges on 36 distinct inputs.
    """
    tree = cost(branch(linear(20), [0, 3, 6, 9]), roots=1)
    assert tree == Cost(forwards=203, trained_forwards=203 - 16, edges=218 - 16, leaves=16)
    assert cost(branch(linear(20), [0, 4, 8, 12]), roots=1).forwards == 169
    assert cost(single_branch(linear(10), 6), roots=4) == Cost(1116, 36, 216, 216)


def test_chain_costs() -> None:
    assert cost(all_steps(linear(10)), roots=8) == Cost(80, 72, 72, 8)
    # one shared prefix of 3 steps, then 24 members for 2 SDE steps (the first from the shared input) and 5 ODE steps
    assert cost(window(linear(10), 3, 2, children=24), roots=1) == Cost(4 + 6 * 24, 1 + 24, 48, 24)
    # Heun: 2 forwards on each ODE step but the one that reaches sigma 0
    assert cost(window(linear(6), 1, 2, solver="heun"), roots=1) == Cost(2 + 2 + 4 + 1, 2, 2, 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Plan((1.0, 0.5), (Step(),)), "ends in 0"),
        (lambda: Plan((1.5, 0.0), (Step(),)), "starts in"),
        (lambda: Plan((1.0, 0.5, 0.5, 0.0), (Step(),) * 3), "decrease strictly, got 0.5 then 0.5 at index 1"),
        (lambda: Plan((0.0,), ()), "at least 2 values"),
        (lambda: Plan((1.0, 0.5, 0.0), (Step(),)), "needs 2 steps, got 1"),
        (lambda: Plan((1.0, 0.0), (Step(kind="sde"),)), "must be 'ode'"),
        (lambda: Step(trained=True), "cannot have trained"),
        (lambda: Step(keep_trunk=True, children=2), "cannot have children > 1, keep_trunk"),
        (lambda: Step(kind="sde", children=0), "at least 1 child"),
        (lambda: Step(kind="sde", split_noise=0.0), "identical siblings"),
        (lambda: Step(solver="huen"), "did you mean 'heun'"),
        (lambda: Step(kind="sdee"), "'ode' or 'sde'"),  # type: ignore[arg-type]
        (lambda: branch(linear(4), [3]), r"must lie in 0 ... 2 .*got \[3\]"),
        (lambda: single_branch(linear(4), 2, steps=[]), "at least one step"),
        (lambda: window(linear(4), 0, 1, tail_steps=0), "at least 1 step"),
        (lambda: window_start(0, steps=9, width=2, stride=1, tau=0), "tau >= 1"),
    ],
)
def test_impossible_plans_say_what_is_wrong(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


IMPORTS = """
import sys
for blocked in {blocked}:
    sys.modules[blocked] = None
import {modules}
"""


@pytest.mark.parametrize(
    ("modules", "needs"),
    [
        ("samplers, samplers.plans", ["numpy", "torch"]),
        ("samplers.flow, samplers.sigmas, samplers.solvers, samplers.noise, samplers.rollout", []),
    ],
    ids=["plans-pure-python", "the-rest-torch-alone"],
)
def test_samplers_import_with_torch_alone_and_plans_without_it(modules: str, needs: list[str]) -> None:
    blocked = ["diffusers", "transformers", "flowgrpo", "reward_models", "scipy", *needs]
    code = IMPORTS.format(blocked=blocked, modules=modules)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_exported_name_exists() -> None:
    import samplers

    assert all(getattr(samplers, name) is not None for name in samplers.__all__)
    assert set(samplers.__all__) == set(dir(samplers))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        samplers.nonsense  # noqa: B018
