"""Language models of the real classes with random weights: a few thousand parameters, one token per character."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedTokenizerFast,
)

from flowgrpo.policies.remote_code import prepare
from flowgrpo.quiet import quiet_libraries

SPECIAL = ("<pad>", "<bos>", "<eos>", "<mask>", "<unk>")
LETTERS = "0123456789+-*=() abcdefghijklmnopqrstuvwxyz?"
VOCABULARY = len(SPECIAL) + len(LETTERS)
SPARE = 3
"""Ids that the model has and the tokenizer has not, as in Dream."""
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "mask_token_id": 3}
AUTO_MAP = {"AutoConfig": "modeling_stand_in.StandInConfig", "AutoModel": "modeling_stand_in.StandIn"}
STATED: dict[str, Any] = {
    "model.kind": "masked_lm",
    "model.mask_id": 3,
    "model.logit_shift": 0,
    "model.padding_mask": "2d",
    "model.eos_ids": [2],
    "model.chat_template": False,
}


def tokenizer(*, mask: bool = True) -> PreTrainedTokenizerFast:
    """Characters; a prompt begins with `<bos>`. LLaDA's declares no mask."""
    vocabulary = {token: i for i, token in enumerate((*SPECIAL, *LETTERS))}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    inner.decoder = decoders.Fuse()
    names = {f"{name}_token": f"<{name}>" for name in ("pad", "bos", "eos", "mask", "unk") if mask or name != "mask"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, clean_up_tokenization_spaces=False, **names)


def modernbert(folder: Path, **changes: Any) -> Path:
    """A random ModernBERT."""
    config = ModernBertConfig(
        vocab_size=VOCABULARY + SPARE,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        local_attention=32,
        cls_token_id=1,
        sep_token_id=2,
        **IDS,
        **changes,
    )
    return _saved(ModernBertForMaskedLM, config, folder)


def bert(folder: Path) -> Path:
    """A random BERT, whose head is tied to its embedding."""
    config = BertConfig(
        vocab_size=VOCABULARY + SPARE,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        **IDS,
    )
    return _saved(BertForMaskedLM, config, folder)


def remote(folder: Path) -> Path:
    """A Dream-like model whose code lies in its folder: logits one column early, pairs of attention, no head class."""
    folder.mkdir(parents=True)
    (folder / "modeling_stand_in.py").write_text(REMOTE)
    (folder / "config.json").write_text(
        json.dumps(
            {
                "model_type": "Dream",
                "vocab_size": VOCABULARY + SPARE,
                "width": 24,
                "auto_map": AUTO_MAP,
                "architectures": ["StandIn"],
                **IDS,
            }
        )
    )
    with quiet_libraries():
        tokenizer().save_pretrained(folder)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            _stand_in(folder).save_pretrained(folder)
    restored = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**restored, "auto_map": AUTO_MAP}))
    return folder


def llada(folder: Path) -> Path:
    """A LLaDA-like model whose code lies in its folder: its names and calls, written for an older transformers."""
    folder.mkdir(parents=True)
    (folder / "modeling_llada.py").write_text(LLADA)
    names = {"AutoConfig": "LLaDAConfig", "AutoModel": "LLaDAModelLM", "AutoModelForCausalLM": "LLaDAModelLM"}
    config = {
        "model_type": "llada",
        "architectures": ["LLaDAModelLM"],
        "auto_map": {key: f"modeling_llada.{name}" for key, name in names.items()},
        **{"vocab_size": VOCABULARY + SPARE, "d_model": 24, "n_layers": 2, "weight_tying": False},
        **IDS,
    }
    (folder / "config.json").write_text(json.dumps(config))
    with quiet_libraries():
        tokenizer(mask=False).save_pretrained(folder)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = _stand_in(folder, "modeling_llada.LLaDAModelLM")
            save_file(dict(network.state_dict()), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _stand_in(folder: Path, name: str = "modeling_stand_in.StandIn") -> Any:
    from transformers import AutoConfig
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    prepare({"auto_map": {"AutoModel": name}}, "AutoModel", str(folder), None)
    return get_class_from_dynamic_module(name, folder)(config)


def _saved(kind: Any, config: Any, folder: Path) -> Path:
    with torch.random.fork_rng(devices=[]), quiet_libraries():
        torch.manual_seed(0)
        network = kind(config)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(4)  # sharp enough that a first update moves something
        network.save_pretrained(folder)
        tokenizer().save_pretrained(folder)
    return folder


REMOTE = """
import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS


class StandInConfig(PretrainedConfig):
    model_type = "Dream"

    def __init__(self, vocab_size=50, width=16, **rest):
        self.vocab_size, self.width = vocab_size, width
        self.hidden_size, self.num_attention_heads, self.rope_theta = 2 * width, 1, 10.0
        super().__init__(**rest)


class StandIn(PreTrainedModel):
    config_class = StandInConfig
    base_model_prefix = "body"

    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.width)
        self.q_proj = nn.Linear(config.width, config.width)
        self.lm_head = nn.Linear(config.width, config.vocab_size, bias=False)
        inverse, scale = ROPE_INIT_FUNCTIONS["default"](config, None)
        self.register_buffer("inverse", inverse, persistent=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.embed

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, input_ids, attention_mask=None, position_ids=None, **rest):
        x = self.embed(input_ids)
        n, length = input_ids.shape
        pairs = torch.ones(n, 1, length, length, dtype=torch.bool) if attention_mask is None else attention_mask
        assert pairs.shape == (n, 1, length, length)
        positions = torch.arange(length).expand(n, -1) if position_ids is None else position_ids
        x = x + torch.sin(positions.unsqueeze(-1) * self.inverse)
        scores = (self.q_proj(x) @ x.transpose(1, 2)).masked_fill(~pairs[:, 0], -1e9)
        return MaskedLMOutput(logits=self.lm_head(x + scores.softmax(-1) @ x))
"""


LLADA = """
import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast


class LLaDAConfig(PretrainedConfig):
    model_type = "llada"

    def __init__(self, vocab_size=50, d_model=16, n_layers=1, weight_tying=False, **rest):
        self.vocab_size, self.d_model, self.n_layers, self.weight_tying = vocab_size, d_model, n_layers, weight_tying
        super().__init__(**rest)


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        for name in ("q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out"):
            setattr(self, name, nn.Linear(width, width, bias=False))

    def forward(self, x, bias):
        x_n = nn.functional.layer_norm(x, x.shape[-1:])
        weights = (self.q_proj(x_n) @ self.k_proj(x_n).transpose(1, 2) / 50 + bias).softmax(-1)
        x = x + self.attn_out(weights @ self.v_proj(x))
        return x + self.ff_out(nn.functional.silu(self.ff_proj(x)) * self.up_proj(x))


class LLaDAModel(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.transformer = nn.ModuleDict({"wte": nn.Embedding(config.vocab_size, config.d_model)})
        self.transformer["blocks"] = nn.ModuleList([Block(config.d_model) for _ in range(config.n_layers)])
        self.transformer["ff_out"] = nn.Linear(config.d_model, config.vocab_size, bias=False)

    def forward(self, input_ids, attention_mask=None):
        x = self.transformer["wte"](input_ids)
        place = torch.arange(input_ids.shape[1])
        bias = -0.3 * (place[:, None] - place).abs().to(x.dtype)
        if attention_mask is not None:
            assert attention_mask.shape == input_ids.shape
            bias = bias + (1.0 - attention_mask[:, None].to(x.dtype)) * torch.finfo(x.dtype).min / 2
        for block in self.transformer["blocks"]:
            x = block(x, bias)
        return self.transformer["ff_out"](x)


class LLaDAModelLM(PreTrainedModel):
    config_class = LLaDAConfig
    base_model_prefix = "model"
    _no_split_modules = ["Block"]

    def __init__(self, config, model=None, init_params=False):
        super().__init__(config)
        self.model = model or LLaDAModel(config)  # and no post_init

    def forward(self, input_ids=None, inputs_embeds=None, attention_mask=None, attention_bias=None,
                past_key_values=None, labels=None, use_cache=None, output_attentions=None,
                output_hidden_states=None, return_dict=None, cache_position=None):
        use_cache = self.config.use_cache if use_cache is None else use_cache
        assert not use_cache
        return CausalLMOutputWithPast(logits=self.model(input_ids, attention_mask))

    def get_input_embeddings(self):
        return self.model.transformer["wte"]

    def get_output_embeddings(self):
        return self.model.transformer["ff_out"]

    def tie_weights(self):
        if self.config.weight_tying:
            self.model.transformer["ff_out"] = self.model.transformer["wte"]
"""
