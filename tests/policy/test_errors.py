"""A wrong `model` section gives one sentence that says what is wrong and what would be right."""

from __future__ import annotations

import json
import shutil

import pytest
from diffusers import FlowMatchEulerDiscreteScheduler

from flowgrpo.errors import FlowgrpoError, RecipeError, RunError
from flowgrpo.policies.families import FAMILIES
from flowgrpo.policies.grids import grid_sigmas
from flowgrpo.policy import load_policy


def error(model, kind: type[FlowgrpoError] = RecipeError) -> str:
    with pytest.raises(kind) as caught:
        load_policy(model)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_folder(section, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    message = error(section().model_copy(update={"path": str(tmp_path / "none")}))
    assert "is neither the folder of a diffusers pipeline nor a model that can be fetched" in message


def test_folder_that_is_no_pipeline(section, tmp_path):
    assert "has no model_index.json" in error(section().model_copy(update={"path": str(tmp_path)}))


def test_unsupported_pipeline(section, tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    message = error(section().model_copy(update={"path": str(tmp_path)}))
    assert "is a StableDiffusionPipeline; supported are StableDiffusion3Pipeline, FluxPipeline" in message
    assert message.endswith("did you mean 'StableDiffusion3Pipeline'?")


def test_broken_index(section, tmp_path):
    (tmp_path / "model_index.json").write_text("{")
    assert "model.path" in error(section().model_copy(update={"path": str(tmp_path)}))


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder"])
def test_damaged_weights(section, folders, tmp_path, part):
    shutil.copytree(folders["sd3"], tmp_path / "copy")
    file = next((tmp_path / "copy" / part).glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:100])
    message = error(section().model_copy(update={"path": str(tmp_path / "copy")}), RunError)
    assert "cannot be loaded, is a file missing or damaged?" in message


def test_missing_part(section, folders, tmp_path):
    shutil.copytree(folders["sd3"], tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "vae")
    assert "cannot be loaded" in error(section().model_copy(update={"path": str(tmp_path / "copy")}), RunError)


def test_image_sizes_that_do_not_fit(section):
    """Two pixels per latent pixel, two of these per token, at most 8 tokens per side."""
    assert "model.height: 18 is not a multiple of 4; the nearest below is 16" in error(section(height=18))
    assert "model.width: 36 is more than 32" in error(section(width=36))


def test_unknown_lora_target_names_the_near_miss(section):
    message = error(section(lora_targets=("attn.to_k", "attn.to_qq")))
    assert "no linear layer of the network ends in 'attn.to_qq'" in message
    assert message.endswith("did you mean 'attn.to_q'?")
    assert "layers end in" in error(section(lora_targets=("wholly_different",)))


def test_grids_and_schedulers_that_are_not_known():
    family = FAMILIES["StableDiffusion3Pipeline"]
    with pytest.raises(RecipeError, match=r"sampler.grid: 'difusers' .*did you mean 'diffusers'"):
        grid_sigmas(4, "difusers", None, config={"shift": 3.0}, family=family, tokens=16)
    with pytest.raises(RecipeError, match="scheduler Foo has use_karras_sigmas"):
        config = {"shift": 3.0, "use_karras_sigmas": True, "_class_name": "Foo"}
        grid_sigmas(4, "diffusers", None, config=config, family=family, tokens=16)
    with pytest.raises(RecipeError, match="scheduler DDIMScheduler has no flow-matching shift"):
        grid_sigmas(4, "diffusers", None, config={"_class_name": "DDIMScheduler"}, family=family, tokens=16)
    with pytest.raises(RecipeError, match="'dance' needs a static shift"):
        config = dict(FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True).config)
        grid_sigmas(4, "dance", None, config=config, family=family, tokens=16)
