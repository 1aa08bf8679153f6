"""The preference judge: what holds for any weights, on a small random network; and the scripts that train it."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from reward_models import Scorer, load
from reward_models.preference import CONFIG, WEIGHTS, Shape, Utility, load_utility, save_utility, utilities
from reward_models.shapes import parse, render
from scripts.train_tiny_preference import (
    DAMAGES,
    batch,
    damaged,
    make_optimizer,
    preference_loss,
    resume,
    train,
    vocabulary,
)

CAPTIONS = ("a red circle", "three blue squares")
SHAPE = Shape(words=("a", "red", "circle", "three", "blue", "squares"), channels=(8, 8, 16), text=12, maps=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("preference")
    save_utility(Utility(SHAPE), place)
    return place


@pytest.fixture(scope="module")
def scorer(folder: Path) -> Scorer:
    return load("preference", model=str(folder))


def pictures(count: int, caption: str = CAPTIONS[0], seed: int = 0) -> torch.Tensor:
    drawn = np.stack([render(parse(caption), np.random.default_rng([seed, i])) for i in range(count)])
    return torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 255


def test_verdicts_follow_the_utilities(scorer: Scorer, folder: Path) -> None:
    images, prompts = torch.cat([pictures(4), pictures(3, CAPTIONS[1])]), [CAPTIONS[0]] * 4 + [CAPTIONS[1]] * 3
    with torch.no_grad():
        utility = utilities(load_utility(folder), images, prompts)
    scores = scorer(images, prompts, group=[0] * 4 + [1] * 3)
    assert len(scores.comparisons) == 6 + 3 and scores.valid.all()
    assert all(verdict == float(utility[a] > utility[b]) for a, b, verdict in scores.comparisons)
    assert torch.equal(scores.scores[:4].argsort(), utility[:4].argsort())


def test_the_order_does_not_matter_and_equal_pictures_tie(scorer: Scorer, folder: Path) -> None:
    images = pictures(5)
    images[3] = images[1]
    scores = scorer(images, [CAPTIONS[0]] * 5, group=[0] * 5)
    both = load("preference", model=str(folder), both_orders=True)(images, [CAPTIONS[0]] * 5, group=[0] * 5)
    assert torch.equal(scores.scores, both.scores) and len(both.comparisons) == 2 * len(scores.comparisons)
    assert next(v for a, b, v in scores.comparisons if {a, b} == {1, 3}) == 0.5


def test_batches_and_groups_do_not_change_the_scores(scorer: Scorer) -> None:
    """80 pictures go through the network in calls of 64 and 16."""
    images = pictures(80)
    group = [i // 5 for i in range(80)]
    whole = scorer(images, [CAPTIONS[0]] * 80, group=group)
    part = scorer(images[60:65], [CAPTIONS[0]] * 5, group=group[60:65])
    assert torch.equal(part.scores, whole.scores[60:65])


def test_the_caption_matters_and_any_text_and_size_get_a_verdict(folder: Path) -> None:
    network, images = load_utility(folder), torch.rand(4, 3, 40, 90)
    texts = ["A RED circle.", "a red circle", "", "ein Bild 漢字 " * 30]
    with torch.no_grad():
        found = utilities(network, images[:1].expand(4, -1, -1, -1), texts)
        empty = utilities(network, images[:0], [])
    assert found.isfinite().all() and found[0] == pytest.approx(found[1].item(), abs=1e-6)
    assert abs(found[2] - found[1]) > 1e-4 and abs(found[3] - found[1]) > 1e-4 and empty.shape == (0,)


def test_words_beyond_a_captions_end_do_not_reach_its_summary(folder: Path) -> None:
    """Without padding the reader's state after "a red circle" (words 2, 3, 4 of the vocabulary) is the summary."""
    network = load_utility(folder)
    with torch.no_grad():
        _, state = network.reader(network.words(torch.tensor([[2, 3, 4]])))
        together = network.read(["three blue squares", "a red circle", "three blue squares"])
    torch.testing.assert_close(together[1:2], state[0], atol=1e-6, rtol=0)
    assert torch.equal(together[0], together[2]) and not torch.allclose(together[0], together[1], atol=1e-3)


def test_the_card(scorer: Scorer, folder: Path) -> None:
    assert (scorer.name, scorer.kind, scorer.range, scorer.licence) == ("preference", "pairwise", (0.0, 1.0), "unknown")
    assert scorer.version == load("preference", model=str(folder)).version and len(scorer.version) == 12


def test_weights_are_loaded_strictly(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot load '.*nowhere': FileNotFoundError"):
        load("preference", model=str(tmp_path / "nowhere"))
    other = tmp_path / "other"
    save_utility(load_utility(folder), other)
    version = load("preference", model=str(other)).version
    values = json.loads((other / CONFIG).read_text())
    (other / CONFIG).write_text(json.dumps(values | {"maps": 3}))
    with pytest.raises(ValueError, match="size mismatch"):
        load("preference", model=str(other))
    (other / CONFIG).write_text(json.dumps(values | {"mean": [0.5, 0.5, 0.5]}))
    assert load("preference", model=str(other)).version != version
    (other / WEIGHTS).write_bytes(b"not weights")
    with pytest.raises(ValueError, match="cannot load"):
        load("preference", model=str(other))


def test_an_unknown_option_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no option 'round' \(did you mean 'rounds'\?\)"):
        load("preference", round=3)


def test_training_data_say_what_each_picture_is_worth() -> None:
    """The first of each caption follows it: worth 1 unless damaged, and damage costs 0.2 to 0.8."""
    images, captions, worth = batch(0, 0, 40)
    again = batch(0, 0, 40)
    assert torch.equal(images, again[0]) and torch.equal(worth, again[2]) and captions == again[1]
    assert images.shape == (160, 3, 64, 64) and worth.shape == (40, 4) and captions[:4] == [captions[0]] * 4
    assert ((worth[:, 0] == 1) | ((worth[:, 0] <= 0.8) & (worth[:, 0] >= 0.2))).all()
    assert 0.5 < (worth[:, 0] == 1).double().mean() < 0.9 and worth[:, 1:].mean() < worth[:, 0].mean() - 0.1
    assert not torch.equal(images, batch(0, 1, 40)[0])


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_shows(kind: str) -> None:
    rng = np.random.default_rng(0)
    clean = render(parse(CAPTIONS[1]), rng)
    for _ in range(5):
        picture, severity = damaged(clean, kind, rng)
        assert picture.dtype == np.uint8 and picture.shape == clean.shape and 0.2 <= severity <= 0.8
        assert np.abs(picture.astype(float) - clean).mean() > 0.5


def test_the_loss_is_bradley_terry_over_clear_pairs() -> None:
    """Worths 1, 1, 0: two clear pairs, gaps 2 and -1; the pair of equal worth does not count."""
    loss, right = preference_loss(torch.tensor([[2.0, -1.0, 0.0]]), torch.tensor([[1.0, 1.01, 0.0]]))
    assert loss.item() == pytest.approx((math.log(1 + math.exp(-2)) + math.log(1 + math.exp(1))) / 2, abs=1e-6)
    assert right.item() == 0.5


def test_stopped_and_continued_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    """Four steps, once in one go and once from the state that the third left."""

    def settings(work: str, save_every: int) -> argparse.Namespace:
        values = {"seed": 0, "steps": 4, "captions": 2, "rate": 1e-3, "log_every": 100}
        return argparse.Namespace(**values, save_every=save_every, work=tmp_path / work)

    def begin() -> tuple[Utility, torch.optim.Optimizer]:
        torch.manual_seed(1)
        network = Utility(Shape(words=vocabulary()))
        return network, make_optimizer(network, 1e-3)

    whole, continued, args = begin(), begin(), settings("stopped", 3)
    train(*whole, 0, settings("whole", 100))
    train(*begin(), 0, args)
    done = resume(*continued, args)
    assert done["step"] == 3
    train(*continued, done["step"], args)
    for name, value in whole[0].state_dict().items():
        assert torch.equal(value, continued[0].state_dict()[name]), name
    args.rate = 2e-3
    with pytest.raises(SystemExit, match="is of a run with"):
        resume(*begin(), args)
