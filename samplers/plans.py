"""Plans: where the randomness of a flow rollout is, as plain values.

A ``Plan`` is a sigma grid and one ``Step`` per interval. Flow-GRPO, Flow-GRPO-Fast, MixGRPO, Flash, BranchGRPO,
TempFlow-GRPO and their mixtures are plans; the engine in ``samplers.flow`` executes any of them as a tree.
Pure Python: neither torch nor anything outside the standard library is imported.

`window_start` and `random_window_start`, which say where the window of `window` begins, are defined in
`samplers.windows` with the other rules of movement and are public here as well, beside the plan that they serve.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from samplers.windows import random_window_start, window_start

__all__ = [
    "Cost",
    "Plan",
    "SolverCost",
    "Step",
    "all_steps",
    "branch",
    "cost",
    "flash_tail",
    "random_window_start",
    "single_branch",
    "window",
    "window_start",
    "with_tail",
]


@dataclass(frozen=True, slots=True)
class SolverCost:
    """What an ODE solver needs: network forwards per step, and x0 predictions of earlier steps."""

    forwards: int
    history: int


SOLVER_COSTS: dict[str, SolverCost] = {
    "euler": SolverCost(forwards=1, history=0),
    "heun": SolverCost(forwards=2, history=0),
    "dpmpp_1": SolverCost(forwards=1, history=0),
    "dpmpp_2_midpoint": SolverCost(forwards=1, history=1),
    "dpmpp_2_heun": SolverCost(forwards=1, history=1),
    "dpmpp_3": SolverCost(forwards=1, history=2),
    "dpmpp_3_heun": SolverCost(forwards=1, history=2),
    "dpmpp_3_corrected": SolverCost(forwards=1, history=2),
}


@dataclass(frozen=True, slots=True)
class Step:
    """One interval of a plan.

    Attributes:
        kind: ``"sde"`` draws noise on live nodes, ``"ode"`` is deterministic.
        solver: ODE solver (a key of ``SOLVER_COSTS``). On an SDE step it moves the nodes that are deterministic
            there: the trunk of ``keep_trunk`` and the branches that no longer branch.
        children: stochastic children of each live node, at least 1; 1 on an ODE step.
        keep_trunk: the parent also continues by ODE and only it stays live: its stochastic children are finished
            by ODE (TempFlow-GRPO).
        trained: the stochastic edges of this step are policy-gradient units.
        split_noise: ``s`` of the correlated sibling noise (xi_0 + s xi_b) / sqrt(1 + s^2), > 0; None draws
            independent noise (BranchGRPO; the correlation of two siblings is 1 / (1 + s^2)).
    """

    kind: Literal["ode", "sde"] = "ode"
    solver: str = "euler"
    children: int = 1
    keep_trunk: bool = False
    trained: bool = False
    split_noise: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("ode", "sde"):
            raise ValueError(f"a step's kind is 'ode' or 'sde', not {self.kind!r}")
        if self.solver not in SOLVER_COSTS:
            raise ValueError(unknown_name("solver", self.solver, SOLVER_COSTS))
        if self.children < 1:
            raise ValueError(f"a step needs at least 1 child per node, got children={self.children}")
        if self.split_noise is not None and not self.split_noise > 0:
            raise ValueError(f"split_noise must be above 0 (0 makes identical siblings), got {self.split_noise}")
        if self.kind == "ode":
            self._reject_stochastic_options()

    def _reject_stochastic_options(self) -> None:
        options = {
            "children > 1": self.children > 1,
            "keep_trunk": self.keep_trunk,
            "trained": self.trained,
            "split_noise": self.split_noise is not None,
        }
        given = [name for name, is_set in options.items() if is_set]
        if given:
            raise ValueError(f"an 'ode' step draws no noise and cannot have {', '.join(given)}; use kind='sde'")


@dataclass(frozen=True, slots=True)
class Plan:
    """A sigma grid with what happens on each of its intervals.

    Attributes:
        sigmas: noise levels [T+1], strictly decreasing within [0, 1], ending in 0.
        steps: one ``Step`` per interval [T]. The last one is an ODE step: noise that is injected there would
            never be removed.

    Raises:
        ValueError: the grid or the steps break one of these rules.
    """

    sigmas: tuple[float, ...]
    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        check_grid(self.sigmas)
        if len(self.steps) != len(self.sigmas) - 1:
            raise ValueError(
                f"a grid of {len(self.sigmas)} sigmas needs {len(self.sigmas) - 1} steps, got {len(self.steps)}"
            )
        if self.steps[-1].kind == "sde":
            raise ValueError("the last step reaches sigma 0 and must be 'ode': noise drawn there is never removed")

    @property
    def trained_steps(self) -> tuple[int, ...]:
        """Indices of the steps whose stochastic edges are policy-gradient units."""
        return tuple(i for i, step in enumerate(self.steps) if step.trained)


@dataclass(frozen=True, slots=True)
class Cost:
    """What executing a plan takes, for all roots together.

    Attributes:
        forwards: velocity evaluations of the rollout (rows, not batches; guidance not counted).
        trained_forwards: distinct network inputs of trained edges; one forward and backward each per epoch.
        edges: trained stochastic transitions, the policy-gradient units.
        leaves: final samples; each is decoded and scored once.
    """

    forwards: int
    trained_forwards: int
    edges: int
    leaves: int


def unknown_name(what: str, name: object, choices: Iterable[str]) -> str:
    """Text of an error about an unknown name: the choices and the nearest match."""
    choices = list(choices)
    near = difflib.get_close_matches(str(name), choices, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {what} {name!r}, expected one of {', '.join(choices)}{hint}"


def check_grid(sigmas: Sequence[float]) -> None:
    """Raises ValueError unless ``sigmas`` is a strictly decreasing grid within [0, 1] that ends in 0."""
    if len(sigmas) < 2:
        raise ValueError(f"a sigma grid needs at least 2 values, got {len(sigmas)}")
    if not 0 < sigmas[0] <= 1 or sigmas[-1] != 0:
        raise ValueError(f"a sigma grid starts in (0, 1] and ends in 0, got {sigmas[0]} ... {sigmas[-1]}")
    for i, (left, right) in enumerate(pairwise(sigmas)):
        if not right < left:
            raise ValueError(f"a sigma grid must decrease strictly, got {left} then {right} at index {i}")


def all_steps(sigmas: Sequence[float], *, children: int = 1, solver: str = "euler") -> Plan:
    """Every step but the last is stochastic and trained; the last is an ODE step (Flow-GRPO, DanceGRPO).

    Args:
        sigmas: grid [T+1] ending in 0, T >= 2.
        children: members that share one initial noise: the fan-out of the first step.
        solver: ODE solver of the last step.

    Returns:
        Plan: T steps, T - 1 of them trained.
    """
    return window(sigmas, 0, len(sigmas) - 2, children=children, solver=solver)


def window(
    sigmas: Sequence[float],
    start: int,
    width: int,
    *,
    children: int = 1,
    solver: str = "euler",
    tail_steps: int | None = None,
) -> Plan:
    """Stochastic, trained steps in [start, start + width), ODE steps elsewhere (Flow-GRPO-Fast, MixGRPO).

    Args:
        sigmas: grid [T+1] ending in 0.
        start: first stochastic step, >= 0.
        width: number of stochastic steps, >= 1; start + width <= T - 1.
        children: members that share the prefix: the fan-out of the first stochastic step.
        solver: ODE solver outside the window.
        tail_steps: None keeps the grid. A number replaces the grid after the window by that many steps of
            DPM-Solver++ 2 midpoint (MixGRPO-Flash; the published count is ``flash_tail``).

    Returns:
        Plan: T steps, or start + width + tail_steps.

    Raises:
        ValueError: the window does not fit between step 0 and the last step.
    """
    steps = len(sigmas) - 1
    if start < 0 or width < 1 or start + width > steps - 1:
        raise ValueError(
            f"the window [{start}, {start + width}) must be non-empty and lie within [0, {steps - 1}): "
            f"the last of the {steps} steps is never stochastic"
        )
    inside = Step(kind="sde", solver=solver, trained=True)
    stochastic = (replace(inside, children=children), *[inside] * (width - 1))
    plain = Step(solver=solver)
    plan = Plan(tuple(sigmas), (*[plain] * start, *stochastic, *[plain] * (steps - start - width)))
    return plan if tail_steps is None else with_tail(plan, tail_steps)


def with_tail(plan: Plan, tail_steps: int) -> Plan:
    """Replace everything after the last stochastic step by `tail_steps` of DPM-Solver++ 2 midpoint (MixGRPO-Flash).

    Args:
        plan: any plan with a stochastic step.
        tail_steps: steps from there to sigma 0, >= 1; the published count is `flash_tail`.

    Returns:
        Plan: the same up to its last stochastic step.

    Raises:
        ValueError: no stochastic step, or no step after it.
    """
    stop = 1 + max((i for i, step in enumerate(plan.steps) if step.kind == "sde"), default=-1)
    if not stop:
        raise ValueError("a plan without a stochastic step has no tail after it")
    grid = (*plan.sigmas[:stop], *_resampled_tail(plan.sigmas, stop, tail_steps))
    return Plan(grid, (*plan.steps[:stop], *[Step(solver="dpmpp_2_midpoint")] * tail_steps))


def flash_tail(steps: int, start: int, width: int, ratio: float) -> int:
    """Steps after the window under MixGRPO-Flash: max(1, round((steps - start - width) * ratio))."""
    if not 0 < ratio <= 1:
        raise ValueError(f"the compression ratio lies in (0, 1], got {ratio}")
    return max(1, round((steps - start - width) * ratio))


def branch(
    sigmas: Sequence[float],
    splits: Collection[int],
    children: int = 2,
    *,
    split_noise: float | None = 4.0,
    sde_steps: Collection[int] | None = None,
    solver: str = "euler",
) -> Plan:
    """Tree in which every live node splits at the given steps (BranchGRPO).

    Args:
        sigmas: grid [T+1] ending in 0.
        splits: steps at which each node gets ``children`` children, each in [0, T - 2].
        children: fan-out K at a split.
        split_noise: correlation parameter s of the siblings' noise (4 in the paper); None for independent noise.
        sde_steps: further stochastic steps; None means every step but the last (BranchGRPO). A window gives
            Branch-Mix. All stochastic steps are trained.
        solver: ODE solver of the other steps.

    Returns:
        Plan: children ** len(splits) leaves per root.
    """
    steps = len(sigmas) - 1
    chosen = set(splits) | set(range(steps - 1) if sde_steps is None else sde_steps)
    _check_steps(chosen, steps)
    plain = Step(kind="sde", solver=solver, trained=True)
    split = replace(plain, children=children, split_noise=split_noise)
    kinds = [split if i in splits else plain if i in chosen else Step(solver=solver) for i in range(steps)]
    return Plan(tuple(sigmas), tuple(kinds))


def single_branch(
    sigmas: Sequence[float],
    children: int,
    *,
    steps: Collection[int] | None = None,
    solver: str = "euler",
) -> Plan:
    """ODE trunk that is explored ``children`` times at each trained step; each exploration ends by ODE (TempFlow-GRPO).

    The trunk ends at the last explored step: nothing that follows it would be trained.

    Args:
        sigmas: grid [T+1] ending in 0.
        children: explorations K per explored step.
        steps: explored steps, each in [0, T - 2]; None means all of them.
        solver: ODE solver of the trunk and of the explorations.

    Returns:
        Plan: K * len(steps) leaves per root, ordered by (step, exploration).
    """
    count = len(sigmas) - 1
    explored = set(range(count - 1) if steps is None else steps)
    _check_steps(explored, count)
    if not explored:
        raise ValueError("at least one step must be explored")
    point = Step(kind="sde", solver=solver, children=children, keep_trunk=True, trained=True)
    last = max(explored)
    kinds = [replace(point, keep_trunk=i < last) if i in explored else Step(solver=solver) for i in range(count)]
    return Plan(tuple(sigmas), tuple(kinds))


def cost(plan: Plan, roots: int) -> Cost:
    """Forwards, trained forwards, trained edges and leaves of a plan.

    Equals what a counting velocity observes, because the engine evaluates each distinct network input once.

    Args:
        plan: any plan.
        roots: number of distinct initial latents.

    Returns:
        Cost: totals over all roots.
    """
    live, done = roots, 0
    forwards = trained = edges = 0
    for step, sigma_next in zip(plan.steps, plan.sigmas[1:], strict=True):
        explored = live if step.kind == "sde" else 0
        deterministic = done + live if step.kind == "ode" or step.keep_trunk else done
        forwards += live + done + (ode_forwards(step.solver, sigma_next) - 1) * deterministic
        trained += explored * step.trained
        edges += explored * step.trained * step.children
        if step.keep_trunk:
            done += explored * step.children
        elif step.kind == "sde":
            live *= step.children
    return Cost(forwards, trained, edges, live + done)


def ode_forwards(solver: str, sigma_next: float) -> int:
    """Forwards of one ODE step; a step that reaches sigma 0 always takes one (a network is not asked at sigma 0)."""
    return SOLVER_COSTS[solver].forwards if sigma_next > 0 else 1


def _check_steps(chosen: Collection[int], steps: int) -> None:
    outside = sorted(i for i in chosen if not 0 <= i < steps - 1)
    if outside:
        raise ValueError(
            f"stochastic steps must lie in 0 ... {steps - 2} (the last step is never stochastic), got {outside}"
        )


def _resampled_tail(sigmas: Sequence[float], start: int, count: int) -> tuple[float, ...]:
    """``count`` + 1 noise levels from sigmas[start] to 0 that follow the grid's own curve.

    A shifted grid is sigma = s u / (1 + (s - 1) u) of a linear u, i.e. its odds are s times the odds of u. So s is
    interpolated between the grid's points: exact for any static or dynamic shift of a linear grid.
    """
    if count < 1:
        raise ValueError(f"the tail after the window needs at least 1 step, got {count}")
    last = len(sigmas) - 1
    points = (start + (last - start) * i / count for i in range(1, count))
    return (sigmas[start], *(_shifted_level(sigmas, point) for point in points), 0.0)


def _shifted_level(sigmas: Sequence[float], point: float) -> float:
    last = len(sigmas) - 1
    left = min(int(point), last - 1)
    shifts = [_shift_at(sigmas, i) for i in (left, left + 1)]
    shift = shifts[0] + (point - left) * (shifts[1] - shifts[0])
    u = 1 - point / last
    return shift * u / (1 + (shift - 1) * u)


def _shift_at(sigmas: Sequence[float], index: int) -> float:
    """Shift of one grid point; the two ends carry no information and take their neighbour's."""
    inner = min(max(index, 1), len(sigmas) - 2)
    u = 1 - inner / (len(sigmas) - 1)
    return sigmas[inner] / (1 - sigmas[inner]) * (1 - u) / u
