"""What every reward model returns: scores, which of them are valid, and why the others are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from reward_models.comparisons import Comparison
from reward_models.cost import FREE, Cost, total


class ScorerError(ValueError):
    """The reward model is used or written wrongly: the run should stop, no sample is at fault."""


class NotReached(ScorerError):
    """The service that a scorer stands for does not answer."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of N samples, on the CPU.

    An invalid sample is NaN everywhere and has a text in `errors`; it is never a zero, because a zero is an opinion.

    Attributes:
        scores: float64 [N], finite exactly where `valid`.
        valid: bool [N].
        components: Further named numbers per sample, each float64 [N], NaN where invalid.
        errors: Why, for each invalid sample, by its position.
        comparisons: What a pairwise scorer judged, by positions in this batch; those without a verdict hold NaN.
        cost: What the whole batch took, also where only some of its samples were taken.
    """

    scores: Tensor
    valid: Tensor
    components: dict[str, Tensor] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)
    comparisons: tuple[Comparison, ...] = ()
    cost: Cost = FREE

    def __post_init__(self) -> None:
        shapes = {name: tuple(value.shape) for name, value in (("valid", self.valid), *self.components.items())}
        wrong = {name: shape for name, shape in shapes.items() if shape != tuple(self.scores.shape)}
        if self.scores.ndim != 1 or wrong:
            raise ScorerError(f"Scores are one number per sample: scores {tuple(self.scores.shape)}, {shapes}")
        if not torch.equal(torch.isfinite(self.scores), self.valid):
            raise ScorerError("Scores must be finite exactly where they are valid")

    def __len__(self) -> int:
        return len(self.scores)


def as_scores(
    values: Tensor,
    *,
    components: Mapping[str, Tensor] | None = None,
    errors: Mapping[int, str] | None = None,
    cost: Cost = FREE,
) -> Scores:
    """Scores from plain numbers, where a value that is not finite makes its sample invalid.

    Args:
        values: [N], any device and dtype.
        components: Further numbers, each [N].
        errors: Texts of invalid samples by position; the text of the others names the value.
        cost: What the scores took.

    Returns:
        The scores, NaN in every field of an invalid sample.
    """
    scores = _column(values)
    valid = torch.isfinite(scores)
    invalid = (~valid).nonzero().flatten().tolist()
    texts = {i: f"the score is {scores[i].item()}, not a finite number" for i in invalid}
    texts |= {i: text for i, text in (errors or {}).items() if i in texts}
    extra = {name: _column(value).masked_fill(~valid, torch.nan) for name, value in (components or {}).items()}
    return Scores(scores.masked_fill(~valid, torch.nan), valid, extra, texts, cost=cost)


def failed(count: int, error: str) -> Scores:
    """`count` invalid samples with one error text."""
    return as_scores(torch.full((count,), torch.nan), errors=dict.fromkeys(range(count), error))


def concatenate(parts: Sequence[Scores]) -> Scores:
    """Parts in order as one; a component that a part lacks is NaN there."""
    if not parts:
        return failed(0, "")
    names = dict.fromkeys(name for part in parts for name in part.components)
    blank = [torch.full((len(part),), torch.nan, dtype=torch.float64) for part in parts]
    starts = [sum(len(part) for part in parts[:i]) for i in range(len(parts))]
    placed = list(zip(starts, parts, strict=True))
    comparisons = (Comparison(at + a, at + b, verdict) for at, part in placed for a, b, verdict in part.comparisons)
    return Scores(
        torch.cat([part.scores for part in parts]),
        torch.cat([part.valid for part in parts]),
        {n: torch.cat([p.components.get(n, b) for p, b in zip(parts, blank, strict=True)]) for n in names},
        {at + i: text for at, part in placed for i, text in part.errors.items()},
        tuple(comparisons),
        total(part.cost for part in parts),
    )


def take(scores: Scores, rows: Sequence[int]) -> Scores:
    """The samples at distinct `rows`, in that order, with the comparisons among them."""
    index = torch.as_tensor(list(rows), dtype=torch.long)
    errors = {i: scores.errors[row] for i, row in enumerate(rows) if row in scores.errors}
    components = {name: value[index] for name, value in scores.components.items()}
    place = {row: i for i, row in enumerate(rows)}
    comparisons = tuple(
        Comparison(place[a], place[b], verdict) for a, b, verdict in scores.comparisons if a in place and b in place
    )
    return Scores(scores.scores[index], scores.valid[index], components, errors, comparisons, scores.cost)


def with_components(scores: Scores, names: Sequence[str]) -> Scores:
    """The same scores with every component in `names`; one that is missing is NaN."""
    blank = torch.full((len(scores),), torch.nan, dtype=torch.float64)
    return replace(scores, components={**dict.fromkeys(names, blank), **scores.components})


def _column(values: Tensor) -> Tensor:
    return values.detach().to("cpu", torch.float64)
