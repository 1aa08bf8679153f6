"""Our block scheduler in diffusers' LLaDA2 pipeline, and our loop against that pipeline."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from samplers import ORDERS, sample_masked

diffusers = pytest.importorskip("diffusers")
if not hasattr(diffusers, "LLaDA2Pipeline"):
    pytest.skip("this diffusers has no LLaDA2 pipeline", allow_module_level=True)

from samplers.diffusers_blocks import UnmaskingBlockScheduler  # noqa: E402

VOCABULARY, MASK, BLOCK = 20, 19, 4
PROMPTS = torch.tensor([[3, 4, 5, 6], [7, 2, 2, 9]])


@pytest.fixture(scope="module")
def bert() -> BertForMaskedLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(vocab_size=VOCABULARY, max_position_embeddings=32, initializer_range=0.4, **sizes)
    network = BertForMaskedLM(config).eval()
    with torch.no_grad():
        network.get_output_embeddings().bias[MASK] = -30.0  # the stock scheduler may draw the mask, ours never does
    return network


def sequences(bert: BertForMaskedLM, scheduler: Any, prompts: torch.Tensor = PROMPTS, **options: Any) -> torch.Tensor:
    pipe = diffusers.LLaDA2Pipeline(model=bert, scheduler=scheduler)
    pipe.set_progress_bar_config(disable=True)
    call = {"gen_length": 8, "block_length": BLOCK, "num_inference_steps": 3, "threshold": 0.5} | options
    found = pipe(input_ids=prompts, mask_token_id=MASK, output_type="seq", **{"editing_threshold": None} | call)
    result: torch.Tensor = found.sequences
    return result


@pytest.mark.parametrize("options", [{}, {"threshold": 2.0}, {"editing_threshold": 0.4}, {"num_inference_steps": 1}])
def test_the_default_reveals_what_the_stock_scheduler_reveals(bert: BertForMaskedLM, options: dict[str, Any]) -> None:
    stock = diffusers.BlockRefinementScheduler()
    own = UnmaskingBlockScheduler.from_config(stock.config)
    assert torch.equal(sequences(bert, own, **options), sequences(bert, stock, **options))


@pytest.mark.parametrize("threshold", [0.5, 2.0])
def test_our_loop_is_the_pipeline_token_for_token(bert: BertForMaskedLM, threshold: float) -> None:
    """The pipeline shows the model nothing behind the block; rows reach their blocks at different times."""

    def logits(ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        rows = []
        for row, wanted in zip(ids, positions, strict=True):
            end = (int(wanted.nonzero().max()) // BLOCK + 1) * BLOCK
            rows.append(bert(input_ids=row[None, :end]).logits[0, wanted[:end]])
        return torch.cat(rows)

    canvas = torch.cat([PROMPTS, torch.full((2, 8), MASK)], dim=1)
    rollout = sample_masked(
        logits, canvas, mask_id=MASK, block_length=BLOCK, steps=6, threshold=threshold, order="maskgit_plus"
    )
    pipeline = sequences(bert, diffusers.BlockRefinementScheduler(), threshold=threshold)
    assert torch.equal(rollout.sequences[:, 4:], pipeline[:, -8:])


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_fills_every_mask_and_rows_have_their_own_noise(bert: BertForMaskedLM, order: str) -> None:
    own = UnmaskingBlockScheduler(order=order, entropy_bound=0.3, draw="gumbel")
    options: dict[str, Any] = {"temperature": 0.9, "top_k": 5, "threshold": 2.0}

    def seeds(*values: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(value) for value in values]

    both = sequences(bert, own, generator=seeds(1, 2), **options)
    assert MASK not in both.tolist() and both.shape[1] in (8, 12)
    alone = sequences(bert, own, PROMPTS[1:], generator=seeds(2), **options)
    assert torch.equal(both[1:], alone)
    assert torch.equal(sequences(bert, own, **options), sequences(bert, own, **options))  # keyed by the seed
    assert not torch.equal(both, sequences(bert, own, generator=seeds(3, 4), **options))


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'entropy'"):
        UnmaskingBlockScheduler(order="entrpy")
    with pytest.raises(ValueError, match="draw"):
        UnmaskingBlockScheduler(draw="coin")
    with pytest.raises(ValueError, match="set_timesteps"):
        UnmaskingBlockScheduler().step(torch.zeros(1, 2, 3), 0, torch.zeros(1, 2, dtype=torch.long), mask_token_id=2)
