"""What the training loop may ask of a generative model, whatever library runs it.

Everything that leaves a policy is float32: latents, velocities, images. The dtype of the forward pass, the 0 ... 1000
timestep and the layout that a transformer wants stay inside (`flowgrpo.policies`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torch.nn import Module, Parameter

if TYPE_CHECKING:
    from flowgrpo import recipe
    from flowgrpo.log_probs import Projected
    from flowgrpo.sharding import Sharded
    from samplers.masked_ends import Ends


@dataclass(frozen=True, slots=True)
class Conditioning:
    """Encoded prompts, one row each, with the one negative prompt of the run."""

    prompt: Mapping[str, Tensor]
    """Name -> tensor [n, ...]; the names are the model family's own."""
    negative: Mapping[str, Tensor]
    """Name -> tensor [1, ...]; empty where the family has no negative branch."""

    def __len__(self) -> int:
        return next(iter(self.prompt.values())).shape[0]

    def rows(self, index: Tensor) -> Conditioning:
        """The rows named by `index` (int64 [m], each in [0, n)), in that order; the same row may come twice."""
        picked = {name: tensor[index.to(tensor.device)] for name, tensor in self.prompt.items()}
        return Conditioning(picked, self.negative)

    def to(self, device: torch.device | str) -> Conditioning:
        """The same rows on another device; free where they are there already."""
        return Conditioning(_moved(self.prompt, device), _moved(self.negative, device))


class Trainable(Protocol):
    """What every model has whose weights are trained, whatever it makes."""

    device: torch.device

    def trainable(self) -> dict[str, Parameter]:
        """The trained parameters, float32, by name, in a fixed order."""
        ...

    def reference(self) -> AbstractContextManager[None]:
        """Inside, the model answers with its untrained weights."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Copies on the CPU of the trained parameters alone."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Puts back what `state_dict` gave."""
        ...

    def save(self, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Writes the trained weights (or `state` in their place) so that the model's own library loads them."""
        ...

    def load(self, folder: Path) -> None:
        """Takes over the weights that `save` wrote."""
        ...

    def parts(self) -> dict[str, Module]:
        """The modules that do the work, by name, for timing and counting hooks."""
        ...


class Policy(Trainable, Protocol):
    """A flow model: it turns noise and text into samples."""

    latent_shape: tuple[int, ...]

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """One row per prompt, on the CPU; every distinct prompt is encoded once in the life of the policy."""
        ...

    def drop_encoders(self) -> None:
        """Frees the text encoders; `encode` loads them again when a prompt is new."""
        ...

    def initial_noise(self, keys: Sequence[tuple[int, ...]]) -> Tensor:
        """Starting latents [n, *latent_shape], float32: each row is a function of its key alone."""
        ...

    def sigmas(self, steps: int, *, grid: str = "diffusers", shift: float | None = None) -> tuple[float, ...]:
        """Noise levels, `steps` + 1 of them, decreasing, the last one 0."""
        ...

    def velocity(self, x: Tensor, sigma: float | Tensor, cond: Conditioning, *, guidance_scale: float) -> Tensor:
        """Predicted eps - x0 at x [n, ...], float32; `sigma` is one level or [n], `cond` has n rows."""
        ...

    def decode(self, latents: Tensor, *, batch_size: int | None = None) -> Tensor:
        """Images [n, 3, H, W] in [0, 1], float32, of latents [n, ...] at sigma 0; so many at a time, or the recipe's
        number of them."""
        ...


class TextPolicy(Trainable, Protocol):
    """A masked language model: it says what stands at masked positions.

    Attributes:
        mask_id: id of the mask token.
        pad_id: what fills the left of short prompts; the model never looks at it.
        ends: ids that end an answer.
    """

    mask_id: int
    pad_id: int
    ends: Ends

    def tokens(self, prompt: str) -> tuple[int, ...]:
        """Ids of a prompt as the model wants it."""
        ...

    def text(self, ids: Sequence[int]) -> str:
        """Text of an answer, up to its end."""
        ...

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Text of each token by itself."""
        ...

    def logits(self, ids: Tensor, wanted: Tensor, attention_mask: Tensor) -> Projected:
        """Logits of the wanted tokens (bool [n, T]) of canvases [n, T], in row-major order."""
        ...


def encode_once(policy: Policy, prompts: Sequence[str]) -> tuple[Conditioning, Tensor]:
    """One row per distinct prompt, and the row of each prompt [n]."""
    names = list(dict.fromkeys(prompts))
    number = {name: row for row, name in enumerate(names)}
    return policy.encode(names), torch.tensor([number[prompt] for prompt in prompts])


def load_policy(
    model: recipe.Model, *, device: str | torch.device = "cpu", seed: int = 0, sharded: Sharded | None = None
) -> Policy:
    """The policy that a recipe's `model` section describes.

    Args:
        model: The section; `path` is a diffusers pipeline folder, a hub name or an embedded model.
        device: Where the network, the decoder and, while they are needed, the text encoders live.
        seed: Draws the adapter's first weights.
        sharded: Spreads the network over the processes of a run.

    Raises:
        RecipeError: a value of the section does not fit the model, or there is no such model.
        RunError: the model's files are damaged.
    """
    from flowgrpo.policies.pipeline import load_pipeline_policy

    return load_pipeline_policy(model, device=torch.device(device), seed=seed, sharded=sharded)


def _moved(tensors: Mapping[str, Tensor], device: torch.device | str) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in tensors.items()}
