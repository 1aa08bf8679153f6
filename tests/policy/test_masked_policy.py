"""Masked language models: logits where they are asked for, stated properties, adapters, weights on disk."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from flowgrpo.errors import CheckpointError, RecipeError, RunError
from flowgrpo.policies.masked_families import contradictions
from flowgrpo.policies.masked_lm import MaskedPolicy, load_masked_policy
from flowgrpo.recipe import Model
from tests import masked_toys as toys

CPU = torch.device("cpu")
KINDS: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "modernbert": (toys.modernbert, {}),
    "bert": (toys.bert, {}),
    "remote": (toys.remote, {"logit_shift": 1, "padding_mask": "4d", "trust_remote_code": True}),
    "llada": (toys.llada, {"trust_remote_code": True}),
}
TARGETS = {"remote": ("q_proj",)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("language_models")
    return {name: make(root / name) for name, (make, _) in KINDS.items()}


def section(folders: dict[str, Path], kind: str, **changes: Any) -> Model:
    stated = {key.removeprefix("model."): value for key, value in toys.STATED.items()}
    values = {**stated, "path": str(folders[kind]), "lora_rank": 2, "lora_alpha": 4, **KINDS[kind][1]}
    return Model(**{**values, "lora_targets": TARGETS.get(kind), **changes})


def policy(folders: dict[str, Path], kind: str, **changes: Any) -> MaskedPolicy:
    return load_masked_policy(section(folders, kind, **changes), device=CPU, seed=0)


def canvases() -> tuple[Tensor, Tensor, Tensor]:
    """Two rows, the first padded on the left; what is wanted; the attention mask."""
    ids = torch.tensor([[0, 0, 1, 9, 3, 3, 3], [1, 8, 7, 9, 3, 6, 3]])
    attention = torch.tensor([[False, False, True, True, True, True, True], [True] * 7])
    return ids, ids == 3, attention


def whole(policy: MaskedPolicy, ids: Tensor, attention: Tensor, form: str) -> Tensor:
    """Logits [n, T, V] of the network called as its own class is."""
    network: Any = policy.parts()["network"]
    mask = attention.long() if form == "2d" else (attention[:, None] & attention[:, :, None])[:, None]
    positions = (attention.long().cumsum(-1) - 1).clamp(min=0)
    takes = "position_ids" in inspect.signature(network.forward).parameters
    extra = {"position_ids": positions} if takes else {}
    result: Tensor = network(input_ids=ids, attention_mask=mask, **extra).logits
    return result


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_the_networks_at_the_wanted_tokens(folders: dict[str, Path], kind: str) -> None:
    """With the shift undone, and nothing left for ids that are never drawn."""
    model = policy(folders, kind)
    ids, wanted, attention = canvases()
    with torch.no_grad():
        found = model.logits(ids, wanted, attention)
        logits = found.logits()
        right = whole(model, ids, attention, KINDS[kind][1].get("padding_mask", "2d"))
    shift = KINDS[kind][1].get("logit_shift", 0)
    rows, columns = wanted.nonzero(as_tuple=True)
    expected = right[rows, columns - shift]
    drawn = torch.ones(expected.shape[1], dtype=torch.bool)
    drawn[[3, *range(toys.VOCABULARY, toys.VOCABULARY + toys.SPARE)]] = False
    assert logits.shape == expected.shape
    assert torch.allclose(logits[:, drawn], expected[:, drawn], atol=1e-5)
    assert bool((logits[:, ~drawn] == -torch.inf).all())


@pytest.mark.parametrize("kind", KINDS)
def test_the_head_runs_at_wanted_tokens_alone(folders: dict[str, Path], kind: str) -> None:
    model = policy(folders, kind)
    network: Any = model.parts()["network"]
    seen: list[int] = []
    head = network.get_output_embeddings()
    handle = head.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[:-1].numel()))
    found = model.logits(*canvases())
    found.logits()
    handle.remove()
    assert seen == [0, 5]


@pytest.mark.parametrize("kind", KINDS)
def test_padding_does_not_show(folders: dict[str, Path], kind: str) -> None:
    model = policy(folders, kind)
    ids, wanted, attention = canvases()
    with torch.no_grad():
        padded = model.logits(ids[:1], wanted[:1], attention[:1])
        bare = model.logits(ids[:1, 2:], wanted[:1, 2:], attention[:1, 2:])
    assert torch.allclose(padded.hidden, bare.hidden, atol=1e-5)


@pytest.mark.parametrize("adapter", ["lora", "full"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_trained_parameter(folders: dict[str, Path], kind: str, adapter: str) -> None:
    model = policy(folders, kind, adapter=adapter)
    parameters = model.trainable()
    if adapter == "lora":  # B is zero at first, and A learns nothing until it is not
        with torch.no_grad():
            for name, parameter in parameters.items():
                if "lora_B" in name:
                    parameter.normal_(generator=torch.Generator().manual_seed(1))
    found = model.logits(*canvases())
    logits = found.logits()
    logits[logits.isfinite()].square().sum().backward()
    without = [name for name, p in parameters.items() if p.grad is None or not bool(p.grad.any())]
    # Of embeddings that no position uses, some rows have none; a whole tensor never does.
    assert [name for name in without if "token_type" not in name and not name.endswith("bias")] == []
    assert all(parameter.dtype == torch.float32 for parameter in parameters.values())


@pytest.mark.parametrize("adapter", ["lora", "full"])
@pytest.mark.parametrize("kind", ["modernbert", "bert"])
def test_weights_survive_the_disk_and_plain_libraries_read_them(
    folders: dict[str, Path], kind: str, adapter: str, tmp_path: Path
) -> None:
    model = policy(folders, kind, adapter=adapter)
    with torch.no_grad():
        for parameter in model.trainable().values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    ids, wanted, attention = canvases()
    right = model.logits(ids, wanted, attention).hidden.detach()
    with model.reference():
        base = model.logits(ids, wanted, attention).hidden.detach()
    assert (right - base).abs().max() > 1e-3
    model.save(tmp_path / "trained")
    again = policy(folders, kind, adapter=adapter)
    again.load(tmp_path / "trained")
    assert torch.equal(again.logits(ids, wanted, attention).hidden, right)

    from transformers import AutoModelForMaskedLM

    if adapter == "full":
        plain = AutoModelForMaskedLM.from_pretrained(tmp_path / "trained")
    else:
        from peft import PeftModel

        plain = PeftModel.from_pretrained(AutoModelForMaskedLM.from_pretrained(folders[kind]), tmp_path / "trained")
    logits = plain.eval()(input_ids=ids[1:]).logits[0, [4, 6]]
    found = again.logits(ids[1:], wanted[1:], attention[1:])
    mine = found.logits()
    assert torch.allclose(logits[:, :3], mine[:, :3], atol=1e-4)


def test_another_rank_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    policy(folders, "bert").save(tmp_path)
    with pytest.raises(CheckpointError, match="rank 2 and alpha 4, the recipe has lora_rank 3"):
        policy(folders, "bert", lora_rank=3).load(tmp_path)


def test_prompts_and_answers(folders: dict[str, Path]) -> None:
    model = policy(folders, "bert", max_sequence_length=6, pad_ids=(0,))
    assert model.tokens("1+2=") == (1, 6, 15, 7, 18)
    assert model.text([6, 7, 2, 8, 3]) == "12" and model.text([6, 0, 7]) == "1"
    assert model.text([6, toys.VOCABULARY + 1]) == "1"  # an id that no tokenizer knows
    with pytest.raises(RunError, match=r"has 8 tokens, more than model\.max_sequence_length = 6"):
        model.tokens("100+200")


STATEMENTS: list[tuple[str, dict[str, Any], str]] = [
    ("bert", {"mask_id": None}, "model.mask_id: must be stated"),
    ("bert", {"eos_ids": ()}, "model.eos_ids: must be stated"),
    ("bert", {"chat_template": None}, "model.chat_template: must be stated"),
    ("bert", {"mask_id": 4}, "contradicts the model's config.json, whose mask_token_id is 3"),
    ("bert", {"logit_shift": 1}, "model.logit_shift: 1 does not fit: models of type bert have 0"),
    ("remote", {"padding_mask": "2d"}, "models of type Dream have 4d"),
    ("remote", {"trust_remote_code": False}, "runs only when the recipe sets model.trust_remote_code"),
    ("llada", {"trust_remote_code": False}, "runs only when the recipe sets model.trust_remote_code"),
    ("llada", {"logit_shift": 1}, "models of type llada have 0"),
    ("llada", {"padding_mask": "4d"}, "models of type llada have 2d"),
    ("llada", {"mask_id": None}, "model.mask_id: must be stated"),
    ("llada", {"mask_id": 4}, "contradicts the model's config.json, whose mask_token_id is 3"),
    ("bert", {"eos_ids": (9999,)}, "9999 is no id of this model"),
    ("bert", {"eos_ids": (3,)}, "is listed as an end or padding token too"),
    ("bert", {"chat_template": True}, "tokenizer has no chat template"),
    ("bert", {"lora_targets": ("qery",)}, "no linear layer of the network ends in 'qery'; did you mean 'query'"),
    ("bert", {"adapter": "full", "dtype": "bfloat16"}, "whose head is its embedding"),
]


@pytest.mark.parametrize(("kind", "changes", "reason"), STATEMENTS)
def test_a_wrong_or_missing_property_is_refused(
    folders: dict[str, Path], kind: str, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(RecipeError, match=reason):
        policy(folders, kind, **changes)


def test_unknown_models_and_folders_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    found = list(contradictions(section(folders, "bert"), {"model_type": "modernbertt"}))
    assert found[0][0] == "path" and "did you mean 'modernbert'" in found[0][1]
    with pytest.raises(RecipeError, match=r"model.path"):
        policy(folders, "bert", path=str(tmp_path))
