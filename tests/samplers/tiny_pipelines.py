"""Stock SD3, FLUX and Wan pipelines from tiny random configs, with the arguments of one call.

Text encoders are left out: the calls pass prompt embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline
from diffusers.pipelines.wan.pipeline_wan import WanPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Tiny:
    """A pipeline, the per-prompt arguments (batch axis first) and the shared arguments of its call."""

    pipe: Any
    rows: dict[str, Tensor]
    shared: dict[str, Any]

    def latents(self, rows: slice = slice(None)) -> Tensor:
        return self.run("latent", rows)

    def run(self, output_type: str, rows: slice = slice(None)) -> Any:
        cut = {name: value[rows].to(self.pipe.transformer.dtype) for name, value in self.rows.items()}
        out = self.pipe(**cut, **self.shared, output_type=output_type)
        return out.frames if hasattr(out, "frames") else out.images


def rand(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def image_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(4,),
        latent_channels=4,
        norm_num_groups=1,
        sample_size=16,
        shift_factor=0.0609,
        scaling_factor=1.5035,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def sd3() -> Tiny:
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pooled_projection_dim=16,
    )
    encoders = dict.fromkeys(
        ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3")
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe = StableDiffusion3Pipeline(transformer=transformer, scheduler=scheduler, vae=image_vae(), **encoders)
    rows = {
        "prompt_embeds": rand(3, 4, 16),
        "pooled_prompt_embeds": rand(3, 16),
        "negative_prompt_embeds": rand(3, 4, 16) / 2,
        "negative_pooled_prompt_embeds": rand(3, 16) / 2,
        "latents": rand(3, 4, 8, 8),
    }
    return Tiny(pipe, rows, {"height": 8, "width": 8, "num_inference_steps": 4, "guidance_scale": 2.0})


def flux() -> Tiny:
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=(4, 4, 8),
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    encoders = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    pipe = FluxPipeline(transformer=transformer, scheduler=scheduler, vae=image_vae(), **encoders)
    rows = {"prompt_embeds": rand(3, 4, 16), "pooled_prompt_embeds": rand(3, 16), "latents": rand(3, 16, 16)}
    return Tiny(pipe, rows, {"height": 8, "width": 8, "num_inference_steps": 4})


def wan() -> Tiny:
    transformer = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=16,
        freq_dim=16,
        ffn_dim=16,
        num_layers=1,
        rope_max_seq_len=32,
    )
    vae = AutoencoderKLWan(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=5.0)
    pipe = WanPipeline(transformer=transformer, scheduler=scheduler, vae=vae, tokenizer=None, text_encoder=None)
    rows = {
        "prompt_embeds": rand(3, 4, 16),
        "negative_prompt_embeds": rand(3, 4, 16) / 2,
        "latents": rand(3, 16, 2, 2, 2),
    }
    shared = {"height": 16, "width": 16, "num_frames": 5, "num_inference_steps": 4, "guidance_scale": 2.0}
    return Tiny(pipe, rows, shared)


def build(family: str, dtype: torch.dtype) -> Tiny:
    """The tiny pipeline of a family, the same weights every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tiny = FAMILIES[family]()
    tiny.pipe.to(dtype)
    tiny.pipe.set_progress_bar_config(disable=True)
    return tiny


FAMILIES = {"sd3": sd3, "flux": flux, "wan": wan}
