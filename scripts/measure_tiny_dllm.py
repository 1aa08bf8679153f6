"""Accuracy of tiny-dllm on held-out problems, greedy and at temperature 1; goes into its training.json.

Run `python -m scripts.measure_tiny_dllm --help` from the repository root.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from reward_models.tasks import verify
from samplers import masked_canvas
from samplers.transformers_generate import masked_generate
from scripts.make_task_prompts import OPTIONS, make_set
from scripts.tiny_dllm_data import WINDOWS


def main() -> None:
    """Measure and write."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    model = AutoModelForMaskedLM.from_pretrained(args.model).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    facts = {
        "greedy": accuracy(model, tokenizer, limit=args.limit, categories=True),
        "temperature_1": accuracy(model, tokenizer, limit=args.limit, temperature=1.0),
    }
    path = args.model / "training.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | facts, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(facts, indent=2))


def accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    *,
    limit: int,
    temperature: float = 0.0,
    categories: bool = False,
) -> dict[str, float]:
    """Share of held-out problems that are solved, by task, and by category where that is asked for.

    Args:
        model: Masked language model.
        tokenizer: Its tokenizer.
        limit: Problems per task.
        temperature: Of the decoding, which reveals one token per step, the surest first.
        categories: Add a number for each "task: category", and the mean partial credit of each task.

    Returns:
        Name -> share in [0, 1], rounded.
    """
    found: dict[str, list[float]] = defaultdict(list)
    for task in OPTIONS:
        rows = make_set(task, "heldout", 0)[:limit]
        for row, text in zip(rows, answers(model, tokenizer, rows, WINDOWS[task], temperature), strict=True):
            verdict = verify(text, row)
            found[task].append(verdict.strict)
            if categories:
                found[f"{task}: {row['category']}"].append(verdict.strict)
                found[f"{task}, partial"].append(verdict.partial)
    return {name: round(fmean(values), 3) for name, values in sorted(found.items())}


def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    rows: list[dict[str, Any]],
    window: int,
    temperature: float,
) -> list[str]:
    """What the model writes for each row's prompt, up to its end token."""
    model.eval()
    prompts = [tokenizer(row["prompt"]).input_ids for row in rows]
    ids, attention = masked_canvas(prompts, window, mask_id=tokenizer.mask_token_id, pad_id=tokenizer.pad_token_id)
    rollout = masked_generate(
        model,
        ids,
        attention_mask=attention,
        temperature=temperature,
        eos_ids=(tokenizer.eos_token_id,),
        seed=0,
        return_rollout=True,
    )
    ends = ids.shape[1] - window + rollout.lengths
    return [
        tokenizer.decode(row[ids.shape[1] - window : end], skip_special_tokens=True)
        for row, end in zip(rollout.ids, ends, strict=True)
    ]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, default=Path("assets/tiny-dllm"), help="folder of the model")
    parser.add_argument("--limit", type=int, default=256, help="held-out problems per task")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
