"""What a likelihood says about units, and which of it a function reads. Torch-free, so that `check` can ask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

F = TypeVar("F", bound=Callable[..., object])
ABSENT: Any = None  # typed as any tensor: a function only meets records that have the fields it declares with `reads`


@dataclass(frozen=True, slots=True)
class Record:
    """Likelihood of units under the policy that is trained, and its distance to the old and the reference policy.

    All fields are [B, S] and at least float32; one that the likelihood does not give is None. eps = (x_next -
    mean_old) / std is the noise that the old policy would have needed for the stored sample. "mean" is over the
    elements of a unit's latent (or their sum, where the likelihood was told so).

    Attributes:
        log_prob: log-likelihood of what was sampled, with gradient.
        std: standard deviation of the whole transition, > 0, without gradient.
        dt: sigma_next - sigma, < 0.
        eps_gap: mean of eps (mean_new - mean_old), with gradient.
        old_gap: mean of (mean_new - mean_old)^2, with gradient.
        ref_gap: mean of (mean_new - mean_ref)^2, with gradient.
    """

    log_prob: Tensor
    std: Tensor = ABSENT
    dt: Tensor = ABSENT
    eps_gap: Tensor = ABSENT
    old_gap: Tensor = ABSENT
    ref_gap: Tensor = ABSENT


def reads(*fields: str) -> Callable[[F], F]:
    """Declare the fields of the record that a function reads.

    Raises:
        ValueError: a `Record` has no such field.
    """
    unknown = set(fields) - set(Record.__dataclass_fields__)
    if unknown:
        raise ValueError(f"a Record has no field {', '.join(sorted(unknown))}")

    def mark(function: F) -> F:
        function.reads = frozenset(fields)  # type: ignore[attr-defined]
        return function

    return mark


def fields_read(function: Callable[..., object]) -> frozenset[str]:
    """Fields that a function declared with `reads`; a user's own function that declares none is trusted with none."""
    return getattr(function, "reads", frozenset())
