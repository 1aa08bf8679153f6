"""What every family of models must keep: the stock pipeline's pictures, exact replay, adapters, gradients, a run."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from flowgrpo.cli.app import main
from flowgrpo.policies.facts import FACTS
from flowgrpo.policies.families import FAMILIES
from flowgrpo.policies.family import pack
from flowgrpo.policy import load_policy
from flowgrpo.recipe import Model
from samplers import sample_flow
from samplers.plans import Plan, Step
from tests.policy.helpers import KEYS, draw, shake
from tests.policy.tiny_families import BUILDERS
from tests.tiny import stock_pipeline

KINDS = tuple(BUILDERS)
VIDEO = ("wan", "wan_two_experts", "wan_expanded")
SIDE, FRAMES = 32, 5
PROMPTS = ["a red cat", "dog"]
NO_NEGATIVE_PROMPT = ("flux", "flux_2")
"""Their stock pipelines take none: FLUX.1 has no negative branch, FLUX.2's is always empty."""
LORA = {"lora_rank": 2, "lora_alpha": 6}
LAST_JOINT_BLOCK = {
    "sd3": "transformer_blocks.1.",
    "flux": "transformer_blocks.0.",
    "qwen_image": "transformer_blocks.1.",
}


@pytest.fixture(scope="module")
def family_folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """kind -> pipeline folder, built when it is first asked for; tests must not write into it."""
    built: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in built:
            built[kind] = BUILDERS[kind](7, tmp_path_factory.mktemp(kind))
        return built[kind]

    return folder


@pytest.fixture
def section_of(family_folders: Callable[[str], Path]) -> Callable[..., Model]:
    """section_of(kind, **values): a `model` section for one of the folders."""

    def make(kind: str, **values: Any) -> Model:
        negative = "" if kind in NO_NEGATIVE_PROMPT else "blue"
        small = {"height": SIDE, "width": SIDE, "frames": FRAMES if kind in VIDEO else 1, "negative_prompt": negative}
        return Model(path=str(family_folders(kind)), max_sequence_length=20, **{**small, **LORA, **values})

    return make


def stock(kind: str, pipe: Any, policy: Any, *, steps: int, guidance_scale: float, prompts: list[str]) -> Any:
    """The stock pipeline's pictures or videos from the policy's noise."""
    x = policy.initial_noise(KEYS[: len(prompts)])
    scale = {"qwen_image": {"true_cfg_scale": guidance_scale}, "z_image": {"guidance_scale": guidance_scale - 1}}
    options = scale.get(kind, {"guidance_scale": guidance_scale})
    if kind not in NO_NEGATIVE_PROMPT:
        per_row = kind in ("z_image", "wan", "wan_two_experts", "wan_expanded", "qwen_image")
        options["negative_prompt"] = ["blue"] * len(prompts) if per_row else "blue"
    if kind in VIDEO:
        options["num_frames"] = FRAMES
    if kind == "sana":
        options["use_resolution_binning"] = False
    with torch.no_grad():
        return pipe(
            prompt=list(prompts),
            height=SIDE,
            width=SIDE,
            num_inference_steps=steps,
            latents=pack(x) if kind in ("flux", "qwen_image") else x,
            output_type="pt",
            max_sequence_length=20,
            **options,
        )[0]


def draw_by_engine(policy: Any, *, steps: int, guidance_scale: float) -> torch.Tensor:
    """As a rollout draws, with stochastic steps whose strength eta is 0."""
    cond, sigmas = policy.encode(PROMPTS), policy.sigmas(steps)

    def velocity(x: torch.Tensor, sigma: float, rows: torch.Tensor) -> torch.Tensor:
        return policy.velocity(x, sigma, cond.rows(rows), guidance_scale=guidance_scale)

    plan = Plan(sigmas, tuple(Step("sde") if i < steps - 1 else Step() for i in range(steps)))
    with torch.no_grad():
        drawn = sample_flow(velocity, policy.initial_noise(KEYS[:2]), plan, kernel="flow_sde", eta=0.0, keys=KEYS[:2])
        return policy.decode(drawn.samples)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.5])
@pytest.mark.parametrize("kind", KINDS)
def test_without_noise_the_stock_pipelines_pictures(family_folders, section_of, kind, guidance_scale):
    policy, pipe = load_policy(section_of(kind)), stock_pipeline(family_folders(kind))
    options = {"steps": 4, "guidance_scale": guidance_scale}
    expected = stock(kind, pipe, policy, prompts=PROMPTS, **options)
    media = draw(policy, PROMPTS, **options) if guidance_scale == 1 else draw_by_engine(policy, **options)
    assert media.shape == ((2, FRAMES, 3, SIDE, SIDE) if kind in VIDEO else (2, 3, SIDE, SIDE))
    torch.testing.assert_close(media, torch.as_tensor(expected), rtol=0, atol=2e-5)
    assert media.flatten(1).std(1).min() > 1e-3, "a flat picture would prove nothing"


@pytest.mark.parametrize("kind", KINDS)
def test_prompt_guidance_and_level_reach_the_velocity(section_of, kind):
    """Parity would mean little if the random network ignored its inputs."""
    policy = load_policy(section_of(kind))
    x = policy.initial_noise(KEYS[:1])
    one, other = policy.encode(["a red cat"]), policy.encode(["dog"])
    with torch.no_grad():
        plain = policy.velocity(x, 0.9, one, guidance_scale=1.0)
        changed = {
            "prompt": policy.velocity(x, 0.9, other, guidance_scale=1.0),
            "guidance": policy.velocity(x, 0.9, one, guidance_scale=3.0),
            "level": policy.velocity(x, 0.8, one, guidance_scale=1.0),
        }
    assert plain.shape == x.shape and plain.dtype == torch.float32
    for name, velocity in changed.items():
        assert (velocity - plain).abs().max() > 1e-5, name


@pytest.mark.parametrize("kind", KINDS)
def test_replay_of_the_rollout_is_exact(section_of, kind):
    """The likelihood of what was stored, from the same inputs, to the bit: the first ratio is exactly 1."""
    policy = load_policy(section_of(kind))
    cond = policy.encode(PROMPTS)
    sigmas = policy.sigmas(4)
    plan = Plan(sigmas, tuple(Step("sde", trained=True) if i < 3 else Step() for i in range(4)))

    def velocity(x: torch.Tensor, sigma: float, rows: torch.Tensor) -> torch.Tensor:
        return policy.velocity(x, sigma, cond.rows(rows), guidance_scale=3.0)

    with torch.no_grad():
        rollout = sample_flow(velocity, policy.initial_noise(KEYS[:2]), plan, kernel="cps", eta=0.5, keys=KEYS[:2])
        for step in range(3):
            rows = (rollout.input_step == step).nonzero().flatten()
            again = velocity(rollout.inputs[rows], sigmas[step], rollout.input_root[rows])
            assert torch.equal(again, rollout.velocities[rows])


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_load_in_plain_diffusers_at_full_strength(family_folders, section_of, tmp_path, kind):
    policy, other, pipe = (
        load_policy(section_of(kind)),
        load_policy(section_of(kind)),
        stock_pipeline(family_folders(kind)),
    )
    shake(policy, 0.1)
    policy.save(tmp_path)
    other.load(tmp_path)
    assert all(torch.equal(other.trainable()[name], held) for name, held in policy.trainable().items())
    options = {"steps": 3, "guidance_scale": 2.0}
    base = torch.as_tensor(stock(kind, pipe, policy, prompts=PROMPTS, **options))
    pipe.load_lora_weights(tmp_path)
    if kind == "wan_two_experts":
        pipe.load_lora_weights(tmp_path / "transformer_2", load_into_transformer_2=True)
    loaded = torch.as_tensor(stock(kind, pipe, policy, prompts=PROMPTS, **options))
    torch.testing.assert_close(draw(policy, PROMPTS, **options), loaded, rtol=0, atol=2e-5)
    assert (loaded - base).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_reaches_every_trained_parameter(section_of, kind):
    policy = load_policy(section_of(kind))
    shake(policy, 0.1)
    x, cond = policy.initial_noise(KEYS[:2]), policy.encode(PROMPTS)
    policy.velocity(x, torch.tensor([0.9, 0.2]), cond, guidance_scale=2.0).square().mean().backward()
    # The text of a last joint block goes nowhere, so its query and its last layers have no influence.
    idle = [name for name, held in policy.trainable().items() if held.grad is None or not held.grad.any()]
    last = LAST_JOINT_BLOCK.get(kind, "none")
    late = ("add_q_proj", "to_add_out", "ff_context", "txt_mlp")
    assert [name for name in idle if not (last in name and any(part in name for part in late))] == []
    with policy.reference(), torch.no_grad():
        base = policy.velocity(x, 0.5, cond, guidance_scale=2.0)
    assert torch.equal(base, load_policy(section_of(kind)).velocity(x, 0.5, cond, guidance_scale=2.0).detach())


@pytest.mark.parametrize("kind", KINDS)
def test_two_iterations_of_mix_grpo_without_a_code_change(family_folders, tmp_path, kind):
    """The run makes the start-up checks too: first ratio exactly 1, rollout gap within bounds."""
    (tmp_path / "rewards.py").write_text(
        "def red(images, prompts, metadata):\n    return images[:, 0].mean((1, 2))\n", encoding="utf-8"
    )
    (tmp_path / "prompts.txt").write_text("a red cat\na blue dog\n", encoding="utf-8")
    scale = {"model.frames": FRAMES} if kind in VIDEO else {}
    values = {
        **{"model.path": family_folders(kind), "model.height": SIDE, "model.width": SIDE, **scale},
        **{"model.max_sequence_length": 20, "model.dtype": "float32", "model.adapter": "lora", "model.lora_rank": 2},
        **{"data.prompts": tmp_path / "prompts.txt", "reward.names": f"{tmp_path / 'rewards.py'}:red"},
        **{"sampler.steps": 4, "sampler.window_width": 2, "objective.clip_low": 1e-3, "objective.clip_high": 1e-3},
        **{"train.prompts_per_iteration": 2, "train.group_size": 2, "train.updates_per_iteration": 1},
        **{"train.iterations": 2, "eval.scorers": f"{tmp_path / 'rewards.py'}:red", "eval.steps": 2},
        **{"run.dir": tmp_path / "run", "run.images": 1, "run.device": "cpu", "train.lr": 1e-2},
    }
    words = [word for key, value in values.items() for word in (f"--{key}", str(value))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main(["train", "mix_grpo", *words]) == 0
    rows = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 2
    assert all(json.loads(row)["ratio_minus_1/max"] == 0.0 for row in rows), "one update: on policy"
    assert list((tmp_path / "run" / "images").rglob("*.png"))


def test_every_family_has_facts_and_functions():
    assert list(FAMILIES) == list(FACTS)
