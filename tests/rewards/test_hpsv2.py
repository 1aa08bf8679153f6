"""HPSv2 on a small network of the same classes: faithful to open_clip used by hand, strict about weights."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F

from reward_models import ScorerError, load
from reward_models.hpsv2 import OPENAI_MEAN, OPENAI_STD, hpsv2_images

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 28, "layers": 2, "width": 32, "head_width": 16, "patch_size": 14},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
PROMPTS = ("a red fox", "a blue door", "a red fox")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("hps")
    torch.manual_seed(0)
    network = open_clip.CLIP(**TINY).eval()
    (folder / "tiny.json").write_text(json.dumps(TINY))
    torch.save({"state_dict": network.state_dict(), "epoch": 3}, folder / "tiny.pt")
    options = {"architecture": str(folder / "tiny.json"), "weights": str(folder / "tiny.pt")}
    return {"network": network, "options": options, "folder": folder}


def pictures() -> torch.Tensor:
    return torch.rand(3, 3, 40, 24, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["hpsv2", "hpsv2.1"])
def test_scores_are_cosines_of_open_clip(tiny: dict, name: str) -> None:
    scorer = load(name, **tiny["options"])
    tokens = open_clip.get_tokenizer("ViT-H-14")(list(PROMPTS))
    with torch.no_grad():
        seen = tiny["network"].encode_image(hpsv2_images(pictures(), 28), normalize=True)
        read = tiny["network"].encode_text(tokens, normalize=True)
    got = scorer(pictures(), PROMPTS)
    torch.testing.assert_close(got.scores, (seen * read).sum(-1).double(), rtol=0, atol=1e-6)
    assert scorer.name == name and scorer.range == (-1.0, 1.0) and scorer.licence == "unknown"


def test_preprocessing_fits_the_longest_side_and_pads_with_black() -> None:
    black = -torch.tensor(OPENAI_MEAN) / torch.tensor(OPENAI_STD)
    out = hpsv2_images(torch.ones(1, 3, 8, 5), 4)[0]
    assert out.shape == (3, 4, 4)
    # Side 5 becomes round(2.5) = 2: one column of padding on either side.
    torch.testing.assert_close(out[:, :, 0], black[:, None].expand(3, 4))
    torch.testing.assert_close(out[:, :, 3], black[:, None].expand(3, 4))
    white = (1 - torch.tensor(OPENAI_MEAN)) / torch.tensor(OPENAI_STD)
    torch.testing.assert_close(out[:, :, 1:3], white[:, None, None].expand(3, 4, 2), rtol=0, atol=1e-5)


def test_preprocessing_rounds_to_8_bits_first_and_pads_the_odd_row_below() -> None:
    nearly = torch.full((1, 3, 3, 4), 100.4 / 255)
    out = hpsv2_images(nearly, 4)[0]
    value = (100 / 255 - torch.tensor(OPENAI_MEAN)) / torch.tensor(OPENAI_STD)
    torch.testing.assert_close(out[:, :3], value[:, None, None].expand(3, 3, 4))
    assert (out[:, 3] < out[:, 2]).all()


def test_the_resize_is_antialiased_and_not_clamped() -> None:
    board = (torch.arange(64).view(1, 1, 8, 8) // 8 + torch.arange(8)) % 2
    out = hpsv2_images(board.float().expand(1, 3, 8, 8), 4)
    mean, std = torch.tensor(OPENAI_MEAN).view(3, 1, 1), torch.tensor(OPENAI_STD).view(3, 1, 1)
    plain = F.interpolate(board.float(), size=4, mode="bicubic", antialias=True)[0]
    torch.testing.assert_close(out[0] * std + mean, plain.expand(3, 4, 4), rtol=0, atol=1e-6)
    edge = torch.zeros(1, 3, 4, 4)
    edge[..., 2:] = 1
    assert (hpsv2_images(edge, 8)[0] * std + mean).max() > 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("text_projection"), r"1 missing \(text_projection\)"),
        (lambda s: s.update(extra=torch.zeros(1)), r"1 unknown \(extra\)"),
        (lambda s: s.update(text_projection=torch.zeros(2, 2)), r"1 of another shape \(text_projection\)"),
    ],
)
def test_weights_must_fit_exactly(tiny: dict, tmp_path: Path, change, words: str) -> None:
    state = dict(tiny["network"].state_dict())
    change(state)
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(ScorerError, match=words):
        load("hpsv2", **{**tiny["options"], "weights": str(tmp_path / "other.pt")})


def test_versions_follow_weights_and_precision(tiny: dict, tmp_path: Path) -> None:
    first = load("hpsv2", **tiny["options"])
    assert first.version == load("hpsv2.1", **tiny["options"]).version
    assert first.version != load("hpsv2", **tiny["options"], precision="bfloat16").version
    state = tiny["network"].state_dict()
    torch.save({**state, "logit_scale": state["logit_scale"] + 1}, tmp_path / "other.pt")
    assert first.version != load("hpsv2", **{**tiny["options"], "weights": str(tmp_path / "other.pt")}).version


def test_half_precision_stays_close(tiny: dict) -> None:
    full = load("hpsv2", **tiny["options"])(pictures(), PROMPTS).scores
    half = load("hpsv2", **tiny["options"], precision="bfloat16")(pictures(), PROMPTS).scores
    assert 0 < (full - half).abs().max() < 0.03


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "fp16"}, r"no precision 'fp16'.*right would be one of auto"),
        ({"architecture": "ViT-H-41"}, r"no architecture 'ViT-H-41' \(did you mean 'ViT-H-1"),
        ({"architecture": "nowhere.json"}, "no file 'nowhere.json' with an architecture"),
        ({"weights": "nowhere.pt"}, "finds no file 'nowhere.pt'"),
        ({"weights": "hf-hub:xswu"}, "cannot read 'hf-hub:xswu'; right would be hf-hub:org/name/file"),
    ],
)
def test_wrong_options_are_refused(tiny: dict, options: dict, words: str) -> None:
    with pytest.raises(ScorerError, match=words):
        load("hpsv2", **{**tiny["options"], **options})
