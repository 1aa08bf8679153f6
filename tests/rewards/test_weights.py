"""Weights are read without running code, and hashed by every byte."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from reward_models import ScorerError
from reward_models.weights import fingerprint, read_state


class Trap:
    def __reduce__(self):
        return os.system, ("touch sprung",)


def test_both_formats_give_the_same_tensors(tmp_path: Path) -> None:
    state = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(2.0)}
    torch.save(state, tmp_path / "x.pth")
    save_file(state, tmp_path / "x.safetensors")
    for name in ("x.pth", "x.safetensors"):
        got = read_state(str(tmp_path / name), "clip")
        assert got.keys() == state.keys() and all(torch.equal(got[key], state[key]) for key in state)


def test_a_file_with_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.ones(1), "b": Trap()}, "trap.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Trap()))
    for name in ("trap.pt", "plain.pt"):
        with pytest.raises(ScorerError, match=f"cannot read weights from '{name}'"):
            read_state(name, "clip")
    assert not Path("sprung").exists()


@pytest.mark.parametrize("content", [{}, {"a": 1}, [1, 2], {"state_dict": 3}])
def test_a_file_without_tensors_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ScorerError, match="no table of tensors"):
        read_state(str(tmp_path / "x.pt"), "clip")


def test_the_fingerprint_sees_names_values_and_settings() -> None:
    state = {"a": torch.tensor([1.0, 2.0])}
    others = [
        fingerprint({"b": torch.tensor([1.0, 2.0])}, 1),
        fingerprint({"a": torch.tensor([1.0, 2.0000002])}, 1),
        fingerprint(state, 2),
        fingerprint(state, 1, None),
    ]
    assert len({fingerprint(state, 1), *others}) == 5
    assert fingerprint(state, 1) == fingerprint({"a": torch.tensor([1.0, 2.0])}, 1)
