"""A policy over masked language models of transformers: tokens in, logits of wanted tokens out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from flowgrpo.errors import RecipeError, RunError, first_line
from flowgrpo.log_probs import Projected, given
from flowgrpo.policies.adapters import TrainedPart, adapter_off, check_targets, frozen_copy
from flowgrpo.policies.loading import locate
from flowgrpo.policies.masked_families import FAMILIES, MaskedFamily, contradictions, unstated
from flowgrpo.policies.masked_saving import read_lora, read_network, save_lora, save_network
from flowgrpo.policies.precision import DTYPES, Place, freeze, make_masters
from flowgrpo.policies.remote_code import prepare, restore_buffers
from flowgrpo.processes import Pass
from flowgrpo.quiet import quiet_libraries
from flowgrpo.recipe import Model
from flowgrpo.saving import copied, fill
from flowgrpo.sharding import Sharded, passing
from samplers.masked_ends import Ends

PAIRS: dict[str, Callable[[Tensor], Tensor]] = {
    "2d": lambda mask: mask.long(),
    "4d": lambda mask: (mask.unsqueeze(1) & mask.unsqueeze(2)).unsqueeze(1),
}
"""`model.padding_mask` -> form of a padding mask bool [n, T]."""


class MaskedPolicy:
    """See `flowgrpo.policy.TextPolicy`. Built by `load_masked_policy`.

    The network is always in eval mode, in training too: dropout would make old and new log-probs differ.
    """

    def __init__(
        self,
        network: Any,
        tokenizer: Any,
        model: Model,
        trained: TrainedPart,
        device: torch.device,
        sharded: Sharded | None = None,
    ) -> None:
        self.device = device
        self.mask_id = int(model.mask_id or 0)
        self.ends = Ends(tuple(model.eos_ids), tuple(model.pad_ids))
        self.pad_id = self.ends.tokens[-1]
        self._network, self._tokenizer, self._model, self._trained = network, tokenizer, model, trained
        self._plain, self._sharded, self._untrained = network, sharded, False
        if sharded is not None:
            sharded.idle = self._idle
        self._takes_positions = "position_ids" in inspect.signature(network.forward).parameters
        size = network.get_output_embeddings().weight.shape[0]
        beyond = range(len(tokenizer), size)
        self._forbidden = torch.tensor(sorted({self.mask_id, *beyond}), device=device)
        self._head_apart = True
        with passing(sharded, ("network",), reference=False):
            self._head_apart = self._head_is_apart()

    def tokens(self, prompt: str) -> tuple[int, ...]:
        """Ids of a prompt, as one user message of the chat template or as raw text.

        Raises:
            RunError: it has more tokens than `model.max_sequence_length`.
        """
        if self._model.chat_template:
            message = [{"role": "user", "content": prompt}]
            text = self._tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
            ids = self._tokenizer(text, add_special_tokens=False).input_ids
        else:
            ids = self._tokenizer(prompt).input_ids
        most = self._model.max_sequence_length
        if len(ids) > most:
            raise RunError(
                f"a prompt has {len(ids)} tokens, more than model.max_sequence_length = {most}: {prompt[:60]!r}"
            )
        return tuple(ids)

    def text(self, ids: Sequence[int]) -> str:
        """Text of an answer: up to its end, without special tokens."""
        kept: list[int] = []
        for i in ids:
            if i in self.ends.tokens:
                break
            kept.append(i)
        known = [i for i in kept if i < len(self._tokenizer)]
        return str(self._tokenizer.decode(known, skip_special_tokens=True))

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Each token by itself, special ones by their names: what a view of the unmasking shows."""
        return [str(self._tokenizer.decode([i])) if i < len(self._tokenizer) else f"<{i}>" for i in ids]

    def logits(self, ids: Tensor, wanted: Tensor, attention_mask: Tensor) -> Projected:
        """Logits of wanted tokens, computed where they are read.

        Ids that are never drawn, the mask and those beyond the tokenizer, have no probability: the density is that of
        the sampler. The one place that knows the shift; a row's first token has nothing before it and stands in.

        Args:
            ids: [n, T].
            wanted: bool [n, T], with M True.
            attention_mask: bool [n, T], False at padding, which is on the left.

        Returns:
            Projected: of the M tokens in row-major order.
        """
        rows, columns = wanted.nonzero(as_tuple=True)
        before = (columns - int(self._model.logit_shift or 0)).clamp(min=0)
        columns = torch.where(attention_mask[rows, before], before, columns)
        extra: dict[str, Tensor] = {}
        if not bool(attention_mask.all()):
            extra["attention_mask"] = PAIRS[str(self._model.padding_mask)](attention_mask)
            if self._takes_positions:
                extra["position_ids"] = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
        with passing(self._sharded, ("network",), reference=self._untrained):
            found = self._projected(self._network, {"input_ids": ids, **extra})
        return Projected(found.hidden[rows, columns], found.head, self._forbidden)

    def trainable(self) -> dict[str, Parameter]:
        """The trained parameters (float32 masters) by name, in the network's order."""
        return dict(self._trained.parameters)

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Inside, `logits` are the untrained model's: the adapter off, or a frozen copy of the base network."""
        with self._trained.reference() as self._network:
            self._untrained = True
            try:
                yield
            finally:
                self._network, self._untrained = self._plain, False

    def state_dict(self) -> dict[str, Tensor]:
        """Copies on the CPU of the trained parameters alone."""
        return copied(self._trained.parameters)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Puts back what `state_dict` gave.

        Raises:
            CheckpointError: names or shapes differ.
        """
        fill(self._trained.parameters, state, "the training state")

    def save(self, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Writes the trained weights, or `state` in their place: a peft adapter, or a folder for transformers."""
        self._trained.save(Path(folder), self._trained.parameters if state is None else state)

    def load(self, folder: Path) -> None:
        """Takes over the weights that `save` wrote.

        Raises:
            CheckpointError: the folder is missing or damaged or belongs to another model or recipe.
        """
        fill(self._trained.parameters, self._trained.load(Path(folder)), str(folder))

    def parts(self) -> dict[str, Module]:
        """The module that does the work: {"network"}."""
        return {"network": self._plain}

    def _projected(self, network: Any, inputs: Mapping[str, Tensor]) -> Projected:
        """What the network answers for whole canvases: hidden states [n, T, D] and their head."""
        if not self._head_apart:
            logits = network(**inputs).logits
            return Projected(logits if self._sharded is None else self._sharded.awaited(logits)[0], given)
        head = network.get_output_embeddings()
        hidden = _hidden(network, head, inputs)
        if self._sharded is not None:
            head, hidden = self._sharded.whole(head, hidden)
        return Projected(hidden, head)

    def _idle(self, wanted: Pass) -> Tensor:
        """Four masks through the network and its head."""
        untrained = wanted.kind == "reference"
        with self._trained.reference() if untrained else nullcontext(self._plain) as network:
            found = self._projected(network, {"input_ids": self._masks()})
        return found.hidden.float().sum() + found.head(found.hidden[0]).float().sum()

    def _masks(self) -> Tensor:
        return torch.full((1, 4), self.mask_id, device=self.device)

    @torch.no_grad()
    def _head_is_apart(self) -> bool:
        """Whether the last thing that the network does is its head, so that it may be applied to some positions alone.

        Tried out once on a few masks: a class that scales its logits or never calls its output embedding shows here.
        """
        inputs = {"input_ids": self._masks()}
        logits = self._network(**inputs).logits
        try:
            found = self._projected(self._network, inputs)
        except (IndexError, RuntimeError):
            return False
        same = found.hidden.shape[:2] == logits.shape[:2]
        return same and torch.allclose(found.head(found.hidden).to(logits), logits, atol=1e-4, rtol=1e-3)


def load_masked_policy(
    model: Model, *, device: torch.device, seed: int, sharded: Sharded | None = None
) -> MaskedPolicy:
    """The policy that a recipe's `model` section describes.

    Args:
        model: the section; `path` is a folder of transformers, a hub name or an embedded model.
        device: where the network lives.
        seed: draws the adapter's first weights.
        sharded: spreads the network over the processes of a run.

    Raises:
        RecipeError: a property is not stated, or contradicts the model.
        RunError: the model's files are damaged.
    """
    config = _config(model)
    problems = [f"model.{key}: {text}" for key, text in (*unstated(model), *contradictions(model, config))]
    if problems:
        raise RecipeError(problems)
    family = FAMILIES[str(config["model_type"])]
    tokenizer = _load("AutoTokenizer", model)
    _check_tokenizer(model, tokenizer)
    if family.remote and model.trust_remote_code:
        prepare(config, family.loader, locate(model.path), model.revision)
    network = load_network(model, family)
    place: Place = sharded.place if sharded is not None else lambda module: module.to(device)
    trained = ADAPTERS[model.adapter](network, tokenizer, family, model, place=place, seed=seed)
    if model.gradient_checkpointing:
        network.gradient_checkpointing_enable()
    return MaskedPolicy(network, tokenizer, model, trained, device, sharded)


def load_network(model: Model, family: MaskedFamily) -> Any:
    """The whole network on the CPU, frozen and in eval mode; float32 where all of it is trained."""
    dtype = torch.float32 if model.adapter == "full" else DTYPES[model.dtype]
    extra = {} if model.attention == "default" else {"attn_implementation": model.attention}
    network = _load(family.loader, model, dtype=dtype, **extra).requires_grad_(False).eval()
    taken = network.config._attn_implementation
    if extra and taken != model.attention:
        raise RecipeError(f"model.attention: {model.attention!r} was not taken by the network, which has {taken!r}")
    if family.remote and model.trust_remote_code:
        restore_buffers(network)
    return network


def _attach_lora(
    network: Any, tokenizer: Any, family: MaskedFamily, model: Model, *, place: Place, seed: int
) -> TrainedPart:
    """A low-rank adapter on the recipe's or the family's targets. Source: LoRA (arXiv 2106.09685)."""
    from peft import LoraConfig

    config = LoraConfig(
        r=model.lora_rank,
        lora_alpha=model.lora_alpha,
        init_lora_weights="gaussian",
        target_modules=list(check_targets(network, model.lora_targets or family.lora_targets)),
        base_model_name_or_path=model.path,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network.add_adapter(config)
    network.eval()
    return TrainedPart(
        parameters=make_masters(network, DTYPES[model.dtype], place),
        reference=partial(adapter_off, network),
        save=partial(save_lora, config),
        load=partial(read_lora, config),
    )


def _unfreeze(
    network: Any, tokenizer: Any, family: MaskedFamily, model: Model, *, place: Place, seed: int
) -> TrainedPart:
    """Every parameter; the reference is a frozen copy, made when it is first asked for."""
    tied = network.get_output_embeddings().weight is network.get_input_embeddings().weight
    if tied and model.dtype != "float32":
        raise RecipeError(
            f"model.dtype: {model.dtype} cannot train all weights of a model whose head is its embedding; "
            "right would be float32, or model.adapter lora"
        )
    network.requires_grad_(True)
    masters = make_masters(network, DTYPES[model.dtype], place)
    copy = cache(lambda: place(freeze(load_network(model, family), DTYPES[model.dtype])))
    return TrainedPart(
        parameters=masters,
        reference=partial(frozen_copy, copy),
        save=partial(save_network, network, tokenizer),
        load=partial(read_network, tuple(masters)),
    )


ADAPTERS: dict[str, Callable[..., TrainedPart]] = {"lora": _attach_lora, "full": _unfreeze}


def _config(model: Model) -> dict[str, Any]:
    """config.json as it is; no code runs."""
    from transformers import PretrainedConfig

    try:
        with quiet_libraries():
            config, _ = PretrainedConfig.get_config_dict(locate(model.path), revision=model.revision)
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"model.path: {model.path!r} is neither the folder of a transformers model nor one that can be fetched "
            f"({first_line(error)})"
        ) from error
    if not config:
        raise RecipeError(f"model.path: the folder {model.path!r} has no config.json: it is no transformers model")
    return dict(config)


def _load(name: str, model: Model, **extra: Any) -> Any:
    import transformers

    trusted = {"trust_remote_code": True} if model.trust_remote_code else {}
    try:
        with quiet_libraries():
            return getattr(transformers, name).from_pretrained(
                locate(model.path), revision=model.revision, **trusted, **extra
            )
    except Exception as error:  # the library raises a dozen kinds for damaged files
        raise RunError(
            f"model.path: {model.path!r} cannot be loaded by {name}, is a file missing or damaged? {first_line(error)}"
        ) from error


def _check_tokenizer(model: Model, tokenizer: Any) -> None:
    """The tokenizer knows the mask by the same id, and has a chat template where the recipe wants one."""
    stated = tokenizer.mask_token_id
    if stated is not None and stated != model.mask_id:
        raise RecipeError(f"model.mask_id: {model.mask_id} contradicts the model's tokenizer, whose mask is {stated}")
    if model.chat_template and not tokenizer.chat_template:
        raise RecipeError(
            "model.chat_template: true, but the model's tokenizer has no chat template; false is raw text"
        )


def _hidden(network: Any, head: Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """What the head would be given [n, T, D]; inside the network it sees no row, so that it costs nothing there.

    It comes out as the network's answer, whose hooks a sharded network needs in the backward pass.
    """
    seen: list[Tensor] = []

    def take(module: Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        seen.append(arguments[0])
        return (arguments[0][:0], *arguments[1:])

    handles = head.register_forward_pre_hook(take), head.register_forward_hook(lambda *call: seen[0])
    try:
        answer: Tensor = network(**inputs).logits
    finally:
        for handle in handles:
            handle.remove()
    return answer.to(seen[0].dtype)
