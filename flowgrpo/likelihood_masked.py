"""Likelihood of completions of masked-diffusion language models: mask plan -> [B, S] -> the record.

Estimators make plans (`mask_plans`); here they are run. `log_probs` takes log-softmaxes in at least float32, by chunks:
memory grows with chunk x V, not with B x T x V.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from flowgrpo.log_probs import Projected, target_log_probs
from flowgrpo.mask_plans import ESTIMATORS, coupled, coupled_elbo, espo, one_step, sdmc, trajectory, uniform
from flowgrpo.records import ABSENT, SEQUENCE_FIELDS, TOKEN_FIELDS, Record
from flowgrpo.views import Completions, MaskPlan, View, completions, keyed_draw

__all__ = [
    "ESTIMATORS",
    "SEQUENCE_FIELDS",
    "TOKEN_FIELDS",
    "Completions",
    "ExactElbo",
    "MaskPlan",
    "Projected",
    "View",
    "completions",
    "coupled",
    "coupled_elbo",
    "espo",
    "exact_elbo",
    "keyed_draw",
    "likelihood",
    "logits_at",
    "masked_record",
    "one_step",
    "sdmc",
    "target_log_probs",
    "trajectory",
    "two_pass_backward",
    "uniform",
]

LONGEST = 14
"""Most tokens that `exact_elbo` enumerates the masks of: 16383 forwards."""

Unit = Literal["token", "sequence", "view"]


LogitsFn = Callable[[Tensor, Tensor], "Tensor | Projected"]
"""(ids int64 [b, T], scored bool [b, T]) -> logits [M, V] or `Projected`, of the M scored tokens in row-major order."""


def logits_at(
    body: Callable[[Tensor], Tensor], *, shift: int, head: Callable[[Tensor], Tensor] | None = None
) -> LogitsFn:
    """The logits of scored tokens from a model that answers for whole rows. The one place that knows the shift.

    Args:
        body: ids [b, T] -> logits [b, T, V], or hidden states [b, T, D] where `head` is given.
        shift: how many columns before a token its logits are: 0 (LLaDA) or 1 (Dream, DiffuCoder).
        head: hidden states [m, D] -> logits [m, V]; called at scored positions only.

    Returns:
        LogitsFn: for `likelihood`.

    Raises:
        ValueError: shift is neither 0 nor 1.
    """
    if shift not in (0, 1):
        raise ValueError(f"shift must be 0 (logits sit at their token) or 1 (one column before it), got {shift!r}")

    def logits_fn(ids: Tensor, scored: Tensor) -> Tensor | Projected:
        rows, columns = scored.nonzero(as_tuple=True)
        at_tokens = body(ids)[rows, (columns - shift).clamp(min=0)]
        return at_tokens if head is None else Projected(at_tokens, head)

    return logits_fn


def likelihood(logits_fn: LogitsFn, plan: MaskPlan, *, per: Unit, chunk: int | None = None) -> Tensor:
    """Run all views of a plan.

    Args:
        logits_fn: the policy.
        plan: whose rows are what `logits_fn` is called with.
        per: what a unit is. "token": S = T - plan.start columns, 0 where never scored. "sequence": S = 1, the sum over
            tokens. "view": S = number of views, the sum over each view's tokens.
        chunk: positions whose logits exist at once; see `target_log_probs`.

    Returns:
        Tensor: [B, S], float64 sums of log-probabilities of at least float32, with gradient where it is enabled.

    Raises:
        ValueError: per is unknown, or logits_fn answers for another number of positions.
    """
    return torch.stack(list(_contributions(logits_fn, plan, per, chunk))).sum(0)


def two_pass_backward(
    logits_fn: LogitsFn,
    plan: MaskPlan,
    loss_of: Callable[[Tensor], Tensor],
    *,
    per: Unit,
    chunk: int | None = None,
) -> Tensor:
    """Gradients of a loss of the likelihood with the memory of one view.

    The first pass computes the likelihood without graph and the loss's derivative by it; the second repeats each view
    and propagates its share. Equal to `loss_of(likelihood(...)).backward()` for N views, at N more forwards.

    Args:
        logits_fn: the policy; it must answer equally both times (dropout off).
        plan: drawn beforehand.
        loss_of: likelihood [B, S] -> scalar; it must be differentiable and may be clipped, exponentiated and so on.
        per: as in `likelihood`.
        chunk: as in `likelihood`.

    Returns:
        Tensor: the loss, a scalar without graph; gradients are added to the parameters' `.grad`.
    """
    with torch.no_grad():
        values = likelihood(logits_fn, plan, per=per, chunk=chunk)
    leaf = values.requires_grad_()
    with torch.enable_grad():
        loss = loss_of(leaf)
        (share,) = torch.autograd.grad(loss, leaf)
        for part in _contributions(logits_fn, plan, per, chunk):
            if part.requires_grad:
                part.backward(share)
    return loss.detach()


def masked_record(
    log_prob: Tensor, *, old: Tensor | None = None, ref: Tensor | None = None, length: Tensor | None = None
) -> Record:
    """Record of units that were scored on shared masks.

    Args:
        log_prob: the new policy's likelihood [B, S], with gradient.
        old: the old policy's on the same plan; None takes the new policy for the old, and every log ratio is exactly 0.
        ref: the reference policy's on the same plan.
        length: |y| [B] of whole sequences; None where units are tokens or views.

    Returns:
        Record: fields [B, S].

    Raises:
        ValueError: shapes differ, or a length is given for more than one unit per row.
    """
    for name, other in (("old", old), ("ref", ref)):
        if other is not None and other.shape != log_prob.shape:
            raise ValueError(f"{name} has shape {tuple(other.shape)}, log_prob {tuple(log_prob.shape)}")
    if length is not None and tuple(log_prob.shape) != (len(length), 1):
        raise ValueError(f"sequences are one unit per row, [{len(length)}, 1]; log_prob is {tuple(log_prob.shape)}")
    return Record(
        log_prob=log_prob,
        old_log_prob=(log_prob if old is None else old).detach(),
        ref_log_prob=ABSENT if ref is None else ref.detach(),
        length=ABSENT if length is None else length.to(log_prob).unsqueeze(1),
    )


@dataclass(frozen=True, slots=True)
class ExactElbo:
    """The ELBO of B rows with all masks enumerated.

    Attributes:
        elbo: [B].
        per_token: what each position adds to it, [B, T], 0 where not scored.
        by_count: H_k at [:, k - 1]: mean over the masks of k tokens of their summed log-probs, [B, longest length]; nan
            beyond a row's length.
    """

    elbo: Tensor
    per_token: Tensor
    by_count: Tensor


def exact_elbo(
    logits_fn: LogitsFn, rows: Completions, *, mask_id: int, batch: int = 256, chunk: int | None = None
) -> ExactElbo:
    """The masked-diffusion ELBO without sampling: all 2^n - 1 masks of each row's n scored tokens.

        ELBO = sum over k = 1 ... n of H_k / k

    Source: the any-order form of LLaDA's bound (arXiv 2502.09992); own enumeration.

    Args:
        logits_fn: the policy; it is called with `batch` variants of one row at a time.
        rows: completions of at most `LONGEST` scored tokens.
        mask_id: id of the mask token.
        batch: forwards per call.
        chunk: as in `likelihood`.

    Returns:
        ExactElbo: with gradient where it is enabled.

    Raises:
        ValueError: a row has more than `LONGEST` scored tokens.
    """
    longest = int(rows.length.max())
    if longest > LONGEST:
        raise ValueError(f"exact_elbo enumerates masks of at most {LONGEST} tokens, a row has {longest}; use sdmc")
    per_token, by_count = zip(
        *(_enumerated(logits_fn, rows, row, longest, mask_id, batch, chunk) for row in range(len(rows.ids))),
        strict=True,
    )
    tokens = torch.stack(per_token)
    return ExactElbo(tokens.sum(1), tokens, torch.stack(by_count))


def _enumerated(
    logits_fn: LogitsFn, rows: Completions, row: int, longest: int, mask_id: int, batch: int, chunk: int | None
) -> tuple[Tensor, Tensor]:
    """One row's ELBO per position [T] and H_k [longest]."""
    view, counts = _all_masks(rows, row, mask_id)
    scores = torch.cat([_view_scores(logits_fn, part, chunk) for part in _batches(view, batch)])
    size = int(counts.max())
    shares = scores.new_zeros(size + 1).index_add(0, counts, scores.sum(1))[1:]
    by_count = shares * torch.arange(1, size + 1, device=shares.device)
    return scores.sum(0), torch.nn.functional.pad(by_count, (0, longest - size), value=math.nan)


def _all_masks(rows: Completions, row: int, mask_id: int) -> tuple[View, Tensor]:
    """A view of every non-empty mask of one row, weighted 1 / (k C(n, k)), and each one's k."""
    places = rows.scored[row].nonzero().flatten()
    size = len(places)
    numbers = torch.arange(1, 2**size, device=places.device)
    chosen = (numbers.unsqueeze(1) >> torch.arange(size, device=places.device)) & 1
    masked = torch.zeros(len(numbers), rows.ids.shape[1], dtype=torch.bool, device=places.device)
    masked[:, places] = chosen.bool()
    counts = chosen.sum(1)
    table = [1 / (k * math.comb(size, k)) if k else 0.0 for k in range(size + 1)]
    weights = torch.tensor(table, dtype=torch.float64, device=places.device)[counts].unsqueeze(1) * masked
    targets = rows.ids[row].expand(masked.shape)
    return View(targets.masked_fill(masked | rows.hidden[row], mask_id), targets, masked, weights), counts


def _batches(view: View, size: int) -> Iterator[View]:
    parts = (getattr(view, name).split(size) for name in View.__dataclass_fields__)
    return (View(*part) for part in zip(*parts, strict=True))


def _contributions(logits_fn: LogitsFn, plan: MaskPlan, per: Unit, chunk: int | None) -> Iterator[Tensor]:
    """What each view adds to the likelihood, [B, S]."""
    if per not in UNITS:
        raise ValueError(f"per must be one of {', '.join(UNITS)}, got {per!r}")
    for index, view in enumerate(plan.views):
        yield UNITS[per](_view_scores(logits_fn, view, chunk), plan, index)


def _view_scores(logits_fn: LogitsFn, view: View, chunk: int | None) -> Tensor:
    """Weighted log-probabilities of one view, float64 [B, T], 0 where not scored."""
    scores = torch.zeros_like(view.weights)
    if not bool(view.scored.any()):
        return scores
    log_probs = target_log_probs(logits_fn(view.inputs, view.scored), view.targets[view.scored], chunk=chunk)
    return scores.index_put(view.scored.nonzero(as_tuple=True), view.weights[view.scored] * log_probs)


def _per_view(scores: Tensor, plan: MaskPlan, index: int) -> Tensor:
    column = torch.arange(len(plan.views), device=scores.device) == index
    return scores.sum(1, keepdim=True) * column


UNITS: dict[str, Callable[[Tensor, MaskPlan, int], Tensor]] = {
    "token": lambda scores, plan, index: scores[:, plan.start :],
    "sequence": lambda scores, plan, index: scores.sum(1, keepdim=True),
    "view": _per_view,
}
"""(one view's scores [B, T], plan, number of the view) -> its part of [B, S]."""
