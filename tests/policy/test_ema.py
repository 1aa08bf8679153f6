"""The moving average: its recursion, its memory, and putting the live weights back."""

from __future__ import annotations

import pytest
import torch
from torch.nn import Parameter

from flowgrpo import ema


def weights(*values: float) -> dict[str, Parameter]:
    return {f"w{i}": Parameter(torch.tensor([value])) for i, value in enumerate(values)}


def test_recursion_by_hand():
    """0.9 * 1 + 0.1 * 3 = 1.2; 0.9 * 1.2 + 0.1 * 3 = 1.38."""
    live = weights(1.0)
    average = ema.start(live)
    live["w0"].data.fill_(3.0)
    ema.update(average, live, 0.9)
    assert average["w0"].item() == pytest.approx(1.2, abs=1e-6)
    ema.update(average, live, 0.9)
    assert average["w0"].item() == pytest.approx(1.38, abs=1e-6)
    assert not average["w0"].requires_grad


def test_a_young_average_moves_faster():
    assert [ema.warmed(0.9, k) for k in (0, 1, 80, 81, 1000)] == [0.1, 2 / 11, 0.9, 0.9, 0.9]


def test_the_average_never_aliases_live_weights():
    live = weights(1.0)
    average = ema.start(live)
    live["w0"].data.add_(1)
    assert average["w0"].item() == 1.0


def test_live_weights_come_back_to_the_bit_also_after_an_error():
    live = weights(1.1, -2.7)
    before = {name: parameter.detach().clone() for name, parameter in live.items()}
    addresses = {name: parameter.data_ptr() for name, parameter in live.items()}
    average = {name: parameter.detach() * 5 for name, parameter in live.items()}
    with pytest.raises(KeyError), ema.swapped_in(live, average):
        assert all(torch.equal(live[name], average[name]) for name in live)
        raise KeyError
    assert all(torch.equal(live[name], before[name]) for name in live)
    assert addresses == {name: parameter.data_ptr() for name, parameter in live.items()}
    assert average["w0"].item() == pytest.approx(5.5)
