"""Sampling through a policy, without noise, gives the stock pipeline's pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from flowgrpo.assets import CANDIDATES
from flowgrpo.policies.families import FAMILIES
from flowgrpo.policies.grids import grid_sigmas
from flowgrpo.policy import load_policy
from flowgrpo.recipe import Model
from tests.policy.helpers import PROMPTS, draw, draw_stock
from tests.tiny import stock_pipeline

TINY_SD3 = CANDIDATES[0] / "tiny-sd3"


@pytest.mark.parametrize("guidance_scale", [1.0, 4.5])
@pytest.mark.parametrize("kind", ["sd3", "sd3_t5", "flux"])
def test_same_pictures_as_the_stock_pipeline(folders, section, kind, guidance_scale):
    policy = load_policy(section(kind, negative_prompt="blue" if kind != "flux" else ""))
    pipe = stock_pipeline(folders[kind])
    negative = {"negative_prompt": "blue"} if kind != "flux" else {}
    options = {"steps": 5, "guidance_scale": guidance_scale}
    expected = draw_stock(pipe, policy, PROMPTS, **options, max_sequence_length=20, **negative)
    images = draw(policy, PROMPTS, **options)
    assert images.shape == (3, 3, 16, 16)
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["sd3", "sd3_t5", "flux"])
def test_guidance_and_prompt_show_in_the_picture(section, kind):
    """Parity would mean little if the random model ignored its inputs."""
    policy = load_policy(section(kind))
    plain = draw(policy, ["dog"], steps=3, guidance_scale=1.0)
    assert (draw(policy, ["dog"], steps=3, guidance_scale=4.5) - plain).abs().max() > 1e-4
    assert (draw(policy, ["a red cat"], steps=3, guidance_scale=1.0) - plain).abs().max() > 1e-4


@pytest.mark.skipif(not (TINY_SD3 / "model_index.json").is_file(), reason="the embedded model is not there")
@pytest.mark.parametrize("guidance_scale", [1.0, 4.5])
def test_embedded_model_matches_the_stock_pipeline(guidance_scale):
    """To 1e-4, where samples of one noise count as equal: trained weights and guidance amplify rounding."""
    model = Model(path="tiny-sd3", height=64, width=64)
    policy, pipe = load_policy(model), stock_pipeline(TINY_SD3)
    prompts = ["a red circle", "three blue squares"]
    options = {"steps": 6, "guidance_scale": guidance_scale}
    expected = draw_stock(pipe, policy, prompts, **options, max_sequence_length=model.max_sequence_length)
    torch.testing.assert_close(draw(policy, prompts, **options), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_bfloat16_stays_near_the_stock_pipeline(folders, section, kind):
    """Both round each forward pass to 8 bits; ours keeps latents and decoder in float32."""
    policy = load_policy(section(kind, dtype="bfloat16"))
    pipe = stock_pipeline(folders[kind]).to(torch.bfloat16)
    options = {"steps": 4, "guidance_scale": 2.0}
    expected = draw_stock(pipe, policy, PROMPTS, **options, max_sequence_length=20).float()
    torch.testing.assert_close(draw(policy, PROMPTS, **options), expected, rtol=0, atol=0.03)


CONFIGS = {
    "static": {"shift": 3.0},
    "dynamic": {"use_dynamic_shifting": True, "base_shift": 0.4, "max_shift": 1.2},
    "linear": {"use_dynamic_shifting": True, "time_shift_type": "linear"},
    "terminal": {"shift": 2.0, "shift_terminal": 0.02},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_sigmas_are_those_of_the_pipeline_with_any_scheduler_config(folders, tmp_path, name):
    """The stock pipeline makes the grid itself, dynamic shift included; we compare to the bit."""
    scheduler = FlowMatchEulerDiscreteScheduler(**CONFIGS[name])
    pipe = stock_pipeline(folders["sd3"])
    pipe.scheduler = scheduler
    pipe(prompt="dog", height=16, width=16, num_inference_steps=4, output_type="latent")
    grid = grid_sigmas(
        4, "diffusers", None, config=scheduler.config, family=FAMILIES["StableDiffusion3Pipeline"], tokens=16
    )
    assert grid == tuple(scheduler.sigmas.tolist())


def test_shift_replaces_the_models_own(section):
    policy = load_policy(section("flux"))
    assert policy.sigmas(4, shift=3.0) == pytest.approx((1.0, 0.9, 0.75, 0.5, 0.0))
    assert policy.sigmas(4, grid="dance", shift=3.0) == pytest.approx((1.0, 0.9, 0.75, 0.5, 0.0))
    assert load_policy(section("sd3")).sigmas(4, grid="explicit") == pytest.approx((1.0, 0.9, 0.75, 0.5, 0.0))


def test_three_encoder_folder_differs_from_two(folders):
    """The fixtures are what they claim to be."""
    absent = [json.loads((Path(folders[kind]) / "model_index.json").read_text())["text_encoder_3"] for kind in BOTH]
    assert absent == [[None, None], ["transformers", "T5EncoderModel"]]


BOTH = ("sd3", "sd3_t5")
