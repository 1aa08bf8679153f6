"""Likelihood of flow transitions: one Gaussian per tree edge -> the record that the objective reads."""

from __future__ import annotations

from torch import Tensor

from flowgrpo.records import ABSENT, GAUSSIAN_FIELDS, Record
from samplers.gaussian import REDUCTIONS, Density, Gaussian, Reduction

FIELDS = GAUSSIAN_FIELDS
"""What `flow_record` can fill in; `ref_gap` only with a reference mean."""


def flow_record(
    transition: Gaussian,
    old: Tensor | Gaussian | None,
    x_next: Tensor,
    *,
    dt: Tensor | float,
    density: Density = "gaussian",
    ref_mean: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Record:
    """Record of E stochastic steps; every field is [E, 1], in the dtype of the transition's mean.

    Where the old policy is the new one (the first update after a rollout) its mean is the new mean without gradient:
    every log ratio is then exactly 0 and its gradient that of log_prob.

    Args:
        transition: the new policy's distribution of x_next: mean [E, ...] with gradient, std > 0 and the same within
            a row, by the kernel and velocity that the rollout used.
        old: the old policy's mean [E, ...] (or its transition); None takes the new policy for the old.
        x_next: what the rollout stored, [E, ...]; half precision is upcast.
        dt: sigma_next - sigma of each step, [E] or one number, < 0.
        density: density of `log_prob`, "gaussian" or "unscaled".
        ref_mean: the reference policy's mean [E, ...].
        reduction: "mean" or "sum" over the elements of a row, for all fields.

    Returns:
        Record: with all fields, ref_gap only if ref_mean is given.

    Raises:
        ValueError: some std is not above 0, or shapes differ.
    """
    mean, rows = transition.mean, len(transition.mean)
    old_mean = old.mean if isinstance(old, Gaussian) else old
    old_mean = (mean if old_mean is None else old_mean).detach().to(mean.dtype)
    _check_shapes(mean, x_next=x_next, old=old_mean, ref_mean=ref_mean)
    std = _per_row(transition.std, rows, "std").to(mean.dtype)
    if not bool((std > 0).all()):
        raise ValueError("a step with std 0 has no likelihood: only stochastic steps are policy-gradient units")

    def reduce(per_element: Tensor) -> Tensor:
        return REDUCTIONS[reduction](per_element.flatten(1), 1).unsqueeze(1)

    gap = mean - old_mean
    eps = (x_next.detach().to(mean.dtype) - old_mean) / std.reshape(rows, *[1] * (mean.ndim - 1))
    return Record(
        log_prob=transition.log_prob(x_next.detach(), reduction=reduction, density=density).unsqueeze(1),
        std=std,
        dt=_per_row(mean.new_tensor(dt) if not isinstance(dt, Tensor) else dt.to(mean), rows, "dt"),
        eps_gap=reduce(eps * gap),
        old_gap=reduce(gap.square()),
        ref_gap=ABSENT if ref_mean is None else reduce((mean - ref_mean.detach().to(mean.dtype)).square()),
    )


def _per_row(value: Tensor, rows: int, what: str) -> Tensor:
    """[], [E] or [E, 1, ...] -> [E, 1], without gradient."""
    if value.numel() not in (1, rows):
        raise ValueError(f"{what} must be one number or one per row ({rows} rows), got shape {tuple(value.shape)}")
    return value.detach().reshape(-1, 1).expand(rows, 1)


def _check_shapes(mean: Tensor, **others: Tensor | None) -> None:
    for name, other in others.items():
        if other is not None and other.shape != mean.shape:
            raise ValueError(f"{name} has shape {tuple(other.shape)}, the new mean {tuple(mean.shape)}")
