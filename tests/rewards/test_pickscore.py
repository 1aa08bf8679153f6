"""PickScore on a small CLIPModel: the numbers of transformers used by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from reward_models import ScorerError, load

TOKENIZER = Path(__file__).parents[2] / "assets" / "tiny-sd3" / "tokenizer"
PROMPTS = ("a red circle", "three blue squares above a green cross", "a red circle")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pickscore")
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    text = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {**dict.fromkeys(("hidden_size", "intermediate_size"), 16), "image_size": 32, "patch_size": 16}
    vision |= {"num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(path)
    return path


def arrays(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, height, width, 3), dtype=np.uint8)


def as_images(drawn: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 255


def by_hand(folder: Path, drawn: np.ndarray) -> torch.Tensor:
    model = CLIPModel.from_pretrained(folder).eval()
    tokenizer, processor = CLIPTokenizer.from_pretrained(folder), CLIPImageProcessor.from_pretrained(folder)
    texts = tokenizer(list(PROMPTS), padding=True, truncation=True, max_length=77, return_tensors="pt")
    seen = processor([Image.fromarray(one) for one in drawn], return_tensors="pt")
    with torch.no_grad():
        return model(**texts, **seen).logits_per_image.diagonal().double()


def test_scores_are_the_logits_of_transformers(folder: Path) -> None:
    drawn = arrays(32, 32)
    got = load("pickscore", model=str(folder))(as_images(drawn), PROMPTS)
    torch.testing.assert_close(got.scores, by_hand(folder, drawn), rtol=1e-5, atol=1e-5)
    assert got.valid.all()


@pytest.mark.parametrize("size", [(80, 80), (48, 64), (90, 50)])
def test_resized_pictures_differ_by_rounding_only(folder: Path, size: tuple[int, int]) -> None:
    drawn = arrays(*size)
    got = load("pickscore", model=str(folder))(as_images(drawn), PROMPTS).scores
    assert (got - by_hand(folder, drawn)).abs().max() < 0.05


def test_the_card_holds_scale_and_version(folder: Path) -> None:
    scorer = load("pickscore", model=str(folder))
    scale = CLIPModel.from_pretrained(folder).logit_scale.exp().item()
    assert scorer.range == (-scale, scale) and scorer.licence == "unknown" and scorer.needs == ("prompt",)
    assert scorer.version == load("pickscore", model=str(folder)).version


def test_a_model_with_a_missing_tensor_is_refused(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    state = load_file(folder / "model.safetensors")
    del state["text_projection.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ScorerError, match=r"1 tensors of '.*' at random \(text_projection.weight\)"):
        load("pickscore", model=str(tmp_path))


def test_a_missing_folder_is_refused() -> None:
    with pytest.raises(ScorerError, match=r"scorer 'pickscore' cannot load CLIPModel from '\./nowhere'"):
        load("pickscore", model="./nowhere")
