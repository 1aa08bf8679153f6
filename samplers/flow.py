"""The rollout engine: executes any plan as a tree on any velocity function.

A node is a latent at one noise level. Every distinct network input is evaluated once: a deterministic prefix is
shared by all that follows it, and siblings share their parent's velocity, in the rollout and in training. Nodes of a
level stay in depth-first order, so the leaves below an edge are a contiguous range.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from samplers.gaussian import Gaussian
from samplers.kernels import Kernel, resolve_kernel, working_dtype
from samplers.noise import keyed_noise, split_noise
from samplers.plans import SOLVER_COSTS, Plan, Step
from samplers.rollout import FlowRollout, Path, offsets, step_distribution
from samplers.solvers import SOLVERS

Velocity = Callable[[Tensor, float, Tensor], Tensor]
"""velocity(x [n, ...], sigma, rows [n]) -> v [n, ...]; ``rows`` holds the root index of each row."""

Noise = Callable[[tuple[int, ...], Sequence[int]], Tensor]
"""noise(key, shape) -> standard normal of that shape, a function of the key alone."""


@dataclass(frozen=True, slots=True)
class _Run:
    """What stays the same through a rollout."""

    velocity: Velocity
    plan: Plan
    kernel: Kernel
    eta: float
    keys: tuple[tuple[int, ...], ...]
    noise: Noise
    batch_size: int | None
    storage: torch.dtype


@dataclass(frozen=True, slots=True)
class _Nodes:
    """One level of the tree: latents [n, ...], roots [n], paths, which still branch, last trained edge, x0 history."""

    x: Tensor
    root: Tensor
    paths: tuple[Path, ...]
    live: tuple[bool, ...]
    edge: Tensor
    history: tuple[tuple[float, Tensor], ...] = ()


@dataclass(frozen=True, slots=True)
class _Children:
    """Who descends from a level: parent row, noise drawn or not, path and liveness of each child, in order."""

    parent: Tensor
    noisy: Tensor
    paths: tuple[Path, ...]
    live: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class _Visit:
    """Trace of one step: each child's parent, and for a trained step its inputs, velocities and drawn latents."""

    parent: Tensor
    rows: Tensor
    drawn: Tensor
    edge_above: Tensor
    inputs: Tensor
    velocities: Tensor
    next: Tensor
    roots: Tensor


@torch.no_grad()
def sample_flow(
    velocity: Velocity,
    x: Tensor,
    plan: Plan,
    *,
    kernel: str | Kernel = "flow_sde",
    eta: float = 0.7,
    keys: Sequence[tuple[int, ...]],
    noise: Noise = keyed_noise,
    batch_size: int | None = None,
    storage_dtype: torch.dtype | None = None,
) -> FlowRollout:
    """Execute a plan from given initial latents.

    Args:
        velocity: the network: velocity(x [n, ...], sigma, rows [n]) -> [n, ...], rows = root index of each row.
        x: initial latents at ``plan.sigmas[0]``, one per root [R, ...].
        plan: where the randomness is.
        kernel: name, import path or function of the stochastic step.
        eta: its noise strength.
        keys: one noise key per root. The noise of an edge is a function of its root's key, its path and its step,
            so it does not depend on batch size, order or rank.
        noise: the source: noise(key, shape) -> standard normal [shape], called with
            (*root key, length of the path, *path, step).
        batch_size: most rows per call of ``velocity``; None evaluates a level at once.
        storage_dtype: dtype of every latent between steps, hence of the network's input; None keeps that of x.

    Returns:
        FlowRollout: the leaves, and inputs, velocities and draws of the trained edges.

    Raises:
        ValueError: keys and latents disagree, the velocity changes the shape, or a trained step has no noise.
    """
    if not len(x):
        raise ValueError("need at least one initial latent")
    if len(keys) != len(x):
        raise ValueError(f"need one noise key per initial latent, got {len(keys)} keys for {len(x)} latents")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    storage = storage_dtype or x.dtype
    run = _Run(velocity, plan, resolve_kernel(kernel), eta, tuple(keys), noise, batch_size, storage)
    count = len(x)
    none = torch.full((count,), -1)
    nodes = _Nodes(x.to(storage), torch.arange(count), ((),) * count, (True,) * count, none)
    visits: list[_Visit] = []
    for step in range(len(plan.steps)):
        nodes, visit = _advance(run, nodes, step, sum(len(past.drawn) for past in visits))
        visits.append(visit)
    return FlowRollout(plan, kernel, eta, nodes.x, nodes.root, nodes.paths, **_collect(visits, len(nodes.root)))


def _advance(run: _Run, nodes: _Nodes, step: int, edge_count: int) -> tuple[_Nodes, _Visit]:
    kind, sigma = run.plan.steps[step], run.plan.sigmas[step]
    v = _evaluate(run, nodes.x, sigma, nodes.root)
    family = _family(nodes, kind)
    x, rows = _children_latents(run, nodes, v, family, step)
    trained = rows if kind.trained else rows[:0]
    drawn = family.noisy.nonzero().squeeze(1) if kind.trained else rows[:0]
    edge = nodes.edge[family.parent]
    visit = _Visit(
        family.parent, trained, drawn, edge[drawn], nodes.x[trained], v[trained], x[drawn], nodes.root[trained]
    )
    edge[drawn] = torch.arange(edge_count, edge_count + len(drawn))
    history = _inherited_history(run.plan, nodes, v, family.parent, step)
    return _Nodes(x, nodes.root[family.parent], family.paths, family.live, edge, history), visit


def _family(nodes: _Nodes, kind: Step) -> _Children:
    """Children of a level, parents in order; a trunk follows its explorations, so order stays depth first."""
    forks = kind.children > 1 or kind.keep_trunk
    members: list[tuple[int, bool, Path, bool]] = []
    for row, (path, live) in enumerate(zip(nodes.paths, nodes.live, strict=True)):
        if kind.kind == "ode" or not live:
            members.append((row, False, path, live))
            continue
        for child in range(kind.children):
            members.append((row, True, (*path, child) if forks else path, not kind.keep_trunk))
        if kind.keep_trunk:
            members.append((row, False, (*path, kind.children), True))
    parent, noisy, paths, lives = zip(*members, strict=True)
    return _Children(torch.tensor(parent), torch.tensor(noisy), paths, lives)


def _children_latents(run: _Run, nodes: _Nodes, v: Tensor, family: _Children, step: int) -> tuple[Tensor, Tensor]:
    """Latents of all children in the storage dtype, and the rows of the level that drew noise."""
    x = nodes.x.new_empty((len(family.paths), *nodes.x.shape[1:]))
    still = (~family.noisy).nonzero().squeeze(1)
    if len(still):
        x[still] = _ode_step(run, nodes, v, family.parent[still], step).to(run.storage)
    drawn = family.noisy.nonzero().squeeze(1)
    rows, position = family.parent[drawn].unique(return_inverse=True)
    if len(rows):
        steps = torch.full((len(rows),), step)
        drawn_from = step_distribution(run.kernel, nodes.x[rows], v[rows], run.plan, steps, run.eta)
        _require_noise(run, drawn_from, step)
        gaussian = Gaussian(drawn_from.mean[position], drawn_from.std[position])
        noise = _edge_noise(run, nodes, family, drawn, step).to(x.device)
        x[drawn] = gaussian.sample(noise).to(run.storage)
    return x, rows


def _ode_step(run: _Run, nodes: _Nodes, v: Tensor, rows: Tensor, step: int) -> Tensor:
    sigma, sigma_next = run.plan.sigmas[step : step + 2]
    dtype = working_dtype(nodes.x.dtype, v.dtype)

    def evaluate(x: Tensor, level: float) -> Tensor:
        return _evaluate(run, x.to(run.storage), level, nodes.root[rows]).to(dtype)

    history = tuple((level, x0[rows]) for level, x0 in nodes.history)
    solver = SOLVERS[run.plan.steps[step].solver]
    x, v = nodes.x[rows].to(dtype), v[rows].to(dtype)
    return solver(x, v, sigma, sigma_next, evaluate=evaluate, history=history, step=step, steps=len(run.plan.steps))


def _evaluate(run: _Run, x: Tensor, sigma: float, roots: Tensor) -> Tensor:
    """Velocity of all rows, in chunks of ``batch_size``."""
    size = run.batch_size or len(x)
    parts = [run.velocity(x[i : i + size], sigma, roots[i : i + size].to(x.device)) for i in range(0, len(x), size)]
    v = parts[0] if len(parts) == 1 else torch.cat(parts)
    if v.shape != x.shape:
        raise ValueError(f"velocity must keep the shape of its input {tuple(x.shape)}, got {tuple(v.shape)}")
    return v


def _require_noise(run: _Run, drawn_from: Gaussian, step: int) -> None:
    if run.plan.steps[step].trained and not bool((drawn_from.std > 0).all()):
        raise ValueError(
            f"step {step} is trained but its kernel has no noise there (eta={run.eta}): a deterministic step has no "
            "density; raise eta or use a plan without trained steps"
        )


def _edge_noise(run: _Run, nodes: _Nodes, family: _Children, drawn: Tensor, step: int) -> Tensor:
    """Noise [d, ...] of the drawn children, each keyed by (root key, path, step)."""
    kind = run.plan.steps[step]
    # An only child has no sibling to correlate with; its path is its parent's, and so would be both its noises.
    strength = kind.split_noise if kind.children > 1 else None
    shape = nodes.x.shape[1:]

    def keyed(row: int, path: Path) -> Tensor:
        # The path's length keeps a longer root key and a longer path apart.
        return run.noise((*run.keys[int(nodes.root[row])], len(path), *path, step), shape)

    noise = []
    for child in drawn.tolist():
        row = int(family.parent[child])
        own = keyed(row, family.paths[child])
        noise.append(own if strength is None else split_noise(keyed(row, nodes.paths[row]), own, strength))
    return torch.stack(noise)


def _inherited_history(
    plan: Plan, nodes: _Nodes, v: Tensor, parent: Tensor, step: int
) -> tuple[tuple[float, Tensor], ...]:
    """x0 predictions, newest first, that later multistep solvers will ask for; every earlier step counts."""
    wanted = max((SOLVER_COSTS[later.solver].history for later in plan.steps[step + 1 :]), default=0)
    if not wanted:
        return ()
    dtype = working_dtype(nodes.x.dtype, v.dtype)
    sigma = plan.sigmas[step]
    newest = (sigma, nodes.x.to(dtype) - sigma * v.to(dtype))
    return tuple((level, x0[parent]) for level, x0 in (newest, *nodes.history)[:wanted])


def _collect(visits: Sequence[_Visit], leaves: int) -> dict[str, Any]:
    """Order inputs and edges by (first leaf below, step) and link them."""
    ranges = _leaf_ranges([visit.parent for visit in visits], leaves)
    below = torch.cat([ends[visit.drawn] for visit, (_, ends) in zip(visits, pairwise(ranges), strict=True)])
    first_leaf = torch.cat([starts[visit.rows, 0] for visit, starts in zip(visits, ranges, strict=False)])
    edge_step = _steps_of([visit.drawn for visit in visits])
    input_step = _steps_of([visit.rows for visit in visits])
    input_order = (first_leaf * len(visits) + input_step).argsort()
    edge_order = (below[:, 0] * len(visits) + edge_step).argsort()
    edge_rank = torch.cat([edge_order.argsort(), torch.tensor([-1])])  # index -1 (no edge) stays -1
    return {
        "inputs": torch.cat([visit.inputs for visit in visits])[input_order],
        "velocities": torch.cat([visit.velocities for visit in visits])[input_order],
        "input_root": torch.cat([visit.roots for visit in visits])[input_order],
        "input_step": input_step[input_order],
        "next": torch.cat([visit.next for visit in visits])[edge_order],
        "edge_input": input_order.argsort()[_inputs_of_edges(visits)][edge_order],
        "edge_step": edge_step[edge_order],
        "edge_leaves": below[edge_order],
        "edge_parent": edge_rank[torch.cat([visit.edge_above for visit in visits])][edge_order],
    }


def _leaf_ranges(parents: Sequence[Tensor], leaves: int) -> list[Tensor]:
    """Half-open leaf range of every node, level by level [T+1 x [n, 2]]."""
    start = torch.arange(leaves)
    ranges = [torch.stack([start, start + 1], 1)]
    for parent in reversed(parents):
        fan_out = torch.bincount(parent)
        last = fan_out.cumsum(0) - 1
        ranges.append(torch.stack([ranges[-1][last + 1 - fan_out, 0], ranges[-1][last, 1]], 1))
    return ranges[::-1]


def _steps_of(rows: Sequence[Tensor]) -> Tensor:
    return torch.cat([torch.full((len(row),), step) for step, row in enumerate(rows)])


def _inputs_of_edges(visits: Sequence[_Visit]) -> Tensor:
    """Index, in order of creation, of the input that each edge starts from."""
    starts = offsets([len(visit.rows) for visit in visits])
    return torch.cat(
        [
            torch.searchsorted(visit.rows, visit.parent[visit.drawn]) + start
            for visit, start in zip(visits, starts, strict=True)
        ]
    )
