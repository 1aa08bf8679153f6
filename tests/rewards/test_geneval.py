"""GenEval's rules beyond the golden cases, detectors, colours, and the scorer over them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reward_models import ScorerError, load
from reward_models.detectors import from_torchvision, torchvision_detector
from reward_models.geneval_rules import Detection, check_metadata, judge, relations, select
from reward_models.object_colors import COLORS, clip_namer, crop

ASSETS = Path(__file__).parents[2] / "assets"
RED_CUP = {"tag": "colors", "include": [{"class": "cup", "count": 1, "color": "red"}]}
CAT_LEFT = {
    "tag": "position",
    "include": [{"class": "dog", "count": 1}, {"class": "cat", "count": 1, "position": ["left of", 0]}],
}
NUMBER = st.floats(0, 100, allow_nan=False)


def found(label: str, x: float = 0, score: float = 0.95, color: str | None = None) -> Detection:
    return Detection(label, score, (x, 0, x + 10, 10), color)


@given(NUMBER, NUMBER, NUMBER, NUMBER)
def test_relations_are_opposite_seen_from_the_other(ax: float, ay: float, bx: float, by: float) -> None:
    a, b = (ax, ay, ax + 20, ay + 10), (bx, by, bx + 6, by + 30)
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    assert {opposite[name] for name in relations(a, b)} == relations(b, a)
    assert not {"left of", "right of"} <= relations(a, b)


def test_relations_need_more_than_half_of_the_distance_beyond_the_margin() -> None:
    assert relations((0, 0, 10, 10), (30, 0, 40, 10)) == {"left of"}
    # Centres 4 apart, margin 0.1 * 20 = 2: exactly half is left, which is not enough.
    assert relations((0, 0, 10, 10), (4, 0, 14, 10)) == set()
    assert relations((0, 0, 10, 10), (4.1, 0, 14.1, 10)) == {"left of"}
    assert relations((0, 0, 10, 10), (30, 30, 40, 40)) == {"left of", "above"}
    assert relations((0, 0, 10, 10), (0, 0, 10, 10)) == set()


def test_a_wrong_layout_counts_once_or_as_published() -> None:
    objects = {"dog": [found("dog", 0)], "cat": [found("cat", 50)]}
    published, once = judge(objects, CAT_LEFT), judge(objects, CAT_LEFT, position="once")
    assert published.soft == 0.75 and once.soft == pytest.approx(2 / 3) and not published.strict
    right = judge({"dog": [found("dog", 50)], "cat": [found("cat", 0)]}, CAT_LEFT)
    assert (right.soft, right.strict, right.lenient) == (1.0, True, True)
    missing = judge({"cat": [found("cat", 0)]}, CAT_LEFT)
    # Counts 0 and 1, and one 0 for the position beside a dog that is not there.
    assert missing.soft == pytest.approx(1 / 3) and not missing.lenient


def test_exclusions_concern_the_lenient_reading() -> None:
    metadata = {"tag": "counting", "include": [{"class": "cup", "count": 1}], "exclude": [{"class": "cup", "count": 2}]}
    assert judge({"cup": [found("cup")]}, metadata).lenient
    two = judge({"cup": [found("cup"), found("cup")]}, metadata)
    assert not two.lenient and not two.strict and two.soft == 0


def test_selection_thresholds_and_order() -> None:
    many = [found("cup", score=0.31 + i / 100) for i in range(20)] + [found("cup", score=0.3), found("cat", score=0.9)]
    kept = select(many, "colors")
    assert len(kept["cup"]) == 16 and kept["cup"][0].score == pytest.approx(0.5)
    assert set(select(many, "counting")) == set() and set(kept) == {"cup", "cat"}


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({}, "need a tag, one of single_object"),
        ({"tag": "colors"}, "at least one clause"),
        ({"tag": "colors", "include": "cup"}, "at least one clause"),
        ({"tag": "colors", "include": [{"count": 1}]}, "clause 0 needs a class"),
        ({"tag": "colors", "include": [{"class": "cup", "count": 0}]}, "a count of at least 1; got 0"),
        ({"tag": "colors", "include": [{"class": "cup", "count": 1, "color": "teal"}]}, "the colour 'teal'"),
        ({"tag": "position", "include": [{"class": "cup", "count": 1, "position": ["near", 0]}]}, "needs a position"),
        ({"tag": "position", "include": [{"class": "a", "count": 1, "position": ["above", 0]}]}, "one before it"),
        ({**RED_CUP, "exclude": [{"class": "cup"}]}, "a count of at least 1; got None"),
    ],
)
def test_wrong_metadata_are_named(metadata: dict, words: str) -> None:
    assert words in check_metadata(metadata)


@pytest.fixture
def detector(tmp_path: Path) -> str:
    (tmp_path / "my_detector.py").write_text(
        "def detect(images, device):\n"
        "    color = lambda image: 'red' if image[0].mean() > image[2].mean() else 'blue'\n"
        "    return [[{'label': 'cup', 'score': 0.9, 'box': (0, 0, 4, 4), 'color': color(i)}] for i in images]\n"
        "def broken(images):\n"
        "    return [[{'name': 'cup'}] for _ in images]\n"
    )
    return f"{tmp_path / 'my_detector.py'}:"


def test_the_scorer_gives_three_readings_and_marks_wrong_metadata(detector: str) -> None:
    images = torch.zeros(3, 3, 8, 8)
    images[0, 0] = images[1, 2] = 1
    got = load("geneval", detector=detector + "detect")(images, ["p"] * 3, [RED_CUP, RED_CUP, {"tag": "colors"}])
    assert got.scores[:2].tolist() == [1.0, 0.5] and got.valid.tolist() == [True, True, False]
    assert got.components["strict"][:2].tolist() == got.components["lenient"][:2].tolist() == [1.0, 0.0]
    assert "at least one clause" in got.errors[2]


def test_wrong_detectors_are_refused(detector: str) -> None:
    with pytest.raises(ScorerError, match="something other than Detection or mappings"):
        load("geneval", detector=detector + "broken")(torch.zeros(1, 3, 8, 8), ["p"], [RED_CUP])
    with pytest.raises(ScorerError, match=r"knows no detector 'maskrcnn_resnet50' \(did you mean 'maskrcnn_res"):
        load("geneval", detector="maskrcnn_resnet50")
    with pytest.raises(ScorerError, match="no position 'twice'"):
        load("geneval", detector=detector + "detect", position="twice")


def test_torchvisions_answer_becomes_detections() -> None:
    output = {
        "boxes": torch.tensor([[1.0, 2, 3, 4]]),
        "labels": torch.tensor([2]),
        "scores": torch.tensor([0.75]),
        "masks": torch.tensor([[[[0.4, 0.6]]]]),
    }
    (one,) = from_torchvision(output, ["__background__", "cup", "tv remote"])
    assert (one.label, one.score, one.box) == ("tv remote", 0.75, (1.0, 2.0, 3.0, 4.0))
    assert one.mask.tolist() == [[False, True]]


def test_a_torchvision_detector_runs_on_weights_from_a_file(tmp_path: Path) -> None:
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    torch.manual_seed(0)
    network = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=91)
    torch.save(network.state_dict(), tmp_path / "x.pth")
    made = torchvision_detector("ssdlite320_mobilenet_v3_large", device="cpu", weights=str(tmp_path / "x.pth"))
    assert {"computer mouse", "tv remote", "computer keyboard", "hot dog"} <= made.classes and "N/A" not in made.classes
    with torch.no_grad():
        (answer,) = made.detect(torch.rand(1, 3, 32, 32))
    assert all(one.label in made.classes | {"N/A", "__background__"} for one in answer)
    scorer = load("geneval", detector="ssdlite320_mobilenet_v3_large", detector_weights=str(tmp_path / "x.pth"))
    got = scorer(
        torch.rand(2, 3, 32, 32), ["p"] * 2, [RED_CUP, {"tag": "counting", "include": [{"class": "cupp", "count": 1}]}]
    )
    assert got.valid.tolist() == [True, False] and got.scores[0] == 0
    assert "no class 'cupp' (did you mean 'cup'?)" in got.errors[1]


def test_crops_take_the_mask_on_grey() -> None:
    image = torch.ones(3, 4, 6)
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[1, 1] = True
    got = crop(image, Detection("cup", 1, (0.6, 0.4, 2.6, 9.0), mask=mask))
    assert got.shape == (1, 3, 4, 2) and got[0, :, 1, 0].tolist() == [1.0] * 3
    assert got[0, 0, 0, 0] == pytest.approx(0.6) and crop(image, Detection("cup", 1, (7, 7, 7, 7))).shape == (
        1,
        3,
        1,
        1,
    )


class ByMean:
    """Embeds pictures as their mean colour and texts as the colour that they name."""

    def encode_text(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(rows, 10).float()

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        scores = torch.zeros(len(images), 10)
        scores[:, COLORS.index("red")], scores[:, COLORS.index("blue")] = (
            images[:, 0].mean((1, 2)),
            images[:, 2].mean((1, 2)),
        )
        return scores


def test_colours_are_the_nearest_direction() -> None:
    def tokenize(texts: list[str]) -> torch.Tensor:
        return torch.tensor([next(i for i, color in enumerate(COLORS) if f" {color}" in text) for text in texts])

    image = torch.zeros(3, 4, 8)
    image[0, :, :4], image[2, :, 4:] = 1, 1
    name = clip_namer(ByMean(), tokenize, lambda x: x.mean((2, 3), keepdim=True), "cpu")
    halves = [Detection("cup", 1, (0, 0, 4, 4)), Detection("car", 1, (4, 0, 8, 4))]
    assert name(image, halves) == ["red", "blue"]


def test_colours_by_the_embedded_clip(tmp_path: Path) -> None:
    """The embedded model knows the colours of the world of shapes; here it only has to run."""
    (tmp_path / "plain.py").write_text(
        "from reward_models.geneval_rules import Detection\n"
        "def detect(images):\n    return [[Detection('circle', 0.9, (0, 0, 8, 8))] for _ in images]\n"
    )
    options = {
        "detector": f"{tmp_path / 'plain.py'}:detect",
        "color_model": str(ASSETS / "tiny-clip"),
        "color_weights": None,
    }
    metadata = {"tag": "colors", "include": [{"class": "circle", "count": 1, "color": "red"}]}
    got = load("geneval", **options)(torch.rand(2, 3, 16, 16), ["p"] * 2, [metadata] * 2)
    assert got.valid.all() and set(got.scores.tolist()) <= {0.5, 1.0}
    with pytest.raises(ScorerError, match="cannot name colours: scorer 'clip' knows no model"):
        load("geneval", **{**options, "color_model": "ViT-L-41"})(torch.rand(1, 3, 16, 16), ["p"], [metadata])
