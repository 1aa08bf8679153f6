"""A drop-in stochastic scheduler for any diffusers flow-matching pipeline::

    from samplers.diffusers_schedulers import FlowSDEScheduler

    pipe.scheduler = FlowSDEScheduler.from_config(pipe.scheduler.config, kernel="cps", eta=0.8)
    image = pipe("a red circle").images[0]

The grid is the stock scheduler's in every respect; only the step differs, and at eta 0 not even that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
    FlowMatchEulerDiscreteSchedulerOutput,
)

# A pipeline reloads a scheduler from another package only if that module's namespace holds SchedulerMixin.
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401
from torch import Tensor

from samplers.kernels import resolve_kernel, working_dtype
from samplers.noise import keyed_noise
from samplers.plans import unknown_name

RECORDS = ("off", "log_prob", "latents")


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One stochastic step of a pipeline call.

    Attributes:
        step: index of the step in ``scheduler.sigmas``.
        log_prob: log density of what was drawn [B], mean over latent elements, of the tensor that the pipeline got
            (after the cast to the model's dtype).
        x: latent before the step [B, ...]; None unless latents are recorded.
        v: velocity [B, ...], after guidance; None unless latents are recorded.
        x_next: latent after the step [B, ...]; None unless latents are recorded.
    """

    step: int
    log_prob: Tensor
    x: Tensor | None = None
    v: Tensor | None = None
    x_next: Tensor | None = None


class FlowSDEScheduler(FlowMatchEulerDiscreteScheduler):
    """The stock flow-matching Euler scheduler with a stochastic step.

    Where a step is stochastic it draws from ``KERNELS[kernel]``; every other step, and every step at eta 0 or with
    the kernel ``"euler"``, is the stock step itself. The last step is never stochastic. Most pipelines pass no
    generator to ``step``, so the noise is the scheduler's own: row r of step i always gets the noise of
    (seed, r, i), whatever the batch size, and every call of the pipeline repeats it. ``reseed`` changes it.

    Args:
        num_train_timesteps: as in the stock scheduler, like all arguments up to ``stochastic_sampling``.
        shift: static shift of the sigma grid.
        use_dynamic_shifting: shift by a ``mu`` that the pipeline computes.
        base_shift: parameter of ``mu``, read by pipelines.
        max_shift: parameter of ``mu``, read by pipelines.
        base_image_seq_len: parameter of ``mu``, read by pipelines.
        max_image_seq_len: parameter of ``mu``, read by pipelines.
        invert_sigmas: increasing grid; only without noise.
        shift_terminal: last level before 0 to which the grid is stretched.
        use_karras_sigmas: Karras spacing.
        use_exponential_sigmas: exponential spacing.
        use_beta_sigmas: beta spacing.
        time_shift_type: ``"exponential"`` or ``"linear"``.
        stochastic_sampling: the stock scheduler's own re-noising, on the steps that are not ours.
        kernel: name in ``samplers.KERNELS``, or your own as ``"package.module:function"``.
        eta: noise strength of the kernel, >= 0; 0 is the stock scheduler.
        seed: seed of the noise.
        sde_steps: indices of the stochastic steps; None means every step but the last.
        record: what ``records`` holds after a call: ``"off"`` nothing, ``"log_prob"`` log-probabilities,
            ``"latents"`` also inputs, velocities and draws.

    Raises:
        ValueError: unknown kernel or record, eta below 0, or noise on an inverted grid.
    """

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        shift: float = 1.0,
        use_dynamic_shifting: bool = False,
        base_shift: float | None = 0.5,
        max_shift: float | None = 1.15,
        base_image_seq_len: int = 256,
        max_image_seq_len: int = 4096,
        invert_sigmas: bool = False,
        shift_terminal: float | None = None,
        use_karras_sigmas: bool = False,
        use_exponential_sigmas: bool = False,
        use_beta_sigmas: bool = False,
        time_shift_type: Literal["exponential", "linear"] = "exponential",
        stochastic_sampling: bool = False,
        kernel: str = "flow_sde",
        eta: float = 0.7,
        seed: int = 0,
        sde_steps: Sequence[int] | None = None,
        record: Literal["off", "log_prob", "latents"] = "off",
    ) -> None:
        super().__init__(
            num_train_timesteps=num_train_timesteps,
            shift=shift,
            use_dynamic_shifting=use_dynamic_shifting,
            base_shift=base_shift,
            max_shift=max_shift,
            base_image_seq_len=base_image_seq_len,
            max_image_seq_len=max_image_seq_len,
            invert_sigmas=invert_sigmas,
            shift_terminal=shift_terminal,
            use_karras_sigmas=use_karras_sigmas,
            use_exponential_sigmas=use_exponential_sigmas,
            use_beta_sigmas=use_beta_sigmas,
            time_shift_type=time_shift_type,
            stochastic_sampling=stochastic_sampling,
        )
        _check_options(kernel, eta, record, invert_sigmas, sde_steps)
        self.records: list[StepRecord] = []
        self.reseed(seed)

    _step_index: Any

    @property
    def _options(self) -> Any:
        return self.config  # diffusers types it as a plain dict

    def reseed(self, seed: int, first_row: int = 0) -> None:
        """Choose the noise of the next pipeline calls.

        Args:
            seed: seed of the noise, from now on in place of the config's.
            first_row: row number of the first row of the batch. A set of prompts that is split into batches gets
                the noise of one large batch if each batch states where it starts.
        """
        self._noise_key = (seed, first_row)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: list[float] | None = None,
        mu: float | None = None,
        timesteps: list[float] | None = None,
    ) -> None:
        """Make the grid exactly as the stock scheduler does, and forget the records of the previous call.

        Args:
            num_inference_steps: number T of steps.
            device: device of the grid.
            sigmas: explicit levels [T] before the shift; pipelines such as FLUX pass them.
            mu: dynamic shift.
            timesteps: explicit timesteps [T].

        Raises:
            ValueError: ``sde_steps`` names a step that this grid does not have or that is its last.
        """
        super().set_timesteps(num_inference_steps, device, sigmas, mu, timesteps)
        self.records = []
        stochastic = len(self.sigmas) - 2
        outside = [step for step in self._options.sde_steps or () if step >= stochastic]
        if outside:
            raise ValueError(
                f"sde_steps {outside} are not stochastic steps of this grid: of its {stochastic + 1} steps, "
                f"0 ... {stochastic - 1} can be (the last never)"
            )

    def step(
        self,
        model_output: torch.FloatTensor,
        timestep: float | torch.FloatTensor,
        sample: torch.FloatTensor,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = float("inf"),
        s_noise: float = 1.0,
        generator: torch.Generator | None = None,
        per_token_timesteps: Tensor | None = None,
        return_dict: bool = True,
    ) -> Any:
        """One step: the stock step, or a draw from the kernel where the step is stochastic.

        Args:
            model_output: velocity [B, ...], after guidance.
            timestep: one of ``timesteps``.
            sample: latent [B, ...].
            s_churn: passed to the stock step, unused there.
            s_tmin: likewise.
            s_tmax: likewise.
            s_noise: likewise.
            generator: passed to the stock step; the noise of stochastic steps is the scheduler's own.
            per_token_timesteps: a noise level per token; only for deterministic steps.
            return_dict: return the stock output class rather than a tuple.

        Returns:
            FlowMatchEulerDiscreteSchedulerOutput or tuple: the next latent, in the model's dtype.

        Raises:
            ValueError: an integer timestep, or per-token timesteps on a stochastic step.
        """
        index = self._stochastic_index(timestep)
        if index is None:
            stock = (s_churn, s_tmin, s_tmax, s_noise, generator, per_token_timesteps, return_dict)
            return super().step(model_output, timestep, sample, *stock)
        if per_token_timesteps is not None:
            raise ValueError("per-token timesteps need a deterministic step: set eta=0 or leave it out of sde_steps")
        x_next = self._draw(model_output, sample, index)
        self._step_index = index + 1
        return FlowMatchEulerDiscreteSchedulerOutput(prev_sample=x_next) if return_dict else (x_next,)

    def _stochastic_index(self, timestep: Any) -> int | None:
        """Index of the current step, None where the stock step takes over (it also rejects integer timesteps)."""
        integer = isinstance(timestep, int) or (isinstance(timestep, Tensor) and not timestep.is_floating_point())
        if integer or self._options.eta == 0 or self._options.kernel == "euler":
            return None
        if self.step_index is None:
            self._init_step_index(timestep)
        chosen, last = self._options.sde_steps, len(self.sigmas) - 2
        stochastic = self.step_index < last and (chosen is None or self.step_index in chosen)
        return self.step_index if stochastic else None

    def _draw(self, v: Tensor, x: Tensor, index: int) -> Any:
        """Next latent in the model's dtype, which is also the tensor whose log-probability is recorded."""
        dtype = working_dtype(x.dtype, v.dtype)
        kernel = resolve_kernel(self._options.kernel)
        sigma, sigma_next, second = self.sigmas[index], self.sigmas[index + 1], self.sigmas[1]
        gaussian = kernel(x.to(dtype), v.to(dtype), sigma, sigma_next, eta=self._options.eta, sigma_max=second)
        seed, first_row = self._noise_key
        noise = torch.stack([keyed_noise((seed, first_row + row, index), x.shape[1:]) for row in range(len(x))])
        x_next = gaussian.sample(noise.to(x.device)).to(v.dtype)
        if self._options.record != "off":
            latents = (x, v, x_next) if self._options.record == "latents" else ()
            self.records.append(StepRecord(index, gaussian.log_prob(x_next), *latents))
        return x_next


def _check_options(kernel: str, eta: float, record: str, invert_sigmas: bool, sde_steps: Sequence[int] | None) -> None:
    resolve_kernel(kernel)
    if record not in RECORDS:
        raise ValueError(unknown_name("record", record, RECORDS))
    if eta < 0:
        raise ValueError(f"eta is a noise strength >= 0, got {eta}")
    if invert_sigmas and eta > 0:
        raise ValueError("a stochastic step needs a decreasing grid: with invert_sigmas use eta=0")
    if sde_steps is not None and any(step < 0 for step in sde_steps):
        raise ValueError(f"sde_steps are indices from 0, got {list(sde_steps)}")
