"""A judge behind `transformers serve`, over real HTTP: a tiny model of the LLaVA classes that always says one thing."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import torch

from reward_models import load

pytest.importorskip("openai", reason="transformers serve needs the package openai")
pytest.importorskip("uvicorn", reason="transformers serve needs uvicorn")

SAYS = "Final Score: 4 <answer>Image 1 is better</answer>"
WORDS = (SAYS, "<unk>", "</s>", "<pad>", "<image>")
PART = "{{ '<image>' if part.type == 'image' else part.text }}"
EVERYTHING = f"{{% for message in messages %}}{{% for part in message.content %}}{PART}{{% endfor %}}{{% endfor %}}"


def tiny_judge(folder: Path) -> Path:
    """A LLaVA of two layers whose logits are all 0: decoding at temperature 0 takes token 0, which is `SAYS`."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "<pad>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, additional_special_tokens=["<image>"], **special)
    pictures = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=EVERYTHING,
        image_token="<image>",
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    vision = CLIPVisionConfig(num_hidden_layers=2, image_size=16, patch_size=8, projection_dim=16, **small)
    text = LlamaConfig(
        vocab_size=len(WORDS), num_hidden_layers=1, num_key_value_heads=2, pad_token_id=3, eos_token_id=2, **small
    )
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=4, vision_feature_layer=-1)
    model = LlavaForConditionalGeneration(config)
    torch.nn.init.zeros_(model.model.language_model.norm.weight)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    from transformers.cli.serve import Serve

    folder = tiny_judge(tmp_path_factory.mktemp("judge"))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    options = {"force_model": str(folder), "host": "127.0.0.1", "port": port, "device": "cpu", "log_level": "error"}
    server = Serve(non_blocking=True, **options)
    url = f"http://127.0.0.1:{port}"
    for _ in range(500):
        try:
            requests.get(f"{url}/health", timeout=1)
            break
        except requests.ConnectionError:
            time.sleep(0.02)
    yield {"base_url": f"{url}/v1", "model": str(folder), "max_tokens": 1, "retries": 1, "parse_retries": 0}
    server.kill_server()


def pictures(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_marks_come_back_with_what_they_took(served: dict[str, Any]) -> None:
    scores = load("unifiedreward", edition="1.5", **served)(pictures(2), ["a dog", "a cat"])
    assert scores.errors == {} and scores.scores.tolist() == [4.0, 4.0]
    assert scores.cost.requests == 2 and scores.cost.reply_tokens == 2
    assert scores.cost.prompt_tokens > 2 * 4, "four image tokens each, and the words"


def test_two_pictures_in_one_question(served: dict[str, Any]) -> None:
    scorer = load("unifiedreward_think", **served)
    scores = scorer(pictures(3), ["a dog"] * 3, group=[0, 0, 0], seed=1)
    assert scores.valid.all() and {verdict for *_, verdict in scores.comparisons} == {1.0}
    assert scores.components["first_wins"].tolist() == [1.0] * 3, "a judge that always prefers the first"


def test_what_the_server_refuses_is_a_reason_and_no_zero(served: dict[str, Any]) -> None:
    """It gives no log-probabilities, and knows its own model only."""
    scores = load("vqa", **served)(pictures(1), ["a dog"])
    assert not scores.valid.any() and scores.scores.isnan().all() and "logprobs" in scores.errors[0]
    other = load("unifiedreward", **{**served, "model": "another"})(pictures(1), ["a dog"])
    assert not other.valid.any() and "another" in other.errors[0]
