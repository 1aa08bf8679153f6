"""The distribution that a stochastic step draws from."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from samplers.plans import unknown_name

Density = Literal["gaussian", "unscaled"]
Reduction = Literal["mean", "sum"]


@dataclass(frozen=True, slots=True)
class Gaussian:
    """Isotropic Gaussian per row: x_next = mean + std * noise.

    Attributes:
        mean: [B, ...], at least float32.
        std: >= 0, broadcastable to ``mean``; 0 where the step is deterministic (it then has no density).
    """

    mean: Tensor
    std: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Draw: mean + std * noise.

        Args:
            noise: standard normal [B, ...] of any dtype, on the mean's device.

        Returns:
            Tensor: [B, ...] in the mean's dtype.
        """
        return self.mean + self.std * noise.to(self.mean.dtype)

    def log_prob(self, x_next: Tensor, reduction: Reduction = "mean", density: Density = "gaussian") -> Tensor:
        """Log density of ``x_next``, reduced over the elements of each row.

        Args:
            x_next: [B, ...]; half precision is upcast. Pass the stored tensor: what is stored is what is replayed.
            reduction: ``"mean"`` over latent elements (the convention that published clip ranges belong to), or
                ``"sum"``, the log density proper.
            density: ``"gaussian"`` is the normal log density; ``"unscaled"`` is -(x_next - mean)^2, the score that
                Flow-CPS publishes, which is no density. Only the latter is finite at std 0.

        Returns:
            Tensor: [B].

        Raises:
            ValueError: unknown reduction or density, or ``x_next`` of another shape than the mean.
        """
        if x_next.shape != self.mean.shape:
            raise ValueError(f"x_next must have the mean's shape {tuple(self.mean.shape)}, got {tuple(x_next.shape)}")
        for what, name, known in (("reduction", reduction, REDUCTIONS), ("density", density, DENSITIES)):
            if name not in known:
                raise ValueError(unknown_name(what, name, known))
        std = torch.as_tensor(self.std, dtype=self.mean.dtype, device=self.mean.device)  # a kernel may give a number
        per_element = DENSITIES[density](x_next.to(self.mean.dtype) - self.mean, std)
        return REDUCTIONS[reduction](per_element.reshape(len(per_element), -1), 1)


def _gaussian(gap: Tensor, std: Tensor) -> Tensor:
    return -0.5 * (gap / std).square() - std.log() - 0.5 * math.log(2 * math.pi)


def _unscaled(gap: Tensor, std: Tensor) -> Tensor:
    return -gap.square()


DENSITIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"gaussian": _gaussian, "unscaled": _unscaled}
REDUCTIONS: dict[str, Callable[[Tensor, int], Tensor]] = {"mean": torch.mean, "sum": torch.sum}
