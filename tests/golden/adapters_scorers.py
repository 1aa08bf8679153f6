"""Golden adapters of in-process scorers: file stem -> function(inputs) -> outputs."""

from __future__ import annotations

import math
import os
from itertools import pairwise
from typing import Any

import pytest
import torch

from reward_models.aesthetic import LAYERS, collapse, through_layers
from reward_models.geneval_rules import Detection, judge
from reward_models.hpsv2 import hpsv2_images
from reward_models.ocr_rules import joined, quoted, text_reward, video_reward
from reward_models.weights import read_state

Case = dict[str, Any]

HEAD = "FLOWGRPO_AESTHETIC_HEAD"
"""Environment variable with the path of the released head, which is not shipped."""
SIZES = (768, 1024, 128, 64, 16, 1)
READINGS = {"image": lambda texts, target: text_reward(texts[0], target), "video": video_reward}


def ocr_reward(case: Case) -> Case:
    """The source scores a reader that fails as 0; ours makes the sample invalid: nothing to compare."""
    read = [case["recognised"]] if case["mode"] == "image" else case["recognised_per_sampled_frame"]
    if "error" in read:
        return {}
    texts = [joined((text, score) for text, score in lines) for lines in read]
    return {"reward": READINGS[case["mode"]](texts, quoted(case["prompt"]))}


def aesthetic_mlp(case: Case) -> Case:
    state = _head(case)
    p, q, r = case["embedding_p_q_r"]
    j = torch.arange(1, SIZES[0] + 1)
    embedding = torch.sin(p * j) + q * torch.cos(r * j**2)
    affine, layers = collapse(state)(embedding[None]), through_layers(state, embedding[None])
    torch.testing.assert_close(affine, layers, rtol=0, atol=1e-12)
    return {"embedding_norm": embedding.norm(), "score": affine.item()}


def _head(case: Case) -> dict[str, torch.Tensor]:
    if case["weights"] == "checkpoint":
        if HEAD not in os.environ:
            pytest.skip(f"needs the released head: set {HEAD} to its path")
        return {name: value.double() for name, value in read_state(os.environ[HEAD], "aesthetic").items()}
    alpha, beta, gamma = case["formula_alpha_beta_gamma"]
    state = {}
    for number, (fan_in, out) in enumerate(pairwise(SIZES)):
        i, j = torch.arange(1, out + 1)[:, None], torch.arange(1, fan_in + 1)[None]
        angle = alpha * i + beta * j * (number + 1) + gamma * i * j
        state[f"layers.{LAYERS[number]}.weight"] = 3 * torch.sin(angle) / math.sqrt(fan_in)
        state[f"layers.{LAYERS[number]}.bias"] = 0.01 * torch.cos(alpha * i[:, 0] + number)
    return state


def geneval_rules(case: Case) -> Case:
    objects = {
        label: [Detection(label, one["score"], tuple(one["box"]), one.get("color")) for one in found]
        for label, found in case["objects"].items()
    }
    verdict = judge(objects, case["metadata"])
    return {"strict_correct": verdict.strict, "lenient_correct": verdict.lenient, "soft_score": verdict.soft}


def hpsv2_preprocess(case: Case) -> Case:
    pixels = torch.tensor(case["image_hwc_uint8"], dtype=torch.float32).permute(2, 0, 1)[None] / 255
    return {"pixel_values_chw": hpsv2_images(pixels, case["size"])[0]}


ADAPTERS = {
    "ocr_reward": ocr_reward,
    "aesthetic_mlp": aesthetic_mlp,
    "geneval_rules": geneval_rules,
    "hpsv2_preprocess": hpsv2_preprocess,
}
