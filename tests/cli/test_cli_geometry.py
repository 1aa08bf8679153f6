"""Counts of an iteration, worked by hand, and sizes read from files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from cli_files import SHAPES, write_header

from flowgrpo.assets import CANDIDATES
from flowgrpo.estimates import decode_flops, estimate, forward_flops, memory
from flowgrpo.geometry import geometry
from flowgrpo.model_facts import find_model, is_hub_name, read_model
from flowgrpo.recipe import Model
from flowgrpo.recipe_loading import load_recipe

SMALL = Model(height=64, width=64)


def test_flow_grpo() -> None:
    """48 x 24 samples of 10 steps, 9 trained. Two updates: the second half needs old velocities, all a reference."""
    counts = geometry(load_recipe("flow_grpo").recipe)
    assert counts.samples == 1152 == counts.decodes == counts.scored == counts.kept
    assert counts.sampling == 11520 and counts.sampling_rows == 23040
    assert counts.trained == 10368 == counts.edges == counts.reference
    assert counts.old == 5184 and counts.no_grad_rows == 2 * (5184 + 10368)
    assert (counts.updates, counts.micro_batches, counts.on_policy, counts.exact) == (2, 324, False, True)
    assert counts.trained_steps == tuple(range(9))


def test_guidance_without_a_negative_branch() -> None:
    counts = geometry(load_recipe("flow_grpo").recipe, negative_branch=False)
    assert counts.sampling_rows == counts.sampling and counts.trained_rows == counts.trained


def test_demo_trains_on_policy() -> None:
    """16 x 12 samples, a window of two steps in the early five, one update, no guidance."""
    counts = geometry(load_recipe("demo", {"train.updates_per_iteration": 1, "sampler.window_width": 2}).recipe)
    assert (counts.samples, counts.sampling, counts.trained, counts.old) == (192, 1920, 384, 0)
    assert counts.on_policy and counts.sampling_rows == 1920
    first, second = counts.trained_steps
    assert second == first + 1 and 0 <= first < 4


def test_shared_noise_shares_the_first_forward() -> None:
    """DanceGRPO: 16 roots ask the network once at step 0 and 192 samples at 15 steps; 9 of 15 steps are trained."""
    counts = geometry(load_recipe("dance_grpo").recipe)
    assert counts.sampling == 16 + 192 * 15
    assert counts.edges == 192 * 15
    assert counts.trained == 192 * 9 and not counts.exact


def test_inner_epochs_and_best_of_n() -> None:
    words = ["--train.inner_epochs=2", "--objective.select=best_of_n", "--objective.best_of=4", "--sampler.steps=5"]
    counts = geometry(load_recipe(None, words).recipe)
    assert (counts.samples, counts.kept, counts.inputs) == (64, 32, 32 * 4)
    assert (counts.trained, counts.old, counts.updates) == (256, 128, 2)


def test_micro_batches_round_up() -> None:
    counts = geometry(load_recipe(None, ["--train.updates_per_iteration=4", "--train.micro_batch_size=100"]).recipe)
    assert counts.inputs == 64 * 9 and counts.micro_batches == 2  # 144 inputs per update


def test_model_facts(workplace: Path) -> None:
    facts = read_model(workplace / "pipe")
    assert facts.parameters == {"transformer": 256 + 16 + 384 + 1024, "vae": 100}
    assert (facts.width, facts.layers, facts.sizes.pixels, facts.token_pixels) == (16, 3, 8, 16)
    assert facts.image_tokens(64, 128) == 4 * 8
    assert facts.negative_branch
    assert facts.adapter_parameters(2, None) == 2 * (16 + 16) + 2 * (16 + 24)
    assert facts.adapter_parameters(2, ("net.2",)) == 2 * (16 + 64)


def test_variants_are_not_counted_twice(workplace: Path) -> None:
    write_header(workplace / "pipe" / "transformer" / "diffusion_pytorch_model.fp16.safetensors", SHAPES)
    assert read_model(workplace / "pipe").parameters["transformer"] == 1680


def test_models_that_were_fetched_are_found(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(workplace / "hub"))
    assert find_model("owner/pipe") is None and is_hub_name("owner/pipe") and not is_hub_name("./pipe")
    snapshot = workplace / "hub" / "models--owner--pipe" / "snapshots" / "abc"
    snapshot.parent.mkdir(parents=True)
    (workplace / "pipe").rename(snapshot)
    assert find_model("owner/pipe") == snapshot


def test_flops_by_hand(workplace: Path) -> None:
    """64 x 64 pixels are 16 tokens: 2 * 1680 * 16, and 4 * layers * 16^2 * width for attention."""
    facts = read_model(workplace / "pipe")
    assert forward_flops(facts, SMALL) == 2 * 1680 * 16 + 4 * 3 * 256 * 16
    convolutions = 64 * (8 * 8 * 64 * 64 + 16 * 16 * 32 * 32 + 16 * 16 * 16 * 16 + 32 * 32 * 8 * 8)
    assert decode_flops(facts, SMALL) == 2 * 36 * convolutions / 64


def test_estimate_follows_the_recipe(workplace: Path) -> None:
    facts = read_model(workplace / "pipe")
    base = load_recipe("mine.yaml", ["--run.device=cpu"]).recipe
    counts = geometry(base)
    held = memory(base, counts, facts, trained=1000).held
    assert held["frozen weights"] == 4 * (1680 + 100)
    assert held["trained weights, gradients, Adam, copies"] == 16_000
    latents = 16 * 8 * 8  # 64 pixels, 8 of them a latent pixel; 16 channels
    assert held["stored latents"] == latents * 4 * (2 * counts.stored_inputs + counts.edges + counts.samples)
    checkpointed = load_recipe("mine.yaml", ["--model.gradient_checkpointing"]).recipe
    stage = "training one micro-batch"
    assert memory(checkpointed, counts, facts, trained=0).stages[stage] < memory(base, counts, facts, 0).stages[stage]
    guess = estimate(base, counts, facts)
    assert guess.device == "cpu" and guess.trained_parameters == facts.adapter_parameters(32, None)
    assert guess.memory.peak == sum(guess.memory.held.values()) + max(guess.memory.stages.values())
    assert guess.seconds["training"] == pytest.approx(
        3 * counts.trained_rows * forward_flops(facts, SMALL) / guess.flops_per_second
    )


def test_what_rests_on_the_cpu_takes_no_memory_of_a_gpu(workplace: Path) -> None:
    facts = read_model(workplace / "pipe")

    def held(*words: str) -> dict[str, float]:
        recipe = load_recipe("mine.yaml", ["--run.device=cuda", *words]).recipe
        return memory(recipe, geometry(recipe), facts, trained=0).held

    plain, resting = held(), held("--sampler.latent_store=cpu", "--model.offload_decoder")
    assert plain["stored latents"] > 0 == resting["stored latents"]
    assert plain["frozen weights"] - resting["frozen weights"] == 4 * 100


def test_guidance_in_two_passes_halves_the_rows_of_sampling(workplace: Path) -> None:
    facts = read_model(workplace / "pipe")
    one, two = (
        load_recipe("mine.yaml", ["--model.guidance_scale=4", f"--model.guidance_passes={n}"]).recipe for n in (1, 2)
    )
    counts = geometry(one)
    stages = [memory(recipe, counts, facts, trained=0).stages for recipe in (one, two)]
    assert stages[0]["sampling"] == 2 * stages[1]["sampling"]
    assert stages[0]["training one micro-batch"] == stages[1]["training one micro-batch"]


def test_a_rehearsed_model_on_disk_is_known_by_its_numbers() -> None:
    """Its files also hold buffers: its parameters are those of the rehearsal, and 2,297,104 are trained."""
    found = find_model("tiny-sd3")
    assert found is not None
    facts = read_model(found)
    assert facts.rehearsed is not None and facts.rehearsed["dtype"] == "float32"
    recipe = load_recipe("demo").recipe
    guess = estimate(recipe, geometry(recipe), facts)
    assert guess.trained_parameters == 2_297_104
    assert guess.memory.stages["training one micro-batch"] == 64 * facts.rehearsed["bytes"]["full"]
    # The table has FLOPs of the network's modulations as they are, once per row: fewer than a rule by weights says.
    plain = replace(facts, rehearsed=None)
    assert forward_flops(facts, recipe.model) < forward_flops(plain, recipe.model)


def test_micro_batches_of_auto_are_counted_at_the_most(workplace: Path) -> None:
    words = ["--train.updates_per_iteration=4", "--train.micro_batch_size=auto"]
    assert geometry(load_recipe(None, words).recipe).micro_batches == 3  # 144 inputs per update, 64 at most


def test_time_is_right_to_a_factor_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's iterations as they were recorded on two cores, against what `check` says for two cores."""
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    recipe = load_recipe("demo", ["--run.device=cpu"]).recipe
    counts, found = geometry(recipe), find_model("tiny-sd3")
    assert found is not None
    guess = sum(estimate(recipe, counts, read_model(found)).seconds.values())
    rows = json.loads((CANDIDATES[0] / "benchmarks" / "demo.json").read_text(encoding="utf-8"))
    same = [row for row in rows if row["forwards_per_iteration"]["sampling"] == counts.sampling]
    for row in (row for row in same if row["machine"].startswith("2 cores")):
        spent = row["seconds_per_iteration"]
        assert 0.5 < guess / (spent["rollout"] + spent["decode"] + spent["update"]) < 2
