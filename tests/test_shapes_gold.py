"""The shape world: grammar and renderer, the exact verifier, and the prompt sets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter

from reward_models import shapes
from reward_models.gold import find_objects, judge, score_gold
from reward_models.shapes import CATEGORIES, COLORS, RELATIONS, Item, Placed, Scene, caption, draw, parse, render
from scripts.make_prompts import COMBO_SIZES, HELD_OUT, HELDOUT_SIZES, TRAIN_SIZES, make_sets, to_row
from scripts.tiny_sd3_data import corrupt

PROMPTS = Path(__file__).parents[1] / "assets" / "prompts"
PER_CATEGORY = 120


@pytest.fixture(scope="module")
def world() -> tuple[list[Scene], list[np.ndarray]]:
    rng = np.random.default_rng(11)
    scenes = [shapes.sample_scene(rng, kind) for kind in CATEGORIES for _ in range(PER_CATEGORY)]
    return scenes, [render(scene, rng) for scene in scenes]


def strict_of(pictures: list[np.ndarray], scenes: list[Scene]) -> np.ndarray:
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    partial, strict, errors = score_gold(images, [caption(scene) for scene in scenes])
    assert not errors
    assert ((partial == 1) == (strict == 1)).all() and (partial >= 0).all() and (partial <= 1).all()
    return strict.numpy()


def picture_of(*objects: Placed) -> np.ndarray:
    return draw(objects, np.random.default_rng(0)) / 255


def verdict(text: str, *objects: Placed) -> tuple[float, bool]:
    result = judge(parse(text), find_objects(picture_of(*objects)))
    return round(result.partial, 4), result.strict


RED_CIRCLE = Placed("red", "circle", 16, 16, 8)
BLUE_SQUARE = Placed("blue", "square", 44, 18, 8)


def test_every_sampled_scene_survives_caption_and_parse(world):
    scenes, _ = world
    assert all(parse(caption(scene)) == scene for scene in scenes)
    assert [shapes.category(scene) for scene in scenes] == [kind for kind in CATEGORIES for _ in range(PER_CATEGORY)]


def test_parse_reads_each_part():
    scene = parse("  A small green cross left of a white triangle. ")
    assert scene == Scene((Item("green", "cross", "small"), Item("white", "triangle")), "left of")
    assert parse("four blue squares") == Scene((Item("blue", "square", None, 4),))
    assert shapes.combinations(scene) == ("green cross", "white triangle")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "ends where a number"),
        ("a red", "ends where a shape"),
        ("a rde circle", "did you mean 'red'"),
        ("a red circel", "did you mean 'circle'"),
        ("five red circles", "'five'"),
        ("two red circle", "did you mean 'circles'"),
        ("a red circle abov a blue square", "did you mean 'above'"),
        ("a red circle and", "ends where a number"),
        ("two red circles and a blue square", "one each"),
        ("a red circle and a red circle", "differ in colour or shape"),
        ("three large red circles", "at most two large"),
        ("a red circle and a blue square and a white cross", "after the second object"),
        ("a photograph of a dog", "'photograph'"),
    ],
)
def test_captions_outside_the_world_say_why(text, says):
    with pytest.raises(ValueError, match=r"outside the world of shapes") as caught:
        parse(text)
    assert says in str(caught.value)


def test_pictures_depend_on_the_seed_alone():
    scene = parse("three yellow triangles")
    first, again, other = (render(scene, np.random.default_rng(seed)) for seed in (4, 4, 5))
    assert first.shape == (64, 64, 3) and first.dtype == np.uint8
    assert (first == again).all() and (first != other).any()


def test_layouts_keep_apart_and_keep_relations():
    rng = np.random.default_rng(2)
    for relation, (ux, uy) in RELATIONS.items():
        scene = Scene((Item("red", "circle", "large"), Item("blue", "square")), relation)
        for _ in range(30):
            a, b = shapes.layout(scene, rng)
            assert ux * (a.x - b.x) + uy * (a.y - b.y) >= a.radius + b.radius + 3
            assert all(p.radius <= v <= 64 - p.radius for p in (a, b) for v in (p.x, p.y))


def test_gold_is_right_on_rendered_pictures(world):
    scenes, pictures = world
    assert strict_of(pictures, scenes).mean() >= 0.995


def test_gold_sees_one_wrong_attribute(world):
    scenes, pictures = world
    rng = np.random.default_rng(3)
    for typical in (0.0, 1.0):
        assert strict_of(pictures, [corrupt(scene, rng, typical) for scene in scenes]).mean() < 0.005


def test_gold_bears_noise_and_blur(world):
    scenes, pictures = world
    rng = np.random.default_rng(4)
    blurred = [np.asarray(Image.fromarray(p).filter(ImageFilter.GaussianBlur(0.7))) for p in pictures]
    for changed in (pictures, blurred):
        noisy = [np.clip(p + rng.normal(0, 0.03 * 255, p.shape), 0, 255) for p in changed]
        assert strict_of(noisy, scenes).mean() >= 0.98
    assert strict_of(blurred, scenes).mean() >= 0.98


def test_gold_does_not_need_the_lattice(world):
    scenes, _ = world
    rng = np.random.default_rng(6)

    def shaken(thing: Placed) -> Placed:
        x, y, scale = rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(0.94, 1.06)
        return Placed(thing.color, thing.shape, thing.x + x, thing.y + y, scale * thing.radius)

    pictures = [draw(tuple(shaken(thing) for thing in shapes.layout(scene, rng)), rng) for scene in scenes]
    assert strict_of(pictures, scenes).mean() >= 0.995


def test_gold_is_deterministic_and_samples_are_independent(world):
    scenes, pictures = world
    images = torch.from_numpy(np.stack(pictures[:40])).permute(0, 3, 1, 2).float() / 255
    prompts = [caption(scene) for scene in scenes[20:60]]
    partial, strict, _ = score_gold(images, prompts)
    alone = [score_gold(images[i : i + 1], prompts[i : i + 1])[:2] for i in range(40)]
    assert torch.equal(partial, torch.cat([p for p, _ in alone]))
    assert torch.equal(strict, torch.cat([s for _, s in alone]))


@pytest.mark.parametrize("shape", shapes.SHAPES)
@pytest.mark.parametrize("color", COLORS)
def test_objects_are_named_located_and_measured(color, shape):
    for radius in (5.0, 8.0, 13.0):
        (found,) = find_objects(picture_of(Placed(color, shape, 30, 35, radius)))
        assert (found.color, found.shape) == (color, shape)
        assert abs(found.x - 30) <= 1 and abs(found.y - 35) <= 1 and abs(found.radius - radius) <= 1.2


def test_partial_is_the_mean_of_the_clauses():
    assert verdict("a red circle", RED_CIRCLE) == (1.0, True)
    assert verdict("a blue circle", RED_CIRCLE) == (round(2 / 3, 4), False)
    assert verdict("a blue square", RED_CIRCLE) == (round(1 / 3, 4), False)
    assert verdict("a large red circle", RED_CIRCLE) == (0.75, False)
    assert verdict("a red circle", RED_CIRCLE, BLUE_SQUARE) == (0.25, False)
    assert verdict("two red circles", RED_CIRCLE) == (0.5, False)
    assert verdict("a red circle and a blue square", RED_CIRCLE, BLUE_SQUARE) == (1.0, True)
    assert verdict("a blue circle and a red square", RED_CIRCLE, BLUE_SQUARE) == (round(2 / 3, 4), False)
    assert verdict("a red circle left of a blue square", RED_CIRCLE, BLUE_SQUARE) == (1.0, True)
    assert verdict("a blue square right of a red circle", RED_CIRCLE, BLUE_SQUARE) == (1.0, True)
    for relation in ("right of", "above", "below"):
        assert verdict(f"a red circle {relation} a blue square", RED_CIRCLE, BLUE_SQUARE) == (0.75, False)
    assert verdict("a red circle") == (0.0, False)


def test_drawing_more_than_was_asked_for_never_pays():
    """With a third object some pair may stand right; that must be worth less than two objects that stand wrong."""
    prompt, third = "a red circle below a blue square", Placed("red", "circle", 44, 50, 8)
    hedged, _ = verdict(prompt, RED_CIRCLE, BLUE_SQUARE, third)
    missing, _ = verdict(prompt, BLUE_SQUARE)
    wrong, _ = verdict(prompt, RED_CIRCLE, BLUE_SQUARE)
    assert (missing, hedged, wrong) == (0.375, round(4 / 9, 4), 0.75)
    assert verdict("a red square", RED_CIRCLE, BLUE_SQUARE)[0] < verdict("a red square", RED_CIRCLE)[0]


def test_size_words_have_a_free_middle():
    for radius, small, large in ((5.0, True, False), (8.0, False, False), (13.0, False, True)):
        thing = Placed("green", "cross", 32, 32, radius)
        assert verdict("a small green cross", thing)[1] is small
        assert verdict("a large green cross", thing)[1] is large
        assert verdict("a green cross", thing)[1]


def test_other_figures_and_colors_have_no_name():
    picture = Image.new("RGB", (64, 64), shapes.BACKGROUND)
    pen = ImageDraw.Draw(picture)
    pen.ellipse((4, 4, 24, 24), outline=COLORS["red"], width=4)
    pen.rectangle((36, 6, 60, 14), fill=COLORS["blue"])
    pen.polygon([(8, 40), (28, 40), (18, 58)], fill=COLORS["white"])
    pen.rectangle((40, 40, 56, 56), fill=(40, 230, 230))
    found = {(round(thing.x), round(thing.y)): thing for thing in find_objects(np.asarray(picture) / 255)}
    shapes_found = [found[key].shape for key in sorted(found)]
    assert len(found) == 4 and shapes_found.count(None) == 3
    assert [thing.color for thing in found.values() if thing.shape == "square"] == [None]


def test_specks_do_not_count_but_fragments_do():
    picture = picture_of(RED_CIRCLE)
    picture[50:52, 50:52] = 0.95
    assert judge(parse("a red circle"), find_objects(picture)).strict
    picture[50:54, 50:54] = 0.95
    assert not judge(parse("a red circle"), find_objects(picture)).strict


def test_bad_samples_are_invalid_not_zero():
    images = torch.from_numpy(picture_of(RED_CIRCLE)).permute(2, 0, 1).float().repeat(3, 1, 1, 1)
    images[1, 0, 3, 3] = float("nan")
    partial, strict, errors = score_gold(images, ["a red circle", "a red circle", "a dog"])
    assert partial[0] == 1 and partial[1:].isnan().all() and strict[1:].isnan().all()
    assert set(errors) == {1, 2} and "non-finite" in errors[1] and "dog" in errors[2]


def test_wrong_shapes_are_refused():
    for images, prompts in ((torch.zeros(1, 3, 32, 32), ["a"]), (torch.zeros(2, 3, 64, 64), ["a"])):
        with pytest.raises(ValueError, match=r"gold takes images \[B, 3, 64, 64\]"):
            score_gold(images, prompts)


def test_prompt_files_are_what_the_script_writes():
    for name, prompts in make_sets(0).items():
        rows = [json.loads(line) for line in (PROMPTS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        assert rows == [to_row(prompt) for prompt in prompts]


def test_prompt_sets_are_disjoint_stratified_and_hold_out_combinations():
    sets = {name: [parse(prompt) for prompt in prompts] for name, prompts in make_sets(0).items()}
    sizes = {"train": TRAIN_SIZES, "heldout": HELDOUT_SIZES, "combos": COMBO_SIZES}
    for name, scenes in sets.items():
        kinds = [shapes.category(scene) for scene in scenes]
        assert {kind: kinds.count(kind) for kind in sizes[name]} == sizes[name]
        held = [any(pair in HELD_OUT for pair in shapes.combinations(scene)) for scene in scenes]
        assert all(held) if name == "combos" else not any(held)
    assert len(sets["heldout"]) == 256 and len(sets["train"]) == 512
    meanings = [frozenset({scene, mirrored(scene)}) for scenes in sets.values() for scene in scenes]
    assert len(meanings) == len(set(meanings))


def mirrored(scene: Scene) -> Scene:
    opposite = {"above": "below", "below": "above", "left of": "right of", "right of": "left of", None: None}
    return Scene(scene.items[::-1], opposite[scene.relation])
