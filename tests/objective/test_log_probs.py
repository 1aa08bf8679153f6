"""Chunked log-probabilities against a whole log-softmax: values and gradients of every kind of head."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Linear, Module, Sequential, Tanh
from torch.utils._python_dispatch import TorchDispatchMode

from flowgrpo.log_probs import Projected, rows_at_once, target_log_probs

ROWS, WIDTH, VOCABULARY = 11, 5, 9
FORBIDDEN = torch.tensor([2, 7])


def head_of(name: str, dtype: torch.dtype) -> Module:
    torch.manual_seed(4)
    head: Module = Linear(WIDTH, VOCABULARY, bias=name != "no bias").to(dtype)
    if name == "frozen":
        head.requires_grad_(False)
    if name == "trained bias":
        head.weight.requires_grad_(False)
    if name == "any head":
        head = Sequential(head, Tanh()).to(dtype)
    if name == "hooked":
        head.register_forward_hook(lambda module, inputs, output: output * 2)
    return head


HEADS = ("linear", "no bias", "frozen", "trained bias", "any head", "hooked")


def case(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, targets that are allowed, and the gradient that comes in."""
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(ROWS, WIDTH, generator=generator, dtype=torch.float64).to(dtype)
    targets = torch.tensor([0, 1, 3, 4, 5, 6, 8, 8, 0, 3, 1])
    share = torch.randn(ROWS, generator=generator, dtype=torch.float64)
    return hidden.requires_grad_(), targets, share.to(torch.promote_types(dtype, torch.float32))


def naive(hidden: Tensor, head: Callable[[Tensor], Tensor], targets: Tensor, temperature: float) -> Tensor:
    logits = head(hidden)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    return logits.index_fill(1, FORBIDDEN, -torch.inf).log_softmax(1)[torch.arange(ROWS), targets]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", HEADS)
def test_values_and_gradients_are_those_of_a_whole_log_softmax(name: str, dtype: torch.dtype) -> None:
    head = head_of(name, dtype)
    hidden, targets, share = case(dtype)
    trained = [hidden, *(p for p in head.parameters() if p.requires_grad)]
    exact = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.03}[dtype]
    for temperature, chunk in product((1.0, 0.4), (1, 4, 100, None)):
        want = naive(hidden, head, targets, temperature)
        got = target_log_probs(Projected(hidden, head, FORBIDDEN, temperature), targets, chunk=chunk)
        assert got.dtype == want.dtype
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
        grads, own = (torch.autograd.grad((value * share).sum(), trained) for value in (want, got))
        assert [grad.dtype for grad in own] == [grad.dtype for grad in grads]
        for mine, theirs in zip(own, grads, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=exact, atol=exact * float(theirs.abs().max()))
        with torch.no_grad():
            none = target_log_probs(Projected(hidden, head, FORBIDDEN, temperature), targets, chunk=chunk)
        assert torch.equal(none, got)


@pytest.mark.parametrize("name", [*HEADS, "logits"])
def test_gradients_match_finite_differences(name: str) -> None:
    hidden, targets, _ = case(torch.float64)
    if name == "logits":
        logits = torch.randn(ROWS, VOCABULARY, dtype=torch.float64).requires_grad_()
        before = logits.detach().clone()
        assert torch.autograd.gradcheck(lambda rows: target_log_probs(rows, targets, chunk=4), (logits,))
        assert torch.equal(logits.detach(), before)
        return
    head = head_of(name, torch.float64)
    trained = [p for p in head.parameters() if p.requires_grad]

    def of(rows: Tensor, *parameters: Tensor) -> Tensor:
        return target_log_probs(Projected(rows, head, FORBIDDEN, 0.7), targets, chunk=4)

    assert torch.autograd.gradcheck(of, (hidden, *trained))


def test_a_confident_token_keeps_its_gradient_in_half_precision() -> None:
    """1 - p is taken before rounding: bfloat16 cannot tell 0.999 from 1."""
    head = Linear(2, 3, bias=False).to(torch.bfloat16)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[4.0, 0.0], [-4.0, 0.0], [-4.0, 1.0]]))
    targets, grads = torch.tensor([0]), []
    for trained in (True, False):
        head.requires_grad_(trained)
        hidden = torch.ones(1, 2, dtype=torch.bfloat16, requires_grad=True)
        target_log_probs(Projected(hidden, head), targets).sum().backward()
        grads.append(hidden.grad)
    exact = torch.ones(1, 2, dtype=torch.float64, requires_grad=True)
    (exact @ head.weight.double().T).log_softmax(1)[0, 0].backward()
    for grad in grads:
        torch.testing.assert_close(grad.double(), exact.grad, rtol=0.02, atol=0)


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0], [3e38, 1.0, -torch.inf]], requires_grad=True)
    values = target_log_probs(logits, torch.tensor([0, 0]))
    values.sum().backward()
    assert values.tolist() == [0.0, 0.0] and logits.grad is not None and bool(logits.grad.isfinite().all())
    far = torch.tensor([[0.0, 200.0]])
    assert target_log_probs(far, torch.tensor([0])).item() == -200.0


class Sizes(TorchDispatchMode):
    """Elements of every floating tensor that an operation returned, and the products that were taken."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[int] = []
        self.products = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        leaves = torch.utils._pytree.tree_leaves(result)
        self.elements += [part.numel() for part in leaves if isinstance(part, Tensor) and part.is_floating_point()]
        self.products += "mm" in func.name()
        return result


@pytest.mark.parametrize(("trained", "products"), [(True, 4), (False, 2)])
def test_a_frozen_head_is_not_asked_twice(trained: bool, products: int) -> None:
    """Four products of a chunk with the head, two where it is frozen; no tensor is larger than chunk x V."""
    head = Linear(2, 1000).requires_grad_(trained)
    hidden = torch.randn(64, 2, requires_grad=True)
    with Sizes() as sizes:
        target_log_probs(Projected(hidden, head), torch.arange(64), chunk=16).sum().backward()
    assert max(sizes.elements) == 16 * 1000
    assert sizes.products == 4 * products + 4 * trained  # the bias is a product with a vector


def test_chunks_are_chosen_by_bytes() -> None:
    cpu, other = torch.device("cpu"), torch.device("cuda")
    assert rows_at_once(32_000, cpu) == 131 and rows_at_once(126_000, cpu) == 128
    assert rows_at_once(126_000, other) == 256 and rows_at_once(100, other) == 41_943
