"""Golden adapters of benchmarks: file stem -> function(inputs) -> outputs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from flowgrpo.benchmarks.tally import official

Case = dict[str, Any]


def unigenbench_aggregate(case: Case) -> Case:
    return asdict(official((row["testpoints"], row["scores"]) for row in case["judgements"]))


ADAPTERS = {"unigenbench_aggregate": unigenbench_aggregate}
