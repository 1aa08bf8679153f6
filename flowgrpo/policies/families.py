"""The families of diffusers pipelines that can be trained, by the class name in `model_index.json`.

A new family is a module with a `Family`, one entry here and one in `flowgrpo.policies.facts`.
"""

from __future__ import annotations

from flowgrpo.policies.family import Family
from flowgrpo.policies.flux import FLUX_1
from flowgrpo.policies.flux2 import FLUX_2_KLEIN
from flowgrpo.policies.qwen_image import QWEN_IMAGE
from flowgrpo.policies.sana import SANA
from flowgrpo.policies.sd3 import STABLE_DIFFUSION_3
from flowgrpo.policies.wan import WAN
from flowgrpo.policies.z_image import Z_IMAGE

FAMILIES: dict[str, Family] = {
    "StableDiffusion3Pipeline": STABLE_DIFFUSION_3,
    "FluxPipeline": FLUX_1,
    "Flux2KleinPipeline": FLUX_2_KLEIN,
    "QwenImagePipeline": QWEN_IMAGE,
    "ZImagePipeline": Z_IMAGE,
    "SanaPipeline": SANA,
    "WanPipeline": WAN,
}
