"""Text encoders of published size, the tensors that stand for them, and adapters on disk."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import Embedding, Linear, Sequential

from flowgrpo.assets import asset
from flowgrpo.model_facts import read_model
from flowgrpo.policies import rehearsal, rehearsal_saving
from flowgrpo.policies.rehearsal import read_real, real_names, section
from flowgrpo.policies.rehearsal_meter import fake_tensors
from flowgrpo.policies.rehearsal_text import longest_prompt, read_encoder, words_tokenizer

TEMPLATED, QUICK = "qwen-image", ("tiny-sd3", "qwen-image")
LAYERS = ("num_layers", "num_single_layers", "n_layers", "n_refiner_layers")


def thin(name: str, blocks: int = 2) -> dict[str, Any]:
    """A model whose networks have few blocks: its text encoders are whole."""
    real = read_real(name)
    networks = {
        part: [kind, {**config, **{key: blocks for key in LAYERS if key in config}}]
        for part, (kind, config) in real["networks"].items()
    }
    return {**real, "networks": networks}


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in real_names()]
)
def test_encode_prompt_makes_text_of_the_published_shapes(name: str) -> None:
    """The policy's own `encode`, by the pipeline's own `encode_prompt`, in encoders of the published numbers."""
    real = thin(name)
    with fake_tensors():
        policy = rehearsal.build(real, section(real), encoders=True)
        _, cond = rehearsal.encode(policy)
        short = policy.encode(["a red circle"]).prompt if name == TEMPLATED else {}
        counts = {part: sum(p.numel() for p in getattr(policy._pipe, part).parameters()) for part in real["encoders"]}
    assert {key: list(rows.shape[1:]) for key, rows in cond.prompt.items()} == real["text"]
    assert cond.negative.keys() in (cond.prompt.keys(), set())
    assert cond.prompt["tokens"].dtype == policy.dtype and isinstance(cond.prompt["tokens"], FakeTensor)
    assert counts == {
        part: read_encoder(held)["published_parameters"][kind] for part, (kind, held) in real["encoders"].items()
    }
    if "mask" in cond.prompt:
        mask = cond.prompt["mask"]
        assert not isinstance(mask, FakeTensor) and mask.all(), "the longest prompt fills it"
    if name == TEMPLATED:  # Three words, and five tokens and an end behind them; the 34 before them are dropped.
        assert short["mask"].sum() == 3 + 5 + 1


def test_the_stand_in_counts_the_template_as_the_real_tokenizer_does() -> None:
    """Qwen-Image's pipeline drops 34 tokens before the prompt; one more or less would leave some of the template."""
    from diffusers import QwenImagePipeline

    pipe = QwenImagePipeline(None, None, None, None, None)
    before = pipe.prompt_template_encode.split("{}")[0]
    assert len(words_tokenizer()(before, add_special_tokens=False).input_ids) == pipe.prompt_template_encode_start_idx
    assert len(words_tokenizer()(longest_prompt({"max_sequence_length": 7})).input_ids) == 7 + 1


def test_the_embedded_encoders_have_their_own_numbers() -> None:
    real, folder = read_real("tiny-sd3"), asset("tiny-sd3")
    on_disk = read_model(folder).parameters
    for part, (kind, name) in real["encoders"].items():
        stated = json.loads((folder / part / "config.json").read_text(encoding="utf-8"))
        held = read_encoder(name)
        assert stated["architectures"] == [kind]
        assert held["config"] == {key: stated[key] for key in held["config"]}
        buffers = on_disk[part] - held["published_parameters"][kind]
        assert 0 <= buffers <= stated.get("max_position_embeddings", 0)


def test_what_is_real_stays_real_and_picks_from_what_is_fake() -> None:
    mask = torch.tensor([[True, True, False], [True, False, False]])
    with fake_tensors():
        hidden = torch.randn(2, 3, 5)
        lengths = mask.sum(1).tolist()
        picked, ones = hidden[mask], torch.ones(4, dtype=torch.long)
        mixed = hidden * mask.unsqueeze(-1)
    assert lengths == [2, 1]
    assert isinstance(picked, FakeTensor) and picked.shape == (3, 5)
    assert ones.tolist() == [1, 1, 1, 1]
    assert isinstance(mixed, FakeTensor) and mixed.shape == (2, 3, 5)


def test_tied_weights_stay_tied_in_another_dtype() -> None:
    with fake_tensors():
        table, head = Embedding(7, 3), Linear(3, 7, bias=False)
        head.weight = table.weight
        both = Sequential(table, head).to(torch.bfloat16)
    assert sum(held.numel() for held in both.parameters()) == 21
    assert both[1].weight is both[0].weight and both[0].weight.dtype == torch.bfloat16


def saved(real: dict[str, Any], alpha: int) -> dict[str, Any]:
    rank = rehearsal_saving.SAVED_RANK
    with fake_tensors():
        model = section(real, rank=rank).model_copy(update={"lora_alpha": alpha})
        policy = rehearsal.build(real, model)
    return rehearsal_saving.saved_adapter("it", real, policy)


def test_an_adapter_is_written_and_read_by_a_run_and_by_diffusers(monkeypatch: pytest.MonkeyPatch) -> None:
    real, rank = read_real("tiny-sd3"), rehearsal_saving.SAVED_RANK
    assert saved(real, 2 * rank) == {"files": 1, "tensors": 62, "bytes": 4 * rank * 7936}
    with pytest.raises(AssertionError, match=r"have the strengths \[1.0\]"):
        saved(real, rank)
    honest = rehearsal_saving._by_diffusers
    for spoil, said in (
        (lambda read: {key: held + 1 for key, held in read.items()}, "with other values"),
        (lambda read: dict(list(read.items())[1:]), "reads 61 tensors, not 62"),
    ):
        monkeypatch.setattr(rehearsal_saving, "_by_diffusers", lambda *given, spoil=spoil: spoil(honest(*given)))
        with pytest.raises(AssertionError, match=said):
            saved(real, 2 * rank)


def test_both_networks_of_a_model_of_two_get_their_adapters() -> None:
    """Wan2.2's second file lies in a folder of its own and goes into `transformer_2`."""
    rank = rehearsal_saving.SAVED_RANK
    layers = read_real("wan2.2-t2v-a14b")["expected"]["adapted_layers"] // 40
    file = saved(thin("wan2.2-t2v-a14b", blocks=1), 2 * rank)
    assert file == {"files": 2, "tensors": 2 * layers, "bytes": 4 * rank * layers * 2 * 5120}
