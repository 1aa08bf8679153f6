"""A small pipeline's files: sizes only, no weights that could run."""

from __future__ import annotations

import json
import struct
from pathlib import Path

TRANSFORMER = {"patch_size": 2, "num_layers": 3, "num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 16}
VAE = {"block_out_channels": [8, 16, 16, 32], "layers_per_block": 1, "latent_channels": 16}
SHAPES = {
    "transformer_blocks.0.attn.to_q.weight": (16, 16),
    "transformer_blocks.0.attn.to_q.bias": (16,),
    "transformer_blocks.0.attn.add_q_proj.weight": (16, 24),
    "transformer_blocks.0.ff.net.2.weight": (16, 64),
}


def write_header(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """A safetensors file of these shapes: a true header, and no data, which nothing here reads."""
    header = {name: {"dtype": "F32", "shape": list(shape), "data_offsets": [0, 0]} for name, shape in shapes.items()}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)


def write_pipeline(folder: Path) -> Path:
    index = {"_class_name": "StableDiffusion3Pipeline", "transformer": ["d", "T"], "vae": ["d", "V"], "x": [None, None]}
    for name, config in (("transformer", TRANSFORMER), ("vae", VAE)):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps(config))
    (folder / "model_index.json").write_text(json.dumps(index))
    write_header(folder / "transformer" / "diffusion_pytorch_model.safetensors", SHAPES)
    write_header(folder / "vae" / "diffusion_pytorch_model.safetensors", {"decoder.weight": (10, 10)})
    return folder
