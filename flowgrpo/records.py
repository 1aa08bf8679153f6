"""What a likelihood says about units, and which of it a function reads. Torch-free, so that `check` can ask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

F = TypeVar("F", bound=Callable[..., object])
ABSENT: Any = None  # typed as any tensor: a function only meets records that have the fields it declares with `reads`

GAUSSIAN_FIELDS = frozenset({"log_prob", "std", "dt", "eps_gap", "old_gap", "ref_gap"})
"""What Gaussian transitions give; `ref_gap` only with a reference."""
TOKEN_FIELDS = frozenset({"log_prob", "old_log_prob", "ref_log_prob"})
"""What tokens and views of text give; `ref_log_prob` only with a reference."""
SEQUENCE_FIELDS = TOKEN_FIELDS | {"length"}
"""What whole sequences of text give."""


@dataclass(frozen=True, slots=True)
class Record:
    """Likelihood of units under the policy that is trained, and its distance to the old and the reference policy.

    All fields are [B, S] and at least float32; one that the likelihood does not give is None. Gaussian units have all
    from std to ref_gap: eps = (x_next - mean_old) / std is the noise that the old policy would have needed for the
    stored sample, "mean" is over the elements of a unit's latent (or their sum, where the likelihood was told so).
    Units of text have old_log_prob and ref_log_prob, and whole sequences their length.

    Attributes:
        log_prob: log-likelihood of what was sampled, with gradient.
        std: standard deviation of the whole transition, > 0, without gradient.
        dt: sigma_next - sigma, < 0.
        eps_gap: mean of eps (mean_new - mean_old), with gradient.
        old_gap: mean of (mean_new - mean_old)^2, with gradient.
        ref_gap: mean of (mean_new - mean_ref)^2, with gradient.
        old_log_prob: log_prob under the old policy, on the same masks, without gradient.
        ref_log_prob: log_prob under the reference policy, on the same masks, without gradient.
        length: tokens of a unit that is a whole sequence, > 0.
    """

    log_prob: Tensor
    std: Tensor = ABSENT
    dt: Tensor = ABSENT
    eps_gap: Tensor = ABSENT
    old_gap: Tensor = ABSENT
    ref_gap: Tensor = ABSENT
    old_log_prob: Tensor = ABSENT
    ref_log_prob: Tensor = ABSENT
    length: Tensor = ABSENT


def reads(*fields: str, refuses: tuple[str, ...] = ()) -> Callable[[F], F]:
    """Declare the fields of the record that a function reads.

    Args:
        *fields: that it reads.
        refuses: fields that must not be there, such as "length" where a whole sequence makes no sense as a unit.

    Raises:
        ValueError: a `Record` has no such field.
    """
    unknown = {*fields, *refuses} - set(Record.__dataclass_fields__)
    if unknown:
        raise ValueError(f"a Record has no field {', '.join(sorted(unknown))}")

    def mark(function: F) -> F:
        function.reads = frozenset(fields)  # type: ignore[attr-defined]
        function.refuses = frozenset(refuses)  # type: ignore[attr-defined]
        return function

    return mark


def fields_read(function: Callable[..., object]) -> frozenset[str]:
    """Fields that a function declared with `reads`; a user's own function that declares none is trusted with none."""
    return getattr(function, "reads", frozenset())


def fields_refused(function: Callable[..., object]) -> frozenset[str]:
    """Fields that must be absent, by the function's own declaration."""
    return getattr(function, "refuses", frozenset())
