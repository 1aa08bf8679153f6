"""The parts of tiny-sd3: every architecture and the tokenizer, in the classes that stock diffusers loads."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from tokenizers import Regex, Tokenizer, models, normalizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from reward_models.shapes import COLORS, COUNTS, PLURALS, RELATIONS, SHAPES

TEXT_LENGTH = 16
TEXT_WIDTH = 64


def make_vae() -> AutoencoderKL:
    """Three levels, thin at full size: 64x64 pictures, 16x16x4 latents."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.0,
    )


def make_transformer() -> SD3Transformer2DModel:
    """Four joint blocks of width 128 on 64 picture tokens.

    The position embedding, which an SD3 checkpoint carries, is replaced by a finer one: the stock frequencies stop at
    1 radian per token, too smooth for attention to single out a neighbour, and shapes stayed blobs.
    """
    model = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=4,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=2 * TEXT_WIDTH,
        caption_projection_dim=128,
        pooled_projection_dim=2 * TEXT_WIDTH,
        pos_embed_max_size=8,
        qk_norm="rms_norm",
    )
    model.pos_embed.pos_embed.copy_(_fine_positions(8, 128))
    return model


def make_tokenizer(folder: Path) -> CLIPTokenizer:
    """Every word of the world is one token; any other text falls back to single bytes."""
    words = ["small", "large", "and", *COLORS, *SHAPES, *PLURALS.values(), *COUNTS]
    words += sorted({part for relation in RELATIONS for part in relation.split()})
    alphabet = list(_byte_symbols())
    merges = _merges(list(dict.fromkeys(words)))
    pieces = [left + right for left, right in merges]
    vocabulary = dict.fromkeys([*alphabet, *(a + "</w>" for a in alphabet), *pieces])
    tokens = [*vocabulary, "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    vocab_file, merges_file = folder / "vocab.json", folder / "merges.txt"
    vocab_file.write_text(json.dumps({token: i for i, token in enumerate(tokens)}), encoding="utf-8")
    merges_file.write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")
    return CLIPTokenizer(str(vocab_file), str(merges_file), model_max_length=TEXT_LENGTH)


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """Two layers of width 64, trained together with the transformer."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=TEXT_WIDTH,
        max_position_embeddings=TEXT_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModelWithProjection(config)


def make_silent_t5() -> tuple[T5EncoderModel, PreTrainedTokenizerFast]:
    """A T5 that reads nothing and always answers zero, as the stock pipeline does in the place of a missing T5.

    `from_pretrained` refuses a folder without a third encoder unless the caller passes None for it; with this one the
    folder loads plainly and gives the same conditioning.
    """
    reader = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>"))
    reader.normalizer = normalizers.Replace(Regex(r"[\s\S]+"), "")
    reader.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=reader, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    config = T5Config(vocab_size=3, d_model=2 * TEXT_WIDTH, d_kv=8, d_ff=8, num_layers=1, num_heads=1)
    encoder = T5EncoderModel(config)
    torch.nn.init.zeros_(encoder.encoder.final_layer_norm.weight)
    return encoder, tokenizer


def make_pipeline(
    vae: AutoencoderKL,
    transformer: SD3Transformer2DModel,
    encoders: tuple[CLIPTextModelWithProjection, CLIPTextModelWithProjection],
    tokenizer: CLIPTokenizer,
) -> StableDiffusion3Pipeline:
    """The stock pipeline around the parts, with a T5 that adds nothing."""
    silent, silent_tokenizer = make_silent_t5()
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae,
        text_encoder=encoders[0],
        tokenizer=tokenizer,
        text_encoder_2=encoders[1],
        tokenizer_2=tokenizer,
        text_encoder_3=silent,
        tokenizer_3=silent_tokenizer,
    )


def encode_text(
    encoders: tuple[CLIPTextModelWithProjection, CLIPTextModelWithProjection] | torch.nn.ModuleList,
    ids: torch.Tensor,
    zero_tokens: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Conditioning exactly as the stock pipeline makes it, with `zero_tokens` zeros where T5 would speak.

    Args:
        encoders: The two CLIP text encoders.
        ids: Token ids [B, 16].
        zero_tokens: The pipeline's `max_sequence_length`.

    Returns:
        Token embeddings [B, 16 + zero_tokens, 128] and pooled embeddings [B, 128].
    """
    outputs = [encoder(ids, output_hidden_states=True) for encoder in encoders]
    tokens = torch.cat([out.hidden_states[-2] for out in outputs], dim=-1)
    pooled = torch.cat([out.text_embeds for out in outputs], dim=-1)
    return torch.nn.functional.pad(tokens, (0, 0, 0, zero_tokens)), pooled


def _fine_positions(grid: int, width: int) -> torch.Tensor:
    """Sines and cosines up to almost the Nyquist frequency of the grid, [1, grid * grid, width]."""
    frequencies = torch.logspace(math.log10(0.15), math.log10(0.95 * math.pi), width // 4)
    angles = torch.arange(grid)[:, None] * frequencies
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)
    columns, rows = axis[None].expand(grid, -1, -1), axis[:, None].expand(-1, grid, -1)
    return torch.cat([columns, rows], dim=2).reshape(1, grid * grid, width)


def _byte_symbols() -> list[str]:
    """The printable stand-ins that byte-level BPE uses for the 256 bytes, in byte order."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(spare)) for byte in range(256)]


def _merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte pair encoding of the words until each is one piece: the most frequent pair first, ties in order."""
    spelled = [[*word[:-1], word[-1] + "</w>"] for word in words]
    merges = []
    while any(len(pieces) > 1 for pieces in spelled):
        pairs = Counter(pair for pieces in spelled for pair in itertools.pairwise(pieces))
        best = max(pairs, key=lambda pair: pairs[pair])
        merges.append(best)
        spelled = [_join(pieces, best) for pieces in spelled]
    return merges


def _join(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    joined: list[str] = []
    for piece in pieces:
        if joined and (joined[-1], piece) == pair:
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined
