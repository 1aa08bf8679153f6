"""Running mask plans: gradients, memory, units; ratios, distances and credit of text; and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from masked_toy import KEYS, MASK, PROMPT, VOCABULARY, Toy, estimators, one_row, plan_of, rows
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from flowgrpo import recipe
from flowgrpo.credit_text import leave_one_out, step_rewards
from flowgrpo.kl import KLS, k1, k2, k3
from flowgrpo.likelihood_masked import (
    Projected,
    exact_elbo,
    likelihood,
    logits_at,
    masked_record,
    target_log_probs,
    two_pass_backward,
)
from flowgrpo.mask_plans import one_step, sdmc, trajectory
from flowgrpo.objective import resolve_objective, unit_losses
from flowgrpo.ratios import RATIOS, difference, sequence
from flowgrpo.records import Record, fields_refused
from flowgrpo.select import largest_steps
from flowgrpo.views import Completions, MaskPlan, completions, keyed_draw


@pytest.mark.parametrize("shift", [0, 1])
def test_the_logit_shift_is_applied_once(shift: int) -> None:
    """A model that knows token p at column p - shift: every score is near 0 under the right shift alone."""
    given = rows()
    known = torch.nn.functional.one_hot(given.ids.roll(-shift, 1), VOCABULARY).double() * 30
    for assumed in (0, 1):
        plan = one_step(given, keyed_draw(KEYS), mask_id=MASK, prompt_mask=0.0)
        score = likelihood(logits_at(lambda ids: known, shift=assumed), plan, per="sequence")
        assert bool((score > -1e-9).all()) if assumed == shift else bool((score < -20).all())


@estimators
def test_shared_masks_give_a_ratio_of_exactly_one(name: str) -> None:
    model, plan = Toy(), plan_of(name, rows())
    logits_fn = logits_at(model.hidden, shift=0, head=model.project)
    for per, ratio in (("token", difference), ("sequence", sequence), ("sequence", difference)):
        with torch.no_grad():
            old = likelihood(logits_fn, plan, per=per, chunk=3)
        new = likelihood(logits_fn, plan, per=per, chunk=3)
        length = plan.length if per == "sequence" else None
        for stored in (old, None):
            record = masked_record(new, old=stored, length=length)
            assert bool((ratio(record) == 0).all())
            assert new.requires_grad and not record.old_log_prob.requires_grad


def test_units() -> None:
    model, given = Toy(), rows()
    logits_fn, plan = logits_at(model, shift=1), plan_of("coupled", given)
    token, whole, view = (likelihood(logits_fn, plan, per=per) for per in ("token", "sequence", "view"))
    assert token.shape == (4, 6) and whole.shape == (4, 1) and view.shape == (4, 3)
    torch.testing.assert_close(token.sum(1, keepdim=True), whole)
    torch.testing.assert_close(view.sum(1, keepdim=True), whole)
    assert not bool(token[~given.scored[:, PROMPT:]].any())
    assert token.dtype == torch.float64


def test_sequence_ratio_divides_by_the_length_to_the_first_end_token() -> None:
    new, old = torch.tensor([[-3.0], [-4.0]]), torch.tensor([[-5.0], [-1.0]])
    record = masked_record(new, old=old, length=torch.tensor([4, 6]))
    torch.testing.assert_close(sequence(record), torch.tensor([[0.5], [-0.5]]))
    torch.testing.assert_close(difference(record), torch.tensor([[2.0], [-3.0]]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_chunks_change_nothing(dtype: torch.dtype) -> None:
    """Against a whole log-softmax in at least float32, values and gradients, for logits and for hidden states."""
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(11, 5, generator=generator).to(dtype).requires_grad_()
    head = torch.randn(5, 9, generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(0, 9, (11,), generator=generator)
    weight = torch.linspace(-1, 1, 11)
    logits = hidden @ head
    high = logits.to(torch.promote_types(dtype, torch.float32))
    want = torch.log_softmax(high, 1)[torch.arange(11), targets]
    grads = torch.autograd.grad((want * weight).sum(), (hidden, head), retain_graph=True)
    for source in (logits, Projected(hidden, lambda rows: rows @ head)):
        for chunk in (1, 4, 100):
            got = target_log_probs(source, targets, chunk=chunk)
            assert got.dtype == want.dtype
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
            again = torch.autograd.grad((got * weight).sum(), (hidden, head), retain_graph=True)
            tolerance = {"rtol": 0.05, "atol": 0.05} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
            torch.testing.assert_close(again, grads, **tolerance)


class Largest(TorchDispatchMode):
    """The most elements of any floating tensor that an operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for part in torch.utils._pytree.tree_leaves(result):
            if isinstance(part, Tensor) and part.is_floating_point():
                self.elements = max(self.elements, part.numel())
        return result


def test_no_tensor_grows_with_tokens_times_vocabulary() -> None:
    """Forward and backward, one view and two passes: nothing larger than chunk x V, the head's own size."""
    vocabulary, width, columns, chunk = 3000, 4, 64, 8
    head = torch.nn.Parameter(torch.zeros(width, vocabulary))
    table = torch.nn.Parameter(torch.ones(columns, width))
    given = completions(torch.ones(2, columns, dtype=torch.long), prompt_columns=0, eos_ids=())
    plan = one_step(given, keyed_draw(KEYS[:2]), mask_id=2, prompt_mask=0.0)
    logits_fn = logits_at(lambda ids: table.expand(len(ids), -1, -1), shift=0, head=lambda rows: rows @ head)
    with Largest() as one_pass:
        likelihood(logits_fn, plan, per="sequence", chunk=chunk).sum().backward()
    with Largest() as two_pass:
        two_pass_backward(logits_fn, plan, lambda value: value.sum(), per="sequence", chunk=chunk)
    assert one_pass.elements == two_pass.elements == chunk * vocabulary
    with Largest() as naive:
        torch.log_softmax(table.expand(2, -1, -1) @ head, -1)
    assert naive.elements == 2 * columns * vocabulary


def unit_loss(ratio: str, plan: MaskPlan, old: Tensor, ref: Tensor, per: str) -> Callable[[Tensor], Tensor]:
    """A clipped loss with a KL, of which some units are outside the range."""
    section = recipe.Objective(clip_low=0.02, clip_high=0.02, beta=0.1)
    objective = replace(resolve_objective(section), ratio=RATIOS[ratio], kl=KLS["k2"])
    advantages = torch.tensor([1.0, -2.0, 0.5, -0.5], dtype=torch.float64).unsqueeze(1).expand_as(old)
    length = plan.length if per == "sequence" else None

    def loss_of(value: Tensor) -> Tensor:
        record = masked_record(value, old=old, ref=ref, length=length)
        return unit_losses(objective, record, advantages, torch.full_like(old, 1 / old.numel()))[0]

    return loss_of


@pytest.mark.parametrize(("per", "ratio"), [("sequence", "sequence"), ("token", "difference"), ("view", "difference")])
@pytest.mark.parametrize("name", ["coupled", "sdmc", "espo"])
def test_two_passes_give_the_gradient_of_one(name: str, per: Any, ratio: str) -> None:
    model, other = Toy(seed=0), Toy(seed=0)
    with torch.no_grad():
        other.head += 0.01 * torch.randn(other.head.shape, generator=torch.Generator().manual_seed(4))
    plan = plan_of(name, rows())
    logits_fn = logits_at(model.hidden, shift=0, head=model.project)
    with torch.no_grad():
        old = likelihood(logits_at(other, shift=0), plan, per=per)
    loss_of = unit_loss(ratio, plan, old, 1.01 * old, per)
    one = loss_of(likelihood(logits_fn, plan, per=per))
    one.backward()
    want = {key: value.grad.clone() for key, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()
    two = two_pass_backward(logits_fn, plan, loss_of, per=per)
    assert two.item() == one.item() and not two.requires_grad
    assert set(want) == {"token", "place", "mix", "head"}
    for key, value in model.named_parameters():
        torch.testing.assert_close(value.grad, want[key], rtol=1e-10, atol=1e-13)
        assert bool(value.grad.any())


def test_the_gradient_of_the_exact_elbo_matches_finite_differences() -> None:
    model, given = Toy(), one_row(3)
    head = model.head.detach().clone()

    def elbo(head: Tensor) -> Tensor:
        return exact_elbo(logits_at(model.hidden, shift=0, head=lambda rows: rows @ head), given, mask_id=MASK).elbo

    assert torch.autograd.gradcheck(elbo, (head.requires_grad_(),), eps=1e-6, atol=1e-7)


def test_recorded_canvases_are_units_of_their_own() -> None:
    model, given = Toy(), rows(2, 4, eos_ids=())
    canvases = given.ids.unsqueeze(1).repeat(1, 2, 1)
    canvases[:, 0, PROMPT:] = MASK
    canvases[:, 1, PROMPT + 1 :] = MASK
    predictions = (given.ids + 1).clamp(max=MASK - 1).unsqueeze(1).repeat(1, 2, 1)
    log_probs = torch.log_softmax(model(canvases[:, 1]), -1)
    chosen = log_probs.gather(2, predictions[:, 1].unsqueeze(2)).squeeze(2)[:, PROMPT + 1 :]
    for weight, factor in (("mean", 1 / 3), ("elbo", 4 / 3), ("published", 4 / 9)):
        plan = trajectory(given, canvases, predictions, mask_id=MASK, weight=weight)
        value = likelihood(logits_at(model, shift=0), plan, per="view")
        torch.testing.assert_close(value[:, 1], factor * chosen.sum(1))


# --- ratios, distances, credit ----------------------------------------------------------------------------------------


def test_kl_estimators() -> None:
    """Mean over tokens of a known distribution: k1 and k3 are unbiased, the gradient of k2 is that of the KL."""
    logits = torch.tensor([0.3, -0.4, 1.0], dtype=torch.float64, requires_grad=True)
    reference = torch.log_softmax(torch.tensor([0.1, 0.2, 0.5], dtype=torch.float64), 0)
    log_probs = torch.log_softmax(logits, 0)
    kl = (log_probs.exp() * (log_probs - reference)).sum()
    (want,) = torch.autograd.grad(kl, logits, retain_graph=True)
    record = Record(log_prob=log_probs.unsqueeze(0), ref_log_prob=reference.unsqueeze(0))
    share = log_probs.detach().exp()
    for function in (k1, k3):
        torch.testing.assert_close((share * function(record)).sum(), kl)
    (got,) = torch.autograd.grad((share * k2(record)).sum(), logits)
    torch.testing.assert_close(got, want)
    gap = torch.tensor([[0.5]], dtype=torch.float64)
    far = Record(log_prob=-gap, ref_log_prob=torch.zeros(1, 1, dtype=torch.float64))
    assert k2(far).item() == 0.125 and k3(far).item() == pytest.approx(math.exp(0.5) - 1.5, rel=1e-12)


def test_k3_is_refused_on_sequences() -> None:
    value = torch.zeros(2, 1)
    with pytest.raises(ValueError, match=r"k3 takes exp of a log-prob gap.*right would be k1 or k2"):
        k3(masked_record(value, ref=value, length=torch.tensor([3, 4])))
    assert fields_refused(k3) == {"length"} and fields_refused(k2) == frozenset()


def test_leave_one_out_compares_with_the_others() -> None:
    rewards = torch.tensor([1.0, 2.0, 6.0, 5.0, 9.0, 7.0], dtype=torch.float64)
    valid = torch.tensor([True, True, True, True, False, True])
    group = torch.tensor([4, 4, 4, 0, 0, 9])
    values = leave_one_out(rewards.masked_fill(~valid, 0.0), valid, group, std="none")
    torch.testing.assert_close(values, torch.tensor([1 - 4.0, 2 - 3.5, 6 - 1.5, 0, 0, 0], dtype=torch.float64))


def test_step_rewards_by_hand() -> None:
    raw = step_rewards(torch.tensor([[1.0, 3.0, 2.0]]))
    torch.testing.assert_close(raw, torch.tensor([[1 + 1 + 2.5, 2 + 1 + 2.0, -1 + 1 + 2.0]], dtype=torch.float64))


def test_steps_that_stand_out_by_hand() -> None:
    """The steps furthest from 0; of two alike the earlier; never one without a reward."""
    advantages = torch.tensor([[0.5, -2.0, 2.0, 0.1], [1.0, -1.0, 3.0, 0.0]])
    valid = torch.tensor([[True] * 4, [True, True, False, True]])
    step, sample = torch.arange(4).expand(2, 4), torch.tensor([[0], [1]]).expand(2, 4)
    one, three = (largest_steps(advantages, valid, step=step, sample=sample, train_steps=n) for n in (1, 3))
    assert one.tolist() == [[False, True, False, False], [True, False, False, False]]
    assert three.tolist() == [[True, True, True, False], [True, True, False, True]]


# --- refusals ---------------------------------------------------------------------------------------------------------


def _bad_rows(**changes: Any) -> Completions:
    good = rows(1, 3)
    names = Completions.__dataclass_fields__
    return Completions(**{name: changes.get(name, getattr(good, name)) for name in names})


NO = torch.zeros(1, PROMPT + 3, dtype=torch.bool)
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "shift": (lambda: logits_at(Toy(), shift=2), "shift must be 0 .* or 1"),
    "no columns": (
        lambda: completions(rows().ids, prompt_columns=9, eos_ids=()),
        r"prompt_columns must be in \[0, 9\)",
    ),
    "tail": (lambda: completions(rows().ids, prompt_columns=3, eos_ids=(), tail="open"), "'clean' or 'masked'"),
    "nothing scored": (lambda: _bad_rows(scored=NO), "row 0 has no scored position"),
    "scored prompt": (lambda: _bad_rows(scored=~NO), "must belong to the completion"),
    "both": (lambda: _bad_rows(prompt=~NO), "both prompt and completion"),
    "hidden": (lambda: _bad_rows(hidden=~NO), "always hidden"),
    "shape": (lambda: _bad_rows(prompt=NO[:, 1:]), "one shape"),
    "mask id": (lambda: one_step(rows(), keyed_draw(KEYS), mask_id=3, prompt_mask=0.0), "wrong mask id"),
    "keys": (lambda: sdmc(rows(), keyed_draw(KEYS[:2]), mask_id=MASK), "got 2 keys for 4 rows"),
    "probability": (lambda: plan_of("sdmc", rows(), prompt_mask=1.5), r"in \[0, 1\], got 1.5"),
    "form": (lambda: plan_of("sdmc", rows(), form="ceil"), "form must be one of exact, floor, bernoulli"),
    "nodes": (lambda: plan_of("sdmc", rows(), nodes=0), "nodes must be at least 1"),
    "masks": (lambda: plan_of("sdmc", rows(), masks=0), "masks must be at least 1"),
    "pairs": (lambda: plan_of("espo", rows(), pairs=0), "pairs must be at least 1"),
    "per": (lambda: likelihood(logits_at(Toy(), shift=0), plan_of("sdmc", rows()), per="word"), "per must be one of"),
    "long": (
        lambda: exact_elbo(logits_at(Toy(), shift=0), rows(1, 15), mask_id=MASK),
        "at most 14 tokens, a row has 15",
    ),
    "positions": (lambda: target_log_probs(torch.zeros(3, 2), torch.zeros(2, dtype=torch.long)), "3 positions for 2"),
    "chunk": (lambda: target_log_probs(torch.zeros(2, 2), torch.zeros(2, dtype=torch.long), chunk=0), "at least 1"),
    "old": (lambda: masked_record(torch.zeros(2, 3), old=torch.zeros(2, 1)), "old has shape"),
    "length": (lambda: masked_record(torch.zeros(2, 3), length=torch.ones(2)), "one unit per row"),
    "views": (lambda: MaskPlan((), torch.ones(1), 0), "at least one view"),
    "canvases": (lambda: trajectory(rows(), torch.zeros(4, 2, 5), torch.zeros(4, 2, 9), mask_id=MASK), "must both be"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_say_what_is_wrong(name: str) -> None:
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        call()
