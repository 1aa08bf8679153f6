"""What is known of every family of models before a file of it is read: names, sizes, published settings. No torch.

A family is known by the class name in a pipeline's `model_index.json`. The functions that run it are in
`flowgrpo.policies.families`, under the same names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

Config = Mapping[str, Any]

JOINT_ATTENTION = (
    *("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"),
    *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
)
CROSS_ATTENTION = tuple(f"attn{i}.{part}" for i in (1, 2) for part in ("to_q", "to_k", "to_v", "to_out.0"))


@dataclass(frozen=True, slots=True)
class Sizes:
    """Shapes inside a model.

    pixels: pixels per side of one latent pixel; patch: latent pixels per side of one token; channels: of a latent;
    width: channels of a token in the transformer; layers: its blocks; frame_step: frames of one latent frame after the
    first, None where the model makes pictures.
    """

    pixels: int
    patch: int
    channels: int
    width: int
    layers: int
    frame_step: int | None = None

    def latent_shape(self, height: int, width: int, frames: int = 1) -> tuple[int, ...]:
        """(C, h, w), or (C, f, h, w) of a video, for a size in pixels."""
        time = () if self.frame_step is None else ((frames - 1) // self.frame_step + 1,)
        return (self.channels, *time, height // self.pixels, width // self.pixels)

    def tokens(self, height: int, width: int, frames: int = 1) -> int:
        """Tokens of one picture or video in the transformer."""
        return prod(self.latent_shape(height, width, frames)[1:]) // self.patch**2


@dataclass(frozen=True, slots=True)
class Published:
    """What one paper set for a family; `settings` in the words of a recipe."""

    paper: str
    settings: str


@dataclass(frozen=True, slots=True)
class FamilyFacts:
    """One family. `guidance` and `grid` say in words what `flowgrpo.policies.families` does."""

    title: str
    hub: tuple[str, ...]
    guidance: str
    grid: str
    lora_targets: tuple[str, ...]
    sizes: Callable[[Config, Config], Sizes]
    """(transformer's config, decoder's config) -> sizes"""
    negative_branch: Callable[[Config, Config], bool] = lambda index, transformer: True
    """(model_index.json, transformer's config) -> whether guidance runs a second row"""
    papers: tuple[Published, ...] = ()
    recipe: str | None = None
    """A shipped recipe whose paper used the family."""


def _heads(config: Config) -> int:
    return int(config.get("num_attention_heads", 1) * config.get("attention_head_dim", 1))


def _blocks(config: Config) -> int:
    return int(config.get("num_layers", 1) + config.get("num_single_layers", 0))


def _convolved(vae: Config, key: str = "block_out_channels", levels: int = 4) -> int:
    """Pixels per latent pixel of an autoencoder that halves once per level but the last; `levels`: by default."""
    return 2 ** (len(vae[key]) - 1 if key in vae else levels - 1)


def _sd3(transformer: Config, vae: Config) -> Sizes:
    patch, channels = int(transformer.get("patch_size", 2)), int(transformer.get("in_channels", 16))
    return Sizes(_convolved(vae), patch, channels, _heads(transformer), _blocks(transformer))


def _flux(transformer: Config, vae: Config) -> Sizes:
    channels = int(transformer.get("in_channels", 64)) // 4
    return Sizes(_convolved(vae), 2, channels, _heads(transformer), _blocks(transformer))


def _flux_2(transformer: Config, vae: Config) -> Sizes:
    """Its latents are squares of 2 x 2 of the autoencoder's, normalised in that form: one token each."""
    channels = int(transformer.get("in_channels", 128))
    return Sizes(2 * _convolved(vae), 1, channels, _heads(transformer), _blocks(transformer))


def _qwen_image(transformer: Config, vae: Config) -> Sizes:
    pixels = 2 ** len(vae.get("temperal_downsample", [0] * 3))
    return Sizes(pixels, 2, int(transformer.get("in_channels", 64)) // 4, _heads(transformer), _blocks(transformer))


def _z_image(transformer: Config, vae: Config) -> Sizes:
    layers = int(transformer.get("n_layers", 1) + transformer.get("n_refiner_layers", 0))
    patch, channels = int(transformer.get("all_patch_size", [2])[0]), int(transformer.get("in_channels", 16))
    return Sizes(_convolved(vae), patch, channels, int(transformer.get("dim", 1)), layers)


def _sana(transformer: Config, vae: Config) -> Sizes:
    patch, channels = int(transformer.get("patch_size", 1)), int(transformer.get("in_channels", 32))
    pixels = _convolved(vae, "encoder_block_out_channels", levels=6)
    return Sizes(pixels, patch, channels, _heads(transformer), _blocks(transformer))


def _wan(transformer: Config, vae: Config) -> Sizes:
    return Sizes(
        pixels=int(vae.get("scale_factor_spatial", 8)),
        patch=int(transformer.get("patch_size", [1, 2, 2])[1]),
        channels=int(transformer.get("in_channels", 16)),
        width=_heads(transformer),
        layers=_blocks(transformer),
        frame_step=int(vae.get("scale_factor_temporal", 4)),
    )


FACTS: dict[str, FamilyFacts] = {
    "StableDiffusion3Pipeline": FamilyFacts(
        title="Stable Diffusion 3 and 3.5",
        hub=(
            "stabilityai/stable-diffusion-3.5-medium",
            "stabilityai/stable-diffusion-3.5-large",
            "stabilityai/stable-diffusion-3-medium-diffusers",
        ),
        guidance="negative prompt",
        grid="static shift 3, applied to shifted end points (the sigma trap)",
        lora_targets=JOINT_ATTENTION,
        sizes=_sd3,
        papers=(
            Published(
                "Flow-GRPO (arXiv 2505.05470), SD3.5-M",
                "512 px, 10 steps (evaluation 40), guidance 4.5, flow_sde eta 0.7, LoRA 32/64, groups of 24, float16",
            ),
            Published("Flow-GRPO-Fast, its code", "guidance 1, cps eta 0.8, a window of 3 steps in the first half"),
            Published("GRPO-Guard (arXiv 2510.22319)", "as Flow-GRPO, ratio guard, lr 1e-4, clip 2e-6 to 4e-6"),
        ),
        recipe="flow_grpo",
    ),
    "FluxPipeline": FamilyFacts(
        title="FLUX.1",
        hub=("black-forest-labs/FLUX.1-dev", "black-forest-labs/FLUX.1-schnell"),
        guidance="embedded: the scale is an input of the network",
        grid="1 ... 1/T, dynamic shift by tokens",
        lora_targets=(
            *JOINT_ATTENTION,
            *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
        ),
        sizes=_flux,
        negative_branch=lambda index, transformer: False,
        papers=(
            Published(
                "Flow-GRPO (arXiv 2505.05470), its code",
                "512 px, 6 steps (evaluation 28), guidance 3.5, flow_sde eta 0.9, LoRA 64/128, bfloat16",
            ),
            Published(
                "DanceGRPO (arXiv 2505.07818)",
                "720 px, 16 steps, guidance 3.5, dance_sde eta 0.3, grid dance with shift 3, full, lr 1e-5",
            ),
            Published("MixGRPO (arXiv 2507.21802)", "720 px, 25 steps, a window of 4, flow_sde eta 0.7, full, lr 1e-5"),
        ),
        recipe="mix_grpo",
    ),
    "Flux2KleinPipeline": FamilyFacts(
        title="FLUX.2-klein",
        hub=(
            "black-forest-labs/FLUX.2-klein-base-4B",
            "black-forest-labs/FLUX.2-klein-base-9B",
            "black-forest-labs/FLUX.2-klein-4B",
            "black-forest-labs/FLUX.2-klein-9B",
        ),
        guidance='negative prompt (the stock pipeline\'s is always ""); none where the model is step-distilled',
        grid="1 ... 1/T, dynamic shift by tokens and by steps",
        lora_targets=(*JOINT_ATTENTION, "attn.to_qkv_mlp_proj"),
        sizes=_flux_2,
        negative_branch=lambda index, transformer: not index.get("is_distilled", False),
    ),
    "QwenImagePipeline": FamilyFacts(
        title="Qwen-Image",
        hub=("Qwen/Qwen-Image", "Qwen/Qwen-Image-2512"),
        guidance="negative prompt, then each token is rescaled to the norm it has without guidance",
        grid="1 ... 1/T, dynamic shift by tokens, stretched to end at 0.02",
        lora_targets=(
            *JOINT_ATTENTION,
            *("img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2"),
        ),
        sizes=_qwen_image,
        papers=(
            Published(
                "Flow-GRPO, its code",
                'window of 2 of 10 steps (evaluation 50), 512 px, guidance 4, negative prompt " ", flow_sde eta 1.2, '
                "LoRA 64/128, groups of 16, bfloat16",
            ),
        ),
    ),
    "ZImagePipeline": FamilyFacts(
        title="Z-Image",
        hub=("Tongyi-MAI/Z-Image", "Tongyi-MAI/Z-Image-Turbo"),
        guidance="negative prompt; the stock pipeline's guidance_scale is ours minus 1",
        grid="1 ... 1/T, static shift",
        lora_targets=("attention.to_q", "attention.to_k", "attention.to_v", "attention.to_out.0"),
        sizes=_z_image,
    ),
    "SanaPipeline": FamilyFacts(
        title="Sana",
        hub=("Efficient-Large-Model/Sana_1600M_1024px_diffusers", "Efficient-Large-Model/Sana_600M_512px_diffusers"),
        guidance="negative prompt; the prompt, and it alone, follows Sana's instruction to its language model",
        grid="its DPM-Solver scheduler's flow levels, static shift 3",
        lora_targets=CROSS_ATTENTION,
        sizes=_sana,
    ),
    "WanPipeline": FamilyFacts(
        title="Wan 2.1 and 2.2 text-to-video",
        hub=(
            "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
            "Wan-AI/Wan2.1-T2V-14B-Diffusers",
            "Wan-AI/Wan2.2-T2V-A14B-Diffusers",
            "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
        ),
        guidance="negative prompt; Wan2.2-A14B's two networks share the scale, each step names its own by noise level",
        grid="its UniPC scheduler's flow levels, static shift",
        lora_targets=CROSS_ATTENTION,
        sizes=_wan,
        papers=(
            Published(
                "Flow-GRPO, its code, Wan2.1-T2V-1.3B",
                "240 x 416 px, 33 frames, 20 steps (evaluation 50), guidance 4.5, wan_sde eta 1, clip 1e-3, KL 0.004, "
                "lr 1e-4, bfloat16",
            ),
            Published("DanceGRPO, its code", "512 px, 20 steps, guidance 5, dance_sde, grid dance with shift 3"),
        ),
    ),
}
