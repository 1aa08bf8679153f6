"""Random pipelines of the real classes for every family, small enough to build in a second; nothing is fetched."""

from __future__ import annotations

import string
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    WanPipeline,
    WanTransformer3DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers
from transformers import (
    Gemma2Config,
    Gemma2Model,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    UMT5Config,
    UMT5EncoderModel,
)

from flowgrpo.quiet import quiet_libraries
from tests.tiny import tiny_flux_pipeline, tiny_sd3_pipeline, vae

WIDTH = 16
WORDS = ("a", "red", "cat", "dog", "blue", "green", "bird", "white", "fish", *string.ascii_lowercase[1:])
SPECIAL = ("<pad>", "<unk>", "<|im_start|>", "<|im_end|>")
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)


def tiny_flux_2(seed: int, folder: Path) -> Path:
    """FLUX.2-klein before distillation: text from layers 9, 18 and 27 of its language model."""
    return _built(
        seed,
        folder,
        lambda: Flux2KleinPipeline(
            transformer=Flux2Transformer2DModel(
                in_channels=16,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=3 * WIDTH,
                timestep_guidance_channels=16,
                guidance_embeds=False,
                axes_dims_rope=(4, 4, 4, 4),
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
            vae=_flux_2_vae(),
            text_encoder=_qwen_3(layers=27),
            tokenizer=_word_tokenizer(),
        ),
    )


def tiny_qwen_image(seed: int, folder: Path) -> Path:
    """Qwen-Image with its scheduler's own dynamic shift and terminal level."""
    return _built(
        seed,
        folder,
        lambda: QwenImagePipeline(
            transformer=QwenImageTransformer2DModel(
                in_channels=16,
                out_channels=4,
                num_layers=2,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=WIDTH,
                axes_dims_rope=(4, 4, 8),
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(
                use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02
            ),
            vae=_video_vae(AutoencoderKLQwenImage),
            text_encoder=_qwen_vl(),
            tokenizer=_word_tokenizer(),
        ),
    )


def tiny_z_image(seed: int, folder: Path) -> Path:
    """Z-Image with static shift."""
    return _built(
        seed,
        folder,
        lambda: ZImagePipeline(
            transformer=ZImageTransformer2DModel(
                in_channels=4,
                dim=32,
                n_layers=2,
                n_refiner_layers=1,
                n_heads=2,
                n_kv_heads=2,
                cap_feat_dim=WIDTH,
                axes_dims=[4, 4, 8],
                axes_lens=[256, 32, 32],
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=vae(),
            text_encoder=_qwen_3(layers=2),
            tokenizer=_word_tokenizer(),
        ),
    )


def tiny_sana(seed: int, folder: Path) -> Path:
    """Sana with an autoencoder of factor 8."""
    return _built(
        seed,
        folder,
        lambda: SanaPipeline(
            transformer=SanaTransformer2DModel(
                in_channels=4,
                out_channels=4,
                num_attention_heads=2,
                attention_head_dim=8,
                num_layers=2,
                num_cross_attention_heads=2,
                cross_attention_head_dim=8,
                cross_attention_dim=16,
                caption_channels=WIDTH,
                sample_size=8,
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=_deep_vae(),
            text_encoder=_gemma(),
            tokenizer=_word_tokenizer(),
        ),
    )


def tiny_wan(seed: int, folder: Path, *, boundary: float | None = None, expand: bool = False) -> Path:
    """Wan 2.1; with a boundary Wan 2.2's two networks, with `expand` a timestep per token."""
    return _built(
        seed,
        folder,
        lambda: WanPipeline(
            transformer=_wan_transformer(),
            transformer_2=None if boundary is None else _wan_transformer(),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=_video_vae(AutoencoderKLWan),
            text_encoder=_umt5(),
            tokenizer=_word_tokenizer(),
            boundary_ratio=boundary,
            expand_timesteps=expand,
        ),
    )


BUILDERS: dict[str, Callable[[int, Path], Path]] = {
    "sd3": tiny_sd3_pipeline,
    "flux": tiny_flux_pipeline,
    "flux_2": tiny_flux_2,
    "qwen_image": tiny_qwen_image,
    "z_image": tiny_z_image,
    "sana": tiny_sana,
    "wan": tiny_wan,
    "wan_two_experts": partial(tiny_wan, boundary=0.6),
    "wan_expanded": partial(tiny_wan, expand=True),
}


def _built(seed: int, folder: Path, make: Callable[[], Any]) -> Path:
    with torch.random.fork_rng(devices=[]), quiet_libraries():
        torch.manual_seed(seed)
        pipe = make()
        for part in (pipe.transformer, pipe.transformer_2 if hasattr(pipe, "transformer_2") else None):
            _wake(part)
        pipe.save_pretrained(folder)
    return folder


def _wake(network: Any) -> None:
    """Zero tables and gates of a fresh network would hide what it is given."""
    for parameter in () if network is None else network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)


def _word_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word, mark and line break, as many for Qwen-Image's template as the real one has: 34."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, "\n", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[^\S\n]+"), "removed"),
            pre_tokenizers.Split(Regex(r"\n|\w+|[^\w\s]"), "isolated"),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<|im_end|>",
        model_max_length=4096,
        padding_side="right",
        chat_template=CHAT,
    )


VOCABULARY = len(SPECIAL) + 1 + len(WORDS)
ENCODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": WIDTH,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}


def _qwen_3(layers: int) -> Qwen3ForCausalLM:
    return Qwen3ForCausalLM(Qwen3Config(**ENCODER, num_hidden_layers=layers, max_position_embeddings=128))


def _qwen_vl() -> Qwen2_5_VLForConditionalGeneration:
    text = {key: value for key, value in ENCODER.items() if key != "head_dim"}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": WIDTH}
    config = Qwen2_5_VLConfig(
        text_config={**text, "num_hidden_layers": 1, "rope_parameters": rope},
        vision_config={**vision, "fullatt_block_indexes": [0]},
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def _gemma() -> Gemma2Model:
    return Gemma2Model(Gemma2Config(**ENCODER, num_hidden_layers=1, query_pre_attn_scalar=8))


def _umt5() -> UMT5EncoderModel:
    return UMT5EncoderModel(
        UMT5Config(vocab_size=VOCABULARY, d_model=WIDTH, d_kv=8, d_ff=WIDTH, num_layers=1, num_heads=2)
    )


def _flux_2_vae() -> AutoencoderKLFlux2:
    vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    torch.nn.init.normal_(vae.bn.running_mean)
    torch.nn.init.uniform_(vae.bn.running_var, 0.5, 2.0)
    return vae


def _video_vae(kind: Any) -> Any:
    """Eight pixels per latent pixel, four frames per latent frame after the first."""
    return kind(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.2, 0.8, 1.0, 1.5],
    )


def _deep_vae() -> AutoencoderDC:
    return AutoencoderDC(
        latent_channels=4,
        attention_head_dim=4,
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        encoder_block_out_channels=(4, 4, 8, 8),
        decoder_block_out_channels=(4, 4, 8, 8),
        encoder_layers_per_block=(1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1),
        encoder_qkv_multiscales=((), (), (), ()),
        decoder_qkv_multiscales=((), (), (), ()),
        scaling_factor=0.4,
    )


def _wan_transformer() -> WanTransformer3DModel:
    return WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=WIDTH,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
    )
