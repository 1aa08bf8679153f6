"""What a rollout drew, and its replay: the trained edges under new velocities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from samplers.gaussian import Gaussian
from samplers.kernels import Kernel, resolve_kernel, working_dtype
from samplers.plans import Plan

Path = tuple[int, ...]
LATENTS = ("samples", "inputs", "velocities", "next")
"""Fields of a rollout that hold latents: the bulk of it."""


@dataclass(frozen=True, slots=True)
class FlowRollout:
    """What a rollout drew and what training needs to replay it. Index tensors are int64 on the CPU.

    Inputs and edges are ordered by (first leaf below, step). Where every leaf has its own S edges (chains, and
    groups that fan out at their first stochastic step), a [B, S] view of the edges is a plain reshape.

    Attributes:
        plan: the plan that was executed.
        kernel: kernel of the stochastic steps, as given.
        eta: its noise strength.
        samples: final latents, one per leaf [N, ...], in the storage dtype.
        sample_root: root index of each leaf [N].
        sample_path: child index at each branching on the way to the leaf; a trunk's index follows its children's.
        inputs: distinct network inputs of trained edges [M, ...], in the storage dtype.
        velocities: velocity of each input, as computed in the rollout [M, ...].
        input_root: root index of each input [M].
        input_step: step of each input [M].
        next: drawn latent of each trained edge [E, ...], in the storage dtype: what is stored is what is replayed.
        edge_input: input that each edge starts from [E].
        edge_step: step of each edge [E].
        edge_leaves: half-open range of the leaves below each edge [E, 2].
        edge_parent: nearest trained edge above each edge, -1 where there is none [E].
    """

    plan: Plan
    kernel: str | Kernel
    eta: float
    samples: Tensor
    sample_root: Tensor
    sample_path: tuple[Path, ...]
    inputs: Tensor
    velocities: Tensor
    input_root: Tensor
    input_step: Tensor
    next: Tensor
    edge_input: Tensor
    edge_step: Tensor
    edge_leaves: Tensor
    edge_parent: Tensor

    def to(self, device: torch.device | str) -> FlowRollout:
        """The same rollout with its latents on a device; the index tensors stay on the CPU."""
        latents: dict[str, Any] = {name: getattr(self, name).to(device) for name in LATENTS}
        return replace(self, **latents)

    @property
    def unit_shape(self) -> tuple[int, int]:
        """(B, S) such that ``next.reshape(B, S, ...)`` has one row per leaf, or (E, 1) where leaves share edges."""
        edges, leaves = len(self.edge_step), len(self.sample_root)
        own = bool((self.edge_leaves[:, 1] - self.edge_leaves[:, 0] == 1).all())
        even = own and len(set(torch.bincount(self.edge_leaves[:, 0], minlength=leaves).tolist())) == 1
        return (leaves, edges // leaves) if even else (edges, 1)


@dataclass(frozen=True, slots=True)
class Transition:
    """The trained edges of some inputs with their distribution under given velocities.

    Attributes:
        edges: indices into the rollout's edges, increasing [e].
        rows: position of each edge's input in the micro-batch [e].
        gaussian: mean [e, ...] and std [e, 1, ...] of each edge.
        x_next: what was drawn [e, ...], in the storage dtype.
        dt: sigma_next - sigma < 0 of each edge, float32 [e].
    """

    edges: Tensor
    rows: Tensor
    gaussian: Gaussian
    x_next: Tensor
    dt: Tensor


def transition(rollout: FlowRollout, v: Tensor, inputs: Tensor) -> Transition:
    """Distribution of the trained edges of some inputs under new velocities.

    One velocity serves all edges of its input, so K siblings cost one forward and one backward. With the rollout's
    own velocities the result is bit-identical to what the rollout drew from.

    Args:
        rollout: the rollout.
        v: velocity of each given input [m, ...]; the result is where it is, wherever the rollout's latents are.
        inputs: distinct input indices [m], in any order.

    Returns:
        Transition: all edges of these inputs.
    """
    inputs = inputs.cpu()
    position = torch.full((len(rollout.input_step),), -1)
    position[inputs] = torch.arange(len(inputs))
    rows = position[rollout.edge_input]
    edges = (rows >= 0).nonzero().squeeze(1)
    rows = rows[edges]
    steps = rollout.input_step[inputs]
    x = rollout.inputs[inputs].to(v.device)
    drawn_from = step_distribution(resolve_kernel(rollout.kernel), x, v, rollout.plan, steps, rollout.eta)
    sigmas = torch.tensor(rollout.plan.sigmas)
    dt = sigmas.diff()[rollout.edge_step[edges]].to(v.device)
    gaussian = Gaussian(drawn_from.mean[rows], drawn_from.std[rows])
    return Transition(edges, rows, gaussian, rollout.next[edges].to(v.device), dt)


def edge_log_probs(rollout: FlowRollout) -> Tensor:
    """Log density of each trained edge under the policy that drew it, mean over latent elements [E], on the CPU."""
    drawn = transition(rollout, rollout.velocities, torch.arange(len(rollout.input_step)))
    return drawn.gaussian.log_prob(drawn.x_next).cpu()


def merge(rollouts: Sequence[FlowRollout]) -> FlowRollout:
    """Join rollouts of one plan that were made in several batches; indices are shifted, order is kept.

    Args:
        rollouts: at least one, all of the same plan, kernel and eta.

    Returns:
        FlowRollout: roots, leaves, inputs and edges of all, one after the other.
    """
    if not rollouts:
        raise ValueError("merge needs at least one rollout")
    first = rollouts[0]
    if any((r.plan, r.kernel, r.eta) != (first.plan, first.kernel, first.eta) for r in rollouts):
        raise ValueError("merge needs rollouts of one plan, kernel and eta")
    roots = offsets([int(r.sample_root.max()) + 1 for r in rollouts])
    leaves = offsets([len(r.sample_root) for r in rollouts])
    inputs = offsets([len(r.input_step) for r in rollouts])
    edges = offsets([len(r.edge_step) for r in rollouts])
    shifted = [
        replace(
            r,
            sample_root=r.sample_root + roots[i],
            input_root=r.input_root + roots[i],
            edge_input=r.edge_input + inputs[i],
            edge_leaves=r.edge_leaves + leaves[i],
            edge_parent=torch.where(r.edge_parent < 0, r.edge_parent, r.edge_parent + edges[i]),
        )
        for i, r in enumerate(rollouts)
    ]
    names = [field.name for field in fields(first) if isinstance(getattr(first, field.name), Tensor)]
    joined: dict[str, Any] = {name: torch.cat([getattr(r, name) for r in shifted]) for name in names}
    return replace(first, sample_path=tuple(path for r in rollouts for path in r.sample_path), **joined)


def step_distribution(kernel: Kernel, x: Tensor, v: Tensor, plan: Plan, steps: Tensor, eta: float) -> Gaussian:
    """Kernel of rows at given steps; the one path of rollout and replay, which makes them bit-identical.

    A user's kernel sees x and v in at least float32 and levels of shape [n, 1, ...] in the same dtype.
    """
    dtype = working_dtype(x.dtype, v.dtype)
    sigmas = torch.tensor(plan.sigmas, dtype=torch.float64).to(dtype)
    shape = (-1, *[1] * (x.ndim - 1))
    sigma, sigma_next = (sigmas[i].to(x.device).reshape(shape) for i in (steps, steps + 1))
    drawn_from = kernel(x.to(dtype), v.to(dtype), sigma, sigma_next, eta=eta, sigma_max=plan.sigmas[1])
    std = torch.as_tensor(drawn_from.std, dtype=dtype, device=x.device)
    std = std if std.ndim == x.ndim else std.reshape(shape)
    return Gaussian(drawn_from.mean, std.expand(len(x), *std.shape[1:]))


def offsets(sizes: Sequence[int]) -> list[int]:
    return torch.tensor([0, *sizes[:-1]]).cumsum(0).tolist()
