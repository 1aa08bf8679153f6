"""Videos through the core, two networks by noise level, and the grids and guidance that only some families have."""

from __future__ import annotations

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler
from PIL import Image

from flowgrpo.errors import RecipeError
from flowgrpo.image_stats import image_statistics
from flowgrpo.policies.experts import HIGH, LOW, Share, shares
from flowgrpo.policies.families import FAMILIES
from flowgrpo.policies.family import linear_guidance, pack
from flowgrpo.policies.flux2 import shift
from flowgrpo.policies.grids import grid_sigmas
from flowgrpo.policies.loading import plan_latents
from flowgrpo.policies.qwen_image import combine
from flowgrpo.policies.rehearsal import read_real
from flowgrpo.recipe import Model
from flowgrpo.sampling import SHOWN_FRAMES, save_png
from reward_models import Scorer
from reward_models.scores import as_scores

VIDEOS = torch.rand(3, 9, 3, 4, 6, generator=torch.Generator().manual_seed(0))


def red(images, prompts, metadata):
    return as_scores(images[:, 0].mean((1, 2)))


def test_a_video_scores_the_mean_of_every_fourth_frame():
    scorer = Scorer(name="red", version="1", range=(0, 1), licence="Apache-2.0", needs=(), function=red)
    scores = scorer(VIDEOS, ["a", "b", "c"])
    assert scores.scores.tolist() == pytest.approx(VIDEOS[:, [0, 4, 8], 0].double().mean((1, 2, 3)).tolist(), abs=1e-6)
    broken = VIDEOS.clone()
    broken[1, 4] = torch.nan
    scores = scorer(broken, ["a", "b", "c"])
    assert scores.valid.tolist() == [True, False, True] and "not finite" in scores.errors[1]


def test_statistics_of_videos_compare_frames_of_one_time():
    """Two equal videos do not differ from each other, however much their frames do."""
    twice = torch.cat([VIDEOS[:1], VIDEOS[:1]])
    assert image_statistics(twice, torch.tensor([0, 0]))["diversity"] == pytest.approx(0, abs=1e-7)
    frames = image_statistics(VIDEOS.flatten(0, 1), torch.arange(27))
    assert image_statistics(VIDEOS, torch.arange(3)) == pytest.approx(frames)


def test_a_video_is_saved_as_frames_side_by_side(tmp_path):
    save_png(VIDEOS[0], tmp_path / "video.png")
    shown = len(range(0, 9, 2))
    assert shown <= SHOWN_FRAMES
    assert Image.open(tmp_path / "video.png").size == (6 * shown, 4)


def test_each_row_goes_to_the_network_of_its_level():
    levels = torch.tensor([900.0, 875.0, 874.0])
    assert shares(levels, None) == shares(levels[:2], 875.0) == [Share(HIGH, None)]
    assert shares(levels[2:], 875.0) == [Share(LOW, None)]
    high, low = shares(levels, 875.0)
    assert (high.network, high.rows.tolist(), low.network, low.rows.tolist()) == (HIGH, [0, 1], LOW, [2])


@pytest.mark.parametrize("kind", [UniPCMultistepScheduler, DPMSolverMultistepScheduler])
def test_grids_of_multistep_schedulers(kind):
    """From the second level on to float32 rounding; theirs start just below 1, where ours starts."""
    scheduler = kind(use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction")
    scheduler.set_timesteps(10)
    family = FAMILIES["WanPipeline"]
    grid = grid_sigmas(10, "diffusers", None, config=scheduler.config, family=family, tokens=16)
    assert grid[0] == 1.0 and grid[-1] == 0.0 and len(grid) == 11
    assert grid[1:-1] == pytest.approx(scheduler.sigmas.tolist()[1:-1], abs=2e-7)
    with pytest.raises(RecipeError, match="no flow-matching shift"):
        grid_sigmas(10, "diffusers", None, config=dict(kind().config), family=family, tokens=16)


def test_qwen_images_guidance_keeps_the_norm_of_every_token():
    generator = torch.Generator().manual_seed(1)
    negative, positive = (torch.randn(2, 4, 6, 8, generator=generator) for _ in range(2))
    guided = pack(combine(negative, positive, 4.0))
    plain = pack(linear_guidance(negative, positive, 4.0))
    torch.testing.assert_close(guided.norm(dim=-1), pack(positive).norm(dim=-1))
    assert torch.nn.functional.cosine_similarity(guided, plain, dim=-1).min() > 1 - 1e-5
    torch.testing.assert_close(combine(negative, positive, 1.0), positive)


def test_flux_2_shift_by_hand():
    """At 10 steps the line of few steps, at 200 that of many, above 4300 tokens the latter whatever the steps."""
    assert shift({}, 1024, 10) == pytest.approx(8.73809524e-05 * 1024 + 1.89833333)
    assert shift({}, 1024, 200) == pytest.approx(0.00016927 * 1024 + 0.45666666)
    assert shift({}, 4301, 10) == shift({}, 4301, 50) == pytest.approx(0.00016927 * 4301 + 0.45666666)


class Stock:
    """As much of a Wan pipeline as `plan_latents` looks at."""

    def __init__(self) -> None:
        from diffusers.configuration_utils import FrozenDict

        real = read_real("wan2.1-t2v-1.3b")
        config = FrozenDict({**real["networks"]["transformer"][1], "patch_size": (1, 2, 2)})
        self.transformer = type("T", (), {"config": config})
        self.vae = type("V", (), {"config": FrozenDict(real["vae"][1])})
        self.config = FrozenDict(real["options"])


def test_sizes_and_frames_that_do_not_fit_are_refused():
    pipe = type("WanPipeline", (Stock,), {})()
    model = Model(height=240, width=416, frames=33)
    assert plan_latents(pipe, model).shape == (16, 9, 30, 52)
    assert plan_latents(pipe, model).tokens == 9 * 15 * 26
    with pytest.raises(RecipeError, match=r"model.frames: 32 is not 1 plus a multiple of 4; the nearest below is 29"):
        plan_latents(pipe, model.model_copy(update={"frames": 32}))
    with pytest.raises(RecipeError, match=r"model.height: 248 is not a multiple of 16; the nearest below is 240"):
        plan_latents(pipe, model.model_copy(update={"height": 248}))
