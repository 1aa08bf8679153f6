"""A policy over a stock diffusers flow-matching pipeline, driven through the pipeline's own parts."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from flowgrpo.attention import set_attention
from flowgrpo.policies.adapters import Trained, attach
from flowgrpo.policies.compiling import compile_blocks
from flowgrpo.policies.conditionings import Packed, pack, unpack
from flowgrpo.policies.decoder import decoder_on, prepare_decoder
from flowgrpo.policies.experts import Share, boundary_of, networks_of, shares, with_idle
from flowgrpo.policies.family import Family, Text
from flowgrpo.policies.grids import grid_sigmas
from flowgrpo.policies.loading import load_pipeline, plan_latents, reload_text_parts
from flowgrpo.policies.precision import DTYPES, Place
from flowgrpo.policy import Conditioning
from flowgrpo.processes import Pass
from flowgrpo.quiet import quiet_libraries
from flowgrpo.recipe import Model
from flowgrpo.saving import copied, fill
from flowgrpo.sharding import Sharded, passing
from samplers.noise import keyed_noise


class PipelinePolicy:
    """See `flowgrpo.policy.Policy`. Built by `load_pipeline_policy`.

    The network is always in eval mode, in training too: dropout would make old and new log-probs differ.
    """

    def __init__(
        self,
        pipe: Any,
        family: Family,
        model: Model,
        trained: Trained,
        device: torch.device,
        sharded: Sharded | None = None,
    ) -> None:
        self.device = device
        self._sharded, self._untrained = sharded, False
        if sharded is not None:
            sharded.idle = self._idle
        self.dtype = DTYPES[model.dtype]
        self._latents = plan_latents(pipe, model)
        self.latent_shape = self._latents.shape
        self._pipe, self._family, self._model, self._trained = pipe, family, model, trained
        self._networks: Mapping[str, Module] = networks_of(pipe)
        self._boundary = boundary_of(pipe)
        self._encoded: dict[tuple[str, bool], dict[str, Packed]] = {}
        self._encoders_dropped = False

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """One row per prompt, on the CPU in the model's dtype, with the recipe's negative prompt.

        Prompts are encoded one by one, so that a row is the same to the bit whatever it is encoded with (a resumed
        run meets prompts in other company). Each distinct prompt is encoded once.

        Raises:
            ValueError: there is no prompt.

        Warns:
            UserWarning: a prompt is longer than a tokenizer reads; once per prompt.
        """
        if not prompts:
            raise ValueError("encode needs at least one prompt")
        negatives = [(self._model.negative_prompt, True)] if self._latents.negative_branch else []
        for text in dict.fromkeys([*((prompt, False) for prompt in prompts), *negatives]):
            if text not in self._encoded:
                self._encoded[text] = self._encode_one(*text)
        rows = [unpack(self._encoded[prompt, False]) for prompt in prompts]
        stacked = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
        return Conditioning(stacked, unpack(self._encoded[negatives[0]]) if negatives else {})

    def drop_encoders(self) -> None:
        """Frees the text encoders; `encode` loads them again from `model.path` when a prompt is new.

        They then stay until the next call of this method.
        """
        for part in self._family.text_parts:
            setattr(self._pipe, part, None)
        self._encoders_dropped = True
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def initial_noise(self, keys: Sequence[tuple[int, ...]]) -> Tensor:
        """Starting latents [n, *latent_shape], float32, drawn on the CPU: each row depends on its key alone."""
        return torch.stack([keyed_noise(key, self.latent_shape) for key in keys]).to(self.device)

    def sigmas(self, steps: int, *, grid: str = "diffusers", shift: float | None = None) -> tuple[float, ...]:
        """Noise levels [steps + 1] on a grid of `flowgrpo.policies.grids`; `shift` replaces the model's own."""
        config, tokens = self._pipe.scheduler.config, self._latents.tokens
        return grid_sigmas(steps, grid, shift, config=config, family=self._family, tokens=tokens)

    def velocity(self, x: Tensor, sigma: float | Tensor, cond: Conditioning, *, guidance_scale: float) -> Tensor:
        """Predicted eps - x0, with classifier-free guidance where the family has it and the scale is above 1.

        Args:
            x: latents [n, C, h, w], of videos [n, C, f, h, w], any float dtype, on any device.
            sigma: noise level in (0, 1], one for all rows or [n] (rows at different steps).
            cond: n rows.
            guidance_scale: w in negative + w (positive - negative), from one batch of 2 n or, by the recipe's
                `model.guidance_passes`, from two of n; a family may rescale the sum (`Family.combine`).

        Returns:
            Tensor: the shape of x, float32. The gradient flows through both branches.
        """
        cond = cond.to(self.device)
        timestep = torch.as_tensor(sigma, dtype=torch.float32, device=self.device).expand(len(x)) * 1000
        x, text = x.to(self.device, self.dtype), cond.prompt
        if not (self._latents.negative_branch and guidance_scale > 1):
            return self._denoise(x, timestep, text, guidance_scale)
        other = {name: cond.negative[name].expand_as(rows) for name, rows in text.items()}
        branches = _in_two_passes if self._model.guidance_passes == 2 else _in_one_pass
        denoise = partial(self._denoise, guidance_scale=guidance_scale)
        negative, positive = branches(denoise, x, timestep, other, text)
        return self._family.combine(negative, positive, guidance_scale)

    @torch.no_grad()
    def decode(self, latents: Tensor, *, batch_size: int | None = None) -> Tensor:
        """Pictures [n, 3, H, W] or videos [n, F, 3, H, W] in [0, 1], float32, on the policy's device.

        Args:
            latents: [n, C, h, w] or [n, C, f, h, w] at sigma 0, on any device.
            batch_size: latents per decoder pass; None takes the recipe's.
        """
        vae = self._pipe.vae
        chunks = latents.split(batch_size or self._model.decode_batch_size)
        with decoder_on(vae, self.device, rests=self._model.offload_decoder):
            media = [self._family.decode(vae, chunk.to(self.device, vae.dtype)).float() for chunk in chunks]
        return torch.cat(media).div_(2).add_(0.5).clamp_(0, 1)

    def trainable(self) -> dict[str, Parameter]:
        """The trained parameters (float32 masters) by name, in the network's order."""
        return dict(self._trained.parameters)

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Inside, `velocity` is the untrained model's: the adapter off, or a frozen copy of the base network."""
        networks = self._networks
        with self._trained.reference() as self._networks:
            self._untrained = True
            try:
                yield
            finally:
                self._networks, self._untrained = networks, False

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
        """Writes the trained weights, or `state` (an average, say) in their place, for plain diffusers.

        See `flowgrpo.saving` for the files.
        """
        self._trained.save(Path(folder), self._trained.parameters if state is None else state)

    def load(self, folder: Path) -> None:
        """Takes over the weights that `save` wrote.

        Raises:
            CheckpointError: the folder is missing or damaged or belongs to another model or recipe.
        """
        fill(self._trained.parameters, self._trained.load(Path(folder)), str(folder))

    def parts(self) -> dict[str, Module]:
        """The modules that do the work: {"network", "decoder"}, and "network_2" of a model of two."""
        high, *low = networks_of(self._pipe).values()
        return {"network": high, **({"network_2": low[0]} if low else {}), "decoder": self._pipe.vae}

    def _denoise(self, x: Tensor, timestep: Tensor, text: Text, guidance_scale: float) -> Tensor:
        """Velocity of every row, float32, each from the network that its noise level names."""
        own = shares(timestep, self._boundary)
        with passing(self._sharded, [share.network for share in own], reference=self._untrained) as called:
            v = self._answers(with_idle(own, called, len(x)), x, timestep, text, guidance_scale)
        return v if self._sharded is None else self._sharded.awaited(v)[0]

    def _answers(
        self, all_shares: Sequence[Share], x: Tensor, timestep: Tensor, text: Text, guidance_scale: float
    ) -> Tensor:
        v = torch.zeros_like(x, dtype=torch.float32)
        for share in all_shares:
            network, rows = self._networks[share.network], share.rows
            if rows is None:
                return self._family.denoise(network, x, timestep, text, guidance_scale).float()
            rows = rows.to(x.device)
            part = {name: tensor[rows] for name, tensor in text.items()}
            answer = self._family.denoise(network, x[rows], timestep[rows], part, guidance_scale).float()
            v = v + 0 * answer.sum() if share.idle else v.index_copy(0, rows, answer)
        return v

    def _idle(self, wanted: Pass) -> Tensor:
        """One empty latent with some prompt's text through each of the networks."""
        text = {name: tensor.to(self.device) for name, tensor in next(iter(self._encoded.values())).items()}
        x = torch.zeros((1, *self.latent_shape), dtype=self.dtype, device=self.device)
        timestep = torch.full((1,), 500.0, device=self.device)
        untrained = wanted.kind == "reference"
        with self._trained.reference() if untrained else nullcontext(networks_of(self._pipe)) as networks:
            answers = [self._family.denoise(networks[name], x, timestep, text, 1.0) for name in wanted.networks]
        return torch.stack([answer.float().sum() for answer in answers]).sum()

    def _encode_one(self, prompt: str, negative: bool) -> dict[str, Packed]:
        if self._encoders_dropped:
            reload_text_parts(self._pipe, self._family, self._model)
            self._encoders_dropped = False
        for part in self._family.text_parts:
            if getattr(self._pipe, part) is not None:
                getattr(self._pipe, part).to(self.device)
        self._warn_if_cut(prompt)
        with quiet_libraries():
            row = self._family.encode(self._pipe, prompt, self._model.max_sequence_length, self.device, negative)
        return pack(row, self.dtype)

    def _warn_if_cut(self, prompt: str) -> None:
        cuts = []
        for name, by_recipe in self._family.token_limits:
            tokenizer = getattr(self._pipe, name)
            if tokenizer is None:
                continue
            limit = self._model.max_sequence_length if by_recipe else tokenizer.model_max_length
            length = len(tokenizer(prompt, verbose=False).input_ids)
            if length > limit:
                cuts.append(f"{name} reads {limit} of its {length} tokens")
        if cuts:
            warnings.warn(f"a prompt is too long and is cut ({', '.join(cuts)}): {prompt!r}", stacklevel=4)


def load_pipeline_policy(
    model: Model, *, device: torch.device, seed: int, sharded: Sharded | None = None
) -> PipelinePolicy:
    """Loads the pipeline, prepares its network as the recipe says and moves what stays to the device.

    Raises:
        RecipeError: see `flowgrpo.policy.load_policy`.
        RunError: see there.
    """
    pipe, family = load_pipeline(model)
    plan_latents(pipe, model)
    networks = networks_of(pipe)
    for network in networks.values():
        set_attention(network, model.attention)
    # Adapter weights are drawn before the move: the same on every device.
    place: Place = sharded.place if sharded is not None else lambda network: network.to(device)
    trained = attach(pipe, model, place=place, seed=seed)
    for network in networks.values():
        if model.gradient_checkpointing:
            network.enable_gradient_checkpointing()
        if model.compile == "blocks":
            compile_blocks(network)
    prepare_decoder(pipe.vae, model, device)
    return PipelinePolicy(pipe, family, model, trained, device, sharded)


def _in_one_pass(
    denoise: Callable[[Tensor, Tensor, Text], Tensor], x: Tensor, timestep: Tensor, *branches: Text
) -> Sequence[Tensor]:
    """Velocities of both branches from one batch."""
    count = len(branches)
    text = {name: torch.cat([branch[name] for branch in branches]) for name in branches[0]}
    return denoise(torch.cat([x] * count), torch.cat([timestep] * count), text).chunk(count)


def _in_two_passes(
    denoise: Callable[[Tensor, Tensor, Text], Tensor], x: Tensor, timestep: Tensor, *branches: Text
) -> Sequence[Tensor]:
    """The same from a batch each."""
    return [denoise(x, timestep, branch) for branch in branches]
