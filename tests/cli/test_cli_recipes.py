"""Recipes: values by type, origins, precedence, hashes, and the shipped files."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import pytest

from flowgrpo.accelerations import ACCELERATIONS, refuse_where_sharded, used
from flowgrpo.assets import shipped_recipes
from flowgrpo.cli import main
from flowgrpo.errors import RecipeError
from flowgrpo.recipe import Recipe
from flowgrpo.recipe_checks import cautions
from flowgrpo.recipe_kinds import OWN_KEYS, foreign_keys
from flowgrpo.recipe_loading import (
    NOT_IN_HASH,
    dotted_keys,
    load_recipe,
    recipe_hash,
    write_recipe,
)


def value(*words: str, key: str) -> object:
    section, _, name = key.partition(".")
    return getattr(getattr(load_recipe(None, words).recipe, section), name)


@pytest.mark.parametrize(
    ("word", "expected"),
    [("3e-4", 3e-4), ("3E-4", 3e-4), ("1e1", 10.0), (".5", 0.5), ("2", 2.0), ("1_000", 1000.0)],
)
def test_numbers_of_every_spelling(word: str, expected: float) -> None:
    assert value(f"--train.lr={word}", key="train.lr") == expected


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("clip", {"clip": 1.0}),
        ("clip,gold", {"clip": 1.0, "gold": 1.0}),
        ("[clip, gold]", {"clip": 1.0, "gold": 1.0}),
        ("gold=1,clip=0.5", {"gold": 1.0, "clip": 0.5}),
        ('{"gold": 1, "clip": 5e-1}', {"gold": 1.0, "clip": 0.5}),
        ("{gold: 1, clip: .5}", {"gold": 1.0, "clip": 0.5}),
        ("mine.py:score=2", {"mine.py:score": 2.0}),
    ],
)
def test_rewards_in_every_form(word: str, expected: dict[str, float], tmp_path: Path) -> None:
    assert value("--reward.names", word, key="reward.names") == expected
    (tmp_path / "r.yaml").write_text(f"reward:\n  names: {word}\n")
    assert load_recipe(tmp_path / "r.yaml").recipe.reward.names == expected


def test_words_stay_text_where_a_name_is_expected(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("name: 1e5\nmodel:\n  path: no\n  revision: 007\n  negative_prompt: null\n")
    recipe = load_recipe(tmp_path / "r.yaml").recipe
    assert (recipe.name, recipe.model.path, recipe.model.revision) == ("1e5", "no", "007")
    assert recipe.model.negative_prompt == "null"
    assert value("--model.revision", "none", key="model.revision") is None


def test_switches() -> None:
    assert value("--train.shuffle_rewards", key="train.shuffle_rewards") is True
    assert value("--train.shuffle_rewards", "--train.lr", "1", key="train.shuffle_rewards") is True
    assert value("--train.shuffle_rewards=false", key="train.shuffle_rewards") is False


def test_lists_and_nested_keys() -> None:
    assert value("--train.betas", "0.8,0.9", key="train.betas") == (0.8, 0.9)
    assert value("--eval.scorers", "gold,clip", key="eval.scorers") == ("gold", "clip")
    options = ("--reward.options.gold.strict", "true", "--reward.options.gold.size", "3")
    assert value(*options, key="reward.options") == {"gold": {"strict": True, "size": 3}}
    assert value("--reward.names.clip", "0.5", key="reward.names") == {"gold": 1.0, "clip": 0.5}
    assert value("--reward.names=gold", "--reward.names.clip=0", key="reward.names") == {"gold": 1.0, "clip": 0.0}
    sets = load_recipe("demo", ["--eval.prompts.more", "more.txt"]).recipe.eval.prompts
    assert sets == {"heldout": "shapes/heldout", "combos": "shapes/combos", "more": "more.txt"}


@pytest.mark.parametrize(
    ("word", "expected"),
    [("1e+3", 1000.0), ("-2", -2), ("true", True), ("null", None), ("[1, a]", [1, "a"]), ("no", "no")],
)
def test_options_of_scorers_have_the_types_of_yaml(word: str, expected: object) -> None:
    (given,) = load_recipe(None, ["--reward.options.gold.x", word]).recipe.reward.options["gold"].values()
    assert given == expected and type(given) is type(expected)


def test_python_values_are_taken_as_they_are() -> None:
    loaded = load_recipe("demo", {"train.lr": 0.5, "reward.names": {"clip": 2}, "train.betas": (0.1, 0.2)})
    assert (loaded.recipe.train.lr, loaded.recipe.reward.names, loaded.recipe.train.betas) == (
        0.5,
        {"clip": 2},
        (0.1, 0.2),
    )


def test_origins_and_precedence(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("train:\n  lr: 1e-3\n  seed: 5\n  group_size: 4\n")
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: base.yaml\nname: mine\ntrain:\n  seed: 6\n")
    loaded = load_recipe(mine, ["--train.group_size", "6"])
    train, origins = loaded.recipe.train, loaded.origins
    assert (train.lr, train.seed, train.group_size) == (1e-3, 6, 6)
    assert origins["train.lr"].endswith("base.yaml:2")
    assert origins["train.seed"] == f"{mine}:4"
    assert origins["train.group_size"] == "command line"
    assert origins["train.weight_decay"] == "default"
    assert set(origins) == {*dotted_keys(), "name", "paper"}


def test_extending_goes_one_level(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: demo\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    assert load_recipe(tmp_path / "a.yaml").recipe.model.path == "tiny-sd3"
    with pytest.raises(RecipeError, match=r"b\.yaml:1: extends: 'a\.yaml' itself extends a recipe"):
        load_recipe(tmp_path / "b.yaml")


def test_empty_section_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("train:\n  # lr: 1\nmodel:\n  path: a\n")
    assert load_recipe(tmp_path / "r.yaml").recipe.model.path == "a"


def test_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(RecipeError(["a", "b"])))
    assert error.problems == ("a", "b") and isinstance(error, ValueError)


def test_a_number_or_a_word() -> None:
    assert value("--train.micro_batch_size=auto", key="train.micro_batch_size") == "auto"
    assert value("--train.micro_batch_size=12", key="train.micro_batch_size") == 12
    for word, said in (
        ("outo", "expects a whole number, got 'outo'; did you mean 'auto'?"),
        ("2.5", "expects a whole number, got '2.5'; or auto"),
        ("0", "must be at least 1, got '0'; or auto"),
    ):
        with pytest.raises(RecipeError) as caught:
            load_recipe("demo", [f"--train.micro_batch_size={word}"])
        assert str(caught.value) == f"command line: train.micro_batch_size: {said}"


@pytest.mark.parametrize("name", ["sage", "sage_varlen", "_sage_qk_int8_pv_fp16_cuda"])
def test_lossy_attention_is_refused_where_rollouts_are_replayed(name: str) -> None:
    with pytest.raises(RecipeError, match=f"model.attention: {name} is lossy: .* default, sdpa, xformers or flash"):
        load_recipe("demo", [f"--model.attention={name}"])


def test_lossy_decoding_is_warned_about_and_lossless_savings_are_not() -> None:
    words = ["--model.gradient_checkpointing", "--model.guidance_passes=2", "--model.compile=blocks"]
    quiet = load_recipe("demo", words).recipe
    assert {held.key for held in used(quiet)} == {word[2:].split("=")[0] for word in words}
    assert all(held.lossless for held in used(quiet))
    assert not [keys for keys, text in cautions(quiet) if "lossy" in text]
    tiled = load_recipe("demo", ["--model.decode_tiling"]).recipe
    assert [keys for keys, text in cautions(tiled) if "is lossy" in text] == [("model.decode_tiling",)]


def test_what_does_not_go_with_sharded_weights_is_refused_at_once() -> None:
    refuse_where_sharded(load_recipe("demo").recipe)
    words = ["--model.guidance_passes=2", "--model.compile=blocks", "--train.micro_batch_size=auto"]
    with pytest.raises(RecipeError) as caught:
        refuse_where_sharded(load_recipe("demo", words).recipe)
    assert {problem.partition(":")[0] for problem in caught.value.problems} == {
        word[2:].split("=")[0] for word in words
    }


def test_every_acceleration_names_a_key() -> None:
    assert {held.key for held in ACCELERATIONS} <= set(dotted_keys())


def test_hash_covers_what_decides_results() -> None:
    demo = load_recipe("demo").recipe
    changed = {
        "train.lr": "1e-3",
        "train.seed": "1",
        "model.path": "x",
        "sampler.eta": "0.7",
        "reward.names": "clip",
        "objective.eps": "1e-3",
        "data.limit": "64",
    }
    for key, word in changed.items():
        assert recipe_hash(load_recipe("demo", [f"--{key}={word}"]).recipe) != recipe_hash(demo), key
    for key in ("train.iterations", "train.max_minutes", "train.micro_batch_size", "eval.steps", "run.dir"):
        assert recipe_hash(load_recipe("demo", [f"--{key}=4"]).recipe) == recipe_hash(demo), key


def test_hash_of_older_runs_stays_where_a_later_key_has_its_default() -> None:
    demo = load_recipe("demo").recipe
    for key, word in {"guidance_passes": "2", "offload_decoder": "true", "compile": "blocks"}.items():
        assert recipe_hash(load_recipe("demo", [f"--model.{key}={word}"]).recipe) == recipe_hash(demo), key
    assert recipe_hash(load_recipe("demo", ["--model.decode_tiling=true"]).recipe) != recipe_hash(demo)
    assert recipe_hash(load_recipe("demo", ["--model.decode_tiling=false"]).recipe) == recipe_hash(demo)


def test_hash_is_that_of_equal_values_from_other_places(tmp_path: Path) -> None:
    (tmp_path / "twin.yaml").write_text("extends: demo\nname: twin\n")
    assert recipe_hash(load_recipe(tmp_path / "twin.yaml").recipe) == recipe_hash(load_recipe("demo").recipe)


def test_keys_left_out_of_the_hash_exist() -> None:
    assert set(dotted_keys()) >= NOT_IN_HASH


def test_written_recipe(tmp_path: Path) -> None:
    loaded = load_recipe("demo", ["--train.lr", "3e-4"])
    write_recipe(tmp_path / "recipe.json", loaded.recipe, loaded.origins)
    record = json.loads((tmp_path / "recipe.json").read_text())
    assert record["name"] == "demo" and record["hash"] == recipe_hash(loaded.recipe)
    assert Recipe.model_validate(record["values"]) == loaded.recipe
    assert record["origins"]["train.lr"] == "command line"
    assert re.fullmatch(r"demo\.yaml:\d+", record["origins"]["model.path"])


@pytest.mark.parametrize("name", list(shipped_recipes()))
def test_shipped_recipes_say_what_they_are(name: str) -> None:
    recipe = load_recipe(name).recipe
    assert recipe.name == name
    text = shipped_recipes()[name].read_text()
    if not name.endswith("demo"):
        bare = [line for line in text.splitlines() if re.match(r" +\w+: .", line) and " # " not in line]
        assert bare == [], "every number of a published recipe has its origin in a comment"


def test_published_numbers() -> None:
    """Worked by hand from the published presets: 48 groups of 24, two updates, all but the last of ten steps."""
    recipe = load_recipe("flow_grpo").recipe
    train, sampler, objective = recipe.train, recipe.sampler, recipe.objective
    assert (train.prompts_per_iteration, train.group_size, train.updates_per_iteration) == (48, 24, 2)
    assert (sampler.steps, sampler.eta, sampler.kernel) == (10, 0.7, "flow_sde")
    assert (objective.clip_low, objective.clip_high, objective.std, objective.eps) == (1e-4, 1e-4, "global", 1e-4)
    assert (recipe.model.lora_rank, recipe.model.lora_alpha, recipe.model.guidance_scale) == (32, 64, 4.5)
    dance = load_recipe("dance_grpo").recipe
    assert (dance.sampler.steps, dance.sampler.eta, dance.objective.ddof, dance.objective.eps) == (16, 0.3, 1, 1e-8)


def test_the_base_has_its_own_guidance_where_a_recipe_states_one() -> None:
    section = load_recipe("demo").recipe.eval
    assert (section.guidance(trained=True), section.guidance(trained=False)) == (1.5, 3.0)
    section = load_recipe("flow_grpo").recipe.eval
    assert section.guidance(trained=True) == section.guidance(trained=False) == 4.5


def test_check_leaves_out_the_defaults_of_another_kind_of_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "demo"]) == 0
    said = capsys.readouterr().out
    assert "sampler.kernel" in said and "sampler.remasking" not in said and "model.mask_id" not in said
    for kind, sections in OWN_KEYS.items():
        keys = foreign_keys(kind)
        assert keys and keys.isdisjoint(f"{name}.{key}" for name, held in sections.items() for key in held)
        assert keys <= set(dotted_keys())


def test_what_probably_is_not_meant_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--objective.weight", "noise_level", "--sampler.kernel", "dance_sde"]
    assert main(["check", "tempflow_grpo", *words]) == 0
    said = capsys.readouterr().out
    assert "objective.weight: noise_level weighs steps by their noise, and that of dance_sde" in said
    assert "data.prompts: shapes/train belongs to the embedded model" in said
    assert main(["check", "demo"]) == 0
    assert "belongs to the embedded model" not in capsys.readouterr().out
