"""Our orders and our noise in diffusers' pipelines of block-wise text models (LLaDA2)::

    from samplers.diffusers_blocks import UnmaskingBlockScheduler

    pipe.scheduler = UnmaskingBlockScheduler.from_config(pipe.scheduler.config, order="entropy", entropy_bound=0.1)
    output = pipe("What is 6 times 7?", generator=[torch.Generator().manual_seed(seed)])

With the default order and without drawing it reveals what the stock scheduler reveals. It needs a diffusers that has
``BlockRefinementScheduler`` (0.38 or newer).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_block_refinement import BlockRefinementScheduler, BlockRefinementSchedulerOutput

# A pipeline reloads a scheduler from another package only if that module's namespace holds SchedulerMixin.
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401
from torch import Tensor

from samplers.masked_remasking import descending_rank, reveal_count
from samplers.masked_tokens import DRAWS, Guesses, Reader, Reading, keyed_uniform, maskgit_plus, read, resolve_order
from samplers.plans import unknown_name


class UnmaskingBlockScheduler(BlockRefinementScheduler):
    """The stock block scheduler with a choice of orders, an entropy bound, and noise that belongs to a row.

    Args:
        block_length: columns per block.
        num_inference_steps: steps per block.
        threshold: every mask of at least this confidence is revealed; above 1 none is for that reason.
        editing_threshold: as in the stock scheduler: decided tokens change where another is this probable.
        minimal_topk: as in the stock scheduler.
        order: name in ``samplers.ORDERS``; ``"maskgit_plus"`` is the stock scheduler's.
        draw: ``"gumbel"``, or ``"inverse"`` with one random number per position.
        entropy_bound: also reveal what an entropy bound in nats allows.
        seed: noise of row r is a function of (seed, r, step of the call) where no generator is given.

    Raises:
        ValueError: unknown order or draw.
    """

    @register_to_config
    def __init__(
        self,
        block_length: int = 32,
        num_inference_steps: int = 32,
        threshold: float = 0.95,
        editing_threshold: float | None = None,
        minimal_topk: int = 1,
        order: str = "maskgit_plus",
        draw: str = "inverse",
        entropy_bound: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(block_length, num_inference_steps, threshold, editing_threshold, minimal_topk)
        resolve_order(order)
        if draw not in DRAWS:
            raise ValueError(unknown_name("draw", draw, DRAWS))
        self._calls = 0

    def set_timesteps(self, num_inference_steps: int, device: Any = None, block_length: int | None = None) -> None:
        """As in the stock scheduler; a pipeline's call begins here."""
        super().set_timesteps(num_inference_steps, device=device, block_length=block_length)
        self._calls = 0

    @torch.no_grad()
    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        *,
        mask_token_id: int | None = None,
        temperature: float = 0.0,
        top_p: float | None = None,
        top_k: int | None = None,
        sampling_method: str = "auto",
        threshold: float | None = None,
        editing_threshold: float | None = None,
        minimal_topk: int | None = None,
        prompt_mask: Tensor | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> BlockRefinementSchedulerOutput | tuple[Tensor, ...]:
        """Reveal some masks of a block.

        Args:
            model_output: logits [B, m, V].
            timestep: step within the block.
            sample: tokens of the block [B, m].
            mask_token_id: id of the mask.
            temperature: 0 takes the most probable token.
            top_p: as in `samplers.Decoding`; None keeps all.
            top_k: likewise; None or 0 keeps all.
            sampling_method: ``"greedy"`` takes the most probable token whatever the temperature.
            threshold: None is the scheduler's own.
            editing_threshold: likewise; None or at most 0 edits nothing.
            minimal_topk: not used, as in the stock scheduler.
            prompt_mask: columns of the prompt, bool [m].
            generator: one of each row, or one for all; None is keyed noise.
            return_dict: an output with names, or a tuple.

        Returns:
            BlockRefinementSchedulerOutput: the stock scheduler's; ``sampled_probs`` are those of the distribution that
            was drawn from.

        Raises:
            ValueError: no mask id, or set_timesteps was not called.
        """
        if mask_token_id is None or self._transfer_schedule is None:
            raise ValueError("give mask_token_id and call set_timesteps first: blocks without masks are not supported")
        greedy = 0.0 if sampling_method == "greedy" else temperature
        guesses, p = self._read(
            model_output, mask_token_id, greedy, top_k or None, 1.0 if top_p is None else top_p, generator
        )
        masks = sample == mask_token_id
        quota = self._transfer_schedule[min(int(timestep), len(self._transfer_schedule) - 1)].to(sample.device)
        bound = self.config.threshold if threshold is None else threshold
        count = reveal_count(
            guesses.confidence, guesses.entropy, masks, quota.expand(len(sample)), bound, self.config.entropy_bound
        )
        transfer = masks & (descending_rank(guesses.confidence, masks) < count.unsqueeze(1))
        edit = self._edited(guesses.tokens, p, sample, masks, editing_threshold, prompt_mask)
        written = torch.where(transfer | edit, guesses.tokens, sample)
        self._calls += 1
        output = BlockRefinementSchedulerOutput(
            prev_sample=written,
            transfer_index=transfer,
            editing_transfer_index=edit,
            sampled_tokens=guesses.tokens,
            sampled_probs=p,
            pred_logits=model_output,
        )
        return output if return_dict else output.to_tuple()

    def _read(
        self, logits: Tensor, mask: int, temperature: float, top_k: int | None, top_p: float, generator: Any
    ) -> tuple[Guesses, Tensor]:
        """Guesses at every column, [B, m] each, and their probabilities."""
        order, seen = resolve_order(self.config.order), []

        def watched(reading: Reading) -> Tensor:
            seen.append(maskgit_plus(reading))
            return order(reading)

        forbidden = torch.tensor([mask], device=logits.device)
        bounded = self.config.entropy_bound is not None
        reader = Reader(watched, DRAWS[self.config.draw], temperature, top_k, top_p, forbidden, bounded)
        noise = self._noise(generator)
        shape = logits.shape[:2]
        found = read(reader, logits.flatten(0, 1), [shape[1]] * shape[0], noise(0), noise(1))
        parts = (getattr(found, name).reshape(shape) for name in Guesses.__slots__)
        return Guesses(*parts), torch.cat(seen).reshape(shape)

    def _noise(self, generator: Any) -> Callable[[int], Callable[[int, Sequence[int]], Tensor]]:
        """purpose -> (row, shape) -> uniform noise."""

        def drawn(purpose: int, row: int, shape: Sequence[int]) -> Tensor:
            if generator is None:
                return keyed_uniform((self.config.seed, row, purpose, self._calls), shape)
            own = generator if isinstance(generator, torch.Generator) else generator[row]
            return torch.rand(tuple(shape), dtype=torch.float64, generator=own, device=own.device)

        return lambda purpose: lambda row, shape: drawn(purpose, row, shape)

    def _edited(
        self, tokens: Tensor, p: Tensor, sample: Tensor, masks: Tensor, threshold: float | None, prompt: Tensor | None
    ) -> Tensor:
        """Decided tokens that another guess replaces, bool [B, m]."""
        least = self.config.editing_threshold if threshold is None else threshold
        if least is None or least <= 0:
            return torch.zeros_like(masks)
        fixed = masks if prompt is None else masks | prompt.to(masks.device)
        return ~fixed & (tokens != sample) & (p > least)
