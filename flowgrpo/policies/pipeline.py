"""A policy over a stock diffusers flow-matching pipeline, driven through the pipeline's own parts."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from flowgrpo.attention import set_attention
from flowgrpo.policies.adapters import ADAPTERS, Trained
from flowgrpo.policies.families import Family
from flowgrpo.policies.grids import grid_sigmas
from flowgrpo.policies.loading import check_geometry, load_pipeline, reload_text_parts
from flowgrpo.policies.precision import DTYPES
from flowgrpo.policy import Conditioning
from flowgrpo.quiet import quiet_libraries
from flowgrpo.recipe import Model
from flowgrpo.saving import copied, fill
from samplers.noise import keyed_noise


class PipelinePolicy:
    """See `flowgrpo.policy.Policy`. Built by `load_pipeline_policy`.

    The network is always in eval mode, in training too: dropout would make old and new log-probs differ.
    """

    def __init__(self, pipe: Any, family: Family, model: Model, trained: Trained, device: torch.device) -> None:
        self.device = device
        self.dtype = DTYPES[model.dtype]
        self.latent_shape: tuple[int, ...] = check_geometry(pipe, family, model)
        self._pipe, self._family, self._model, self._trained = pipe, family, model, trained
        self._network: Module = pipe.transformer
        self._encoded: dict[str, dict[str, Tensor]] = {}
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
        negatives = [self._model.negative_prompt] if self._family.negative_branch else []
        for prompt in dict.fromkeys([*prompts, *negatives]):
            if prompt not in self._encoded:
                self._encoded[prompt] = self._encode_one(prompt)
        rows = [self._encoded[prompt] for prompt in prompts]
        stacked = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
        return Conditioning(stacked, self._encoded[negatives[0]] if negatives else {})

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
        side = self._family.patch(self._pipe.transformer.config)
        tokens = self.latent_shape[1] * self.latent_shape[2] // side**2
        return grid_sigmas(steps, grid, shift, config=self._pipe.scheduler.config, family=self._family, tokens=tokens)

    def velocity(self, x: Tensor, sigma: float | Tensor, cond: Conditioning, *, guidance_scale: float) -> Tensor:
        """Predicted eps - x0, with classifier-free guidance where the family has it and the scale is above 1.

        Args:
            x: latents [n, C, h, w], any float dtype.
            sigma: noise level in (0, 1], one for all rows or [n] (rows at different steps).
            cond: n rows.
            guidance_scale: w in negative + w (positive - negative), both from one batch of 2 n.

        Returns:
            Tensor: [n, C, h, w] float32. The gradient flows through both branches.
        """
        cond = cond.to(self.device)
        guided = self._family.negative_branch and guidance_scale > 1
        timestep = torch.as_tensor(sigma, dtype=torch.float32, device=self.device).expand(len(x)) * 1000
        text = cond.prompt
        if guided:
            x, timestep = torch.cat([x, x]), torch.cat([timestep, timestep])
            text = {name: torch.cat([cond.negative[name].expand_as(rows), rows]) for name, rows in text.items()}
        v = self._family.denoise(self._network, x.to(self.dtype), timestep, text, guidance_scale).float()
        if not guided:
            return v
        negative, positive = v.chunk(2)
        return negative + guidance_scale * (positive - negative)

    @torch.no_grad()
    def decode(self, latents: Tensor, *, batch_size: int = 8) -> Tensor:
        """Images [n, 3, H, W] in [0, 1], float32, on the policy's device.

        Args:
            latents: [n, C, h, w] at sigma 0.
            batch_size: latents per decoder pass.
        """
        vae = self._pipe.vae
        scaled = latents.to(self.device, vae.dtype) / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
        images = [vae.decode(chunk, return_dict=False)[0].float() for chunk in scaled.split(batch_size)]
        return (torch.cat(images) / 2 + 0.5).clamp(0, 1)

    def trainable(self) -> dict[str, Parameter]:
        """The trained parameters (float32 masters) by name, in the network's order."""
        return dict(self._trained.parameters)

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Inside, `velocity` is the untrained model's: the adapter off, or a frozen copy of the base network."""
        network = self._network
        with self._trained.reference() as self._network:
            try:
                yield
            finally:
                self._network = network

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
        """The modules that do the work: {"network", "decoder"}."""
        return {"network": self._pipe.transformer, "decoder": self._pipe.vae}

    def _encode_one(self, prompt: str) -> dict[str, Tensor]:
        if self._encoders_dropped:
            reload_text_parts(self._pipe, self._family, self._model)
            self._encoders_dropped = False
        for part in self._family.text_parts:
            if getattr(self._pipe, part) is not None:
                getattr(self._pipe, part).to(self.device)
        self._warn_if_cut(prompt)
        with quiet_libraries():
            row = self._family.encode(self._pipe, prompt, self._model.max_sequence_length, self.device)
        return {name: tensor.to("cpu", self.dtype) for name, tensor in row.items()}

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


def load_pipeline_policy(model: Model, *, device: torch.device, seed: int) -> PipelinePolicy:
    """Loads the pipeline, prepares its network as the recipe says and moves what stays to the device.

    Raises:
        RecipeError: see `flowgrpo.policy.load_policy`.
        RunError: see there.
    """
    pipe, family = load_pipeline(model)
    check_geometry(pipe, family, model)
    set_attention(pipe.transformer, model.attention)
    # Adapter weights are drawn before the move: the same on every device.
    trained = ADAPTERS[model.adapter](pipe, family, model, device=device, seed=seed)
    if model.gradient_checkpointing:
        pipe.transformer.enable_gradient_checkpointing()
    pipe.transformer.to(device)
    pipe.vae.to(device)
    return PipelinePolicy(pipe, family, model, trained, device)
