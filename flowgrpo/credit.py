"""Credit over trees: from rewards of samples to advantages of edges, by the names of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowgrpo.advantages import step_peers, to_edges

if TYPE_CHECKING:
    from torch import Tensor

Advantages = Callable[["Mapping[str, Tensor]", "Tensor", "Tensor"], "Tensor"]
"""(rewards {scorer: [n]}, valid [n], group [n]) -> [n]."""


@dataclass(frozen=True, slots=True)
class Tree:
    """How samples and edges hang together.

    Attributes:
        leaf_of: sample of each (sample, edge) pair [P].
        edge_of: edge of each pair [P].
        step: sampling step of each edge [E].
        peers: equal for samples that are compared with each other [N].
        logits: weight of each pair in the fusion, as logits [P]; None weighs all alike.
    """

    leaf_of: Tensor
    edge_of: Tensor
    step: Tensor
    peers: Tensor
    logits: Tensor | None = None

    def fuse(self, values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Values of samples [N] -> of edges [E], and which edges have a valid sample."""
        return to_edges(values, valid, self.leaf_of, self.edge_of, edges=len(self.step), logits=self.logits)


def sample_credit(
    advantages: Advantages, rewards: Mapping[str, Tensor], valid: Tensor, tree: Tree
) -> tuple[Tensor, Tensor]:
    """Samples are compared; an edge inherits the mean advantage of those below it.

    Args:
        advantages: compares the members of groups.
        rewards: scorer -> [N].
        valid: [N] bool.
        tree: the rollout's tree.

    Returns:
        tuple[Tensor, Tensor]: advantages of edges [E], and where a valid sample descends [E].
    """
    return tree.fuse(advantages(rewards, valid, tree.peers), valid)


def step_credit(
    advantages: Advantages, rewards: Mapping[str, Tensor], valid: Tensor, tree: Tree
) -> tuple[Tensor, Tensor]:
    """Rewards are fused upwards; the edges of one step are compared (BranchGRPO's depths, TempFlow-GRPO's columns).

    Args:
        advantages: compares the members of groups.
        rewards: scorer -> [N].
        valid: [N] bool.
        tree: the rollout's tree.

    Returns:
        tuple[Tensor, Tensor]: advantages of edges [E], and where a valid sample descends [E].
    """
    fused = {name: tree.fuse(values.double(), valid) for name, values in rewards.items()}
    heard = next(iter(fused.values()))[1]
    group = step_peers(tree.peers, tree.leaf_of, tree.edge_of, tree.step)
    return advantages({name: values for name, (values, _) in fused.items()}, heard, group), heard


CREDITS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {"sample": sample_credit, "step": step_credit}
