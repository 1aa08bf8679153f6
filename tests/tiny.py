"""Random pipelines of the real diffusers classes, small enough to build in a second; nothing is fetched."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from flowgrpo.quiet import quiet_libraries

WIDTH = 16
TEXT_LENGTH = 12
IMAGE_SIZE = 16
"""Side in pixels of the pictures; latents are [4, 8, 8]."""


def tiny_sd3_pipeline(seed: int, folder: Path, *, t5: bool = False) -> Path:
    """Saves a random Stable Diffusion 3 pipeline, with a third text encoder on request, and returns its folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipe = StableDiffusion3Pipeline(
            transformer=_sd3_transformer(),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=vae(),
            text_encoder=CLIPTextModelWithProjection(_clip_config()),
            tokenizer=_clip_tokenizer(folder),
            text_encoder_2=CLIPTextModelWithProjection(_clip_config()),
            tokenizer_2=_clip_tokenizer(folder),
            text_encoder_3=T5EncoderModel(_t5_config()) if t5 else None,
            tokenizer_3=_t5_tokenizer() if t5 else None,
        )
    return _saved(pipe, folder)


def tiny_flux_pipeline(seed: int, folder: Path) -> Path:
    """Saves a random FLUX.1 pipeline with embedded guidance and dynamic shift, and returns its folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipe = FluxPipeline(
            transformer=_flux_transformer(),
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
            vae=vae(),
            text_encoder=CLIPTextModel(_clip_config()),
            tokenizer=_clip_tokenizer(folder),
            text_encoder_2=T5EncoderModel(_t5_config()),
            tokenizer_2=_t5_tokenizer(),
        )
    return _saved(pipe, folder)


def stock_pipeline(folder: Path) -> Any:
    """The pipeline of a folder as plain diffusers loads it."""
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    absent = {name: None for name, library in index.items() if library == [None, None]}
    with quiet_libraries():
        pipe = DiffusionPipeline.from_pretrained(folder, **absent)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _saved(pipe: Any, folder: Path) -> Path:
    with quiet_libraries():
        pipe.save_pretrained(folder)
    return folder


def vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=IMAGE_SIZE,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.5,
        shift_factor=0.06,
    )


def _sd3_transformer() -> SD3Transformer2DModel:
    return SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=16,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=8,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )


def _flux_transformer() -> FluxTransformer2DModel:
    return FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=2 * WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(4, 4, 8),
    )


def _clip_config() -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=2 * len(_letters()) + 2,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=WIDTH,
        max_position_embeddings=TEXT_LENGTH,
        bos_token_id=2 * len(_letters()),
        eos_token_id=2 * len(_letters()) + 1,
        pad_token_id=2 * len(_letters()) + 1,
    )


def _clip_tokenizer(folder: Path) -> CLIPTokenizer:
    """One token per letter: words longer than the limit are cut, as real prompts are."""
    letters = _letters()
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary, merges = folder / "letters.json", folder / "merges.txt"
    vocabulary.write_text(json.dumps({token: i for i, token in enumerate(tokens)}), encoding="utf-8")
    merges.write_text("#version: 0.2\n", encoding="utf-8")
    return CLIPTokenizer(str(vocabulary), str(merges), model_max_length=TEXT_LENGTH)


def _t5_config() -> T5Config:
    return T5Config(
        vocab_size=len(_letters()) + 3,
        d_model=2 * WIDTH,
        d_kv=8,
        d_ff=2 * WIDTH,
        num_layers=1,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )


def _t5_tokenizer() -> PreTrainedTokenizerFast:
    """One token per letter, closed by `</s>`, padded with 0."""
    vocabulary = {token: i for i, token in enumerate(["<pad>", "</s>", "<unk>", *_letters()])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def _letters() -> list[str]:
    return list(string.ascii_lowercase + string.digits)
