"""What `check` says of one of several processes, worked by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowgrpo.cli.app import main
from flowgrpo.estimates import estimate, gathered_bytes, memory
from flowgrpo.geometry import geometry
from flowgrpo.launches import Launch, Weights
from flowgrpo.model_facts import known_model
from flowgrpo.recipe_loading import load_recipe

LAUNCH = Path(__file__).resolve().parents[2] / "scripts" / "launch"
FLUX = 11_901_408_320
VAE = 83_819_683
KINDS: tuple[Weights, ...] = ("shared", "gathered", "whole", "zero", "zero_offloaded")


def test_all_weights_of_flux_on_eight_processes() -> None:
    """16 bytes per weight, of which each holds an eighth; 57 blocks, two of them whole at once in float32."""
    recipe = load_recipe("mix_grpo", {"train.ema_decay": None}).recipe
    facts = known_model("black-forest-labs/FLUX.1-dev")
    assert facts is not None
    counts = geometry(recipe, negative_branch=False)
    assert counts.reference == 0 and counts.groups == 32
    alone, shared, gathered, copies, zero, offloaded = (
        memory(recipe, counts, facts, FLUX, launch) for launch in (Launch(), *(Launch(8, kind) for kind in KINDS))
    )
    trained, whole = "trained weights, gradients, Adam, copies", "weights gathered from all processes"
    assert alone.held[trained] == copies.held[trained] == 16 * FLUX
    assert shared.held[trained] == gathered.held[trained] == 2 * FLUX
    assert zero.held[trained] == FLUX * (4 + 4 + 12 / 8 + 4 / 8), "docs/scaling.md"
    assert offloaded.held[trained] == FLUX * (4 + 4 + 4 / 8)
    assert alone.held[whole] == copies.held[whole] == zero.held[whole] == 0
    assert shared.held[whole] == pytest.approx(3 * 4 * FLUX / 57)  # two blocks, and the gradient of one
    assert gathered.held[whole] == pytest.approx(4 * FLUX * (1 + 1 / 57))
    for used in (shared, gathered, copies, zero):
        assert used.held["frozen weights"] == 4 * VAE, "the decoder stays whole"
        assert used.held["stored latents"] == alone.held["stored latents"] / 8
        assert used.stages["training one micro-batch"] == alone.stages["training one micro-batch"]
        assert used.stages["decoding, with all pictures"] < alone.stages["decoding, with all pictures"]
        assert used.start["text encoders"] == alone.start["text encoders"]
    assert shared.start["weights"] == 4 * FLUX / 8 + 4 * VAE
    assert zero.start["weights"] == 4 * FLUX + 4 * FLUX / 8 + 4 * VAE, "masters are made before prompts are encoded"


def test_an_average_is_there_before_prompts_are_encoded() -> None:
    facts = known_model("black-forest-labs/FLUX.1-dev")
    assert facts is not None
    with_it, without = (
        memory(recipe, geometry(recipe, negative_branch=False), facts, FLUX, Launch(8, "shared")).start["weights"]
        for recipe in (load_recipe("mix_grpo", {"train.ema_decay": held}).recipe for held in (0.9, None))
    )
    assert with_it - without == 4 * FLUX / 8


def test_an_adapter_shares_its_frozen_network() -> None:
    recipe = load_recipe("mix_grpo", {"model.adapter": "lora", "train.ema_decay": None}).recipe
    facts = known_model("black-forest-labs/FLUX.1-dev")
    assert facts is not None
    counts = geometry(recipe, negative_branch=False)
    used = memory(recipe, counts, facts, 5700, Launch(4, "shared"))
    assert used.held["frozen weights"] == 2 * FLUX / 4 + 4 * VAE
    assert used.held["trained weights, gradients, Adam, copies"] == 16 * 5700 / 4
    both = gathered_bytes(facts, recipe.model, 2 * FLUX, 5700, Launch(4, "shared"))
    assert both == pytest.approx(2 * (2 * FLUX + 4 * 5700) / 57 + 4 * 100)


def test_a_model_of_two_networks_gathers_a_block_of_one() -> None:
    facts = known_model("Wan-AI/Wan2.2-T2V-A14B-Diffusers")
    assert facts is not None and facts.layers == 40
    model = load_recipe(None, {"model.path": "Wan-AI/Wan2.2-T2V-A14B-Diffusers"}).recipe.model
    assert gathered_bytes(facts, model, 8000.0, 0, Launch(2, "shared")) == 2 * 8000 / 80


def test_the_busiest_process_decides_how_long_it_takes() -> None:
    """32 groups on 5 processes: one of them has 7."""
    recipe = load_recipe("mix_grpo").recipe
    facts = known_model("black-forest-labs/FLUX.1-dev")
    assert facts is not None
    counts = geometry(recipe, negative_branch=False)
    alone, five = (estimate(recipe, counts, facts, launch) for launch in (Launch(), Launch(5)))
    assert five.seconds["sampling"] == pytest.approx(alone.seconds["sampling"] * 7 / 32)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_check_prints_it(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(LAUNCH / "fsdp2.yaml")
    assert main(["check", "mix_grpo", "--launch", config, "--processes", "4"]) == 0
    page = capsys.readouterr().out
    assert "estimate for each of 4 processes, weights, gradients and optimizer state shared out" in page
    assert f"{16 * FLUX / 4 / 2**30:.3g} GiB" in page
    assert main(["check", "mix_grpo"]) == 0
    assert "processes" not in capsys.readouterr().out.split("estimate")[1].split("\n")[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--processes", "33"], "32 groups cannot be shared by 33 processes"),
        (["--processes", "none"], "'none' is no whole number from 1"),
        (["--processes", "2", "--launch", "fsdp2", "--model.compile", "blocks"], "model.compile: does not go with"),
        (["--launch", "nothing.yaml"], "nothing.yaml: cannot be read"),
    ],
)
def test_check_refuses_what_a_run_would(
    workplace: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    given = [str(LAUNCH / "fsdp2.yaml") if word == "fsdp2" else word for word in words]
    assert main(["check", "mix_grpo", *given]) == 2
    assert said in capsys.readouterr().err
