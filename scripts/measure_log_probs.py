"""Peak memory or time of log-probs with backward, for one size and one way, in a process of its own; prints JSON.

    python -m scripts.measure_log_probs --way chunked --vocabulary 126000 --scored 256 --measure memory

`scripts.bench_masked` calls `measure`. The model is a small ModernBERT with random weights in float32, on one thread;
its head is the embedding, as in BERT. Where it is frozen, the rest is trained, as with adapters.

Memory is the resident set, since torch keeps no count of its memory on a CPU: weights and gradients are there and one
step has run, the high mark of the process is set back, a forward with backward runs, and the mark is read above where
it was. It needs the proc files of Linux and glibc's allocator, which is told to return what is freed.
Time is processor time of this process, which work beside it disturbs less than the clock; the median of some repeats.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers import ModernBertConfig, ModernBertForMaskedLM

from flowgrpo.likelihood_masked import logits_at, target_log_probs

WIDTH, LAYERS, HEADS = 64, 1, 2
REPEATS = 5
MASK = 3
M_MMAP_THRESHOLD = -3
"""Parameter of glibc's mallopt: larger blocks go back to the system as soon as they are freed."""


def build(vocabulary: int, length: int) -> ModernBertForMaskedLM:
    """A model whose vocabulary is far larger than the rest of it."""
    rope = {"rope_type": "default", "rope_theta": 1000.0}
    config = ModernBertConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=length,
        layer_types=["full_attention"] * LAYERS,
        rope_parameters={"full_attention": dict(rope), "sliding_attention": dict(rope)},
        **{f"{name}_token_id": 0 for name in ("pad", "bos", "eos", "cls", "sep")},
    )
    torch.manual_seed(0)
    return ModernBertForMaskedLM(config).eval()


def canvas(vocabulary: int, length: int, scored: int) -> tuple[Tensor, Tensor, Tensor]:
    """(inputs, targets, scored) of one row [1, length], the last `scored` tokens masked."""
    targets = torch.randint(MASK + 1, vocabulary, (1, length), generator=torch.Generator().manual_seed(1))
    masked = torch.arange(length).unsqueeze(0) >= length - scored
    return targets.masked_fill(masked, MASK), targets, masked


def naive(model: ModernBertForMaskedLM, inputs: Tensor, targets: Tensor, scored: Tensor, chunk: int) -> Tensor:
    """Log-probs [M] by a log-softmax over all logits of the row, as most training code does it."""
    everywhere = model(input_ids=inputs).logits.float().log_softmax(-1)
    return everywhere.gather(-1, targets.unsqueeze(-1)).squeeze(-1)[scored]


def chunked(model: ModernBertForMaskedLM, inputs: Tensor, targets: Tensor, scored: Tensor, chunk: int) -> Tensor:
    """The same as this library computes it."""
    logits_fn = logits_at(
        lambda ids: model.head(model.model(input_ids=ids).last_hidden_state), shift=0, head=model.decoder
    )
    return target_log_probs(logits_fn(inputs, scored), targets[scored], chunk=chunk or None)


WAYS: dict[str, Callable[[ModernBertForMaskedLM, Tensor, Tensor, Tensor, int], Tensor]] = {
    "naive": naive,
    "chunked": chunked,
}


def peak_above(step: Callable[[], Any], model: torch.nn.Module) -> int:
    """Bytes that a step takes at its peak, above weights, gradients and everything else that was there before it."""
    allocator = ctypes.CDLL(None)
    allocator.mallopt(M_MMAP_THRESHOLD, 1 << 16)
    for parameter in model.parameters():
        parameter.grad = torch.empty_like(parameter).fill_(0.0) if parameter.requires_grad else None
    step()  # libraries load code and tables when they are first used
    allocator.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _status("VmRSS")
    step()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(rf"^{field}:\s+(\d+) kB$", text, re.M)
    if found is None:
        raise OSError(f"/proc/self/status has no {field}; memory can be measured on Linux alone")
    return 1024 * int(found[1])


def processor_seconds(step: Callable[[], Any], repeats: int) -> float:
    """Median processor time of a step, after one that is not counted."""
    step()
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        step()
        taken.append(time.process_time() - start)
    return median(taken)


def measure(job: Mapping[str, Any]) -> dict[str, Any]:
    """{"bytes"} or {"seconds"} of a job with way, vocabulary, length, scored, head ("trained" or "frozen"), measure."""
    torch.set_num_threads(1)
    model = build(job["vocabulary"], job["length"])
    model.decoder.requires_grad_(job["head"] == "trained")
    inputs, targets, scored = canvas(job["vocabulary"], job["length"], job["scored"])

    def step() -> None:
        WAYS[job["way"]](model, inputs, targets, scored, job["chunk"]).sum().backward()

    if job["measure"] == "memory":
        return {"bytes": peak_above(step, model)}
    return {"seconds": round(processor_seconds(step, REPEATS), 4)}


def main() -> None:
    """Measure and print."""
    print(json.dumps(measure(vars(_arguments()))))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--way", choices=WAYS, required=True)
    parser.add_argument("--vocabulary", type=int, required=True)
    parser.add_argument("--length", type=int, default=512, help="tokens of the row")
    parser.add_argument("--scored", type=int, required=True, help="masked tokens of the row")
    parser.add_argument("--chunk", type=int, default=0, help="positions whose logits exist at once; 0: the default")
    parser.add_argument("--head", choices=("trained", "frozen"), default="trained")
    parser.add_argument("--measure", choices=("memory", "time"), required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
