"""Every kind of plan, as changes of the tests' recipe."""

from __future__ import annotations

from typing import Any

PLANS: dict[str, dict[str, Any]] = {
    "chain": {},
    "shared chain": {"sampler__initial_noise": "shared"},
    "window": {"sampler__window": "progressive", "sampler__window_width": 2, "sampler__initial_noise": "shared"},
    "flash": {"sampler__window": "random", "sampler__window_width": 1, "sampler__tail_ratio": 0.5},
    "branch": {"sampler__plan": "branch", "sampler__split_steps": [0, 2]},
    "branch-mix": {
        "sampler__plan": "branch",
        "sampler__split_steps": [0, 2],
        "sampler__window": "frozen",
        "sampler__window_width": 1,
    },
    "single branch": {
        "sampler__plan": "single_branch",
        "sampler__window": "frozen",
        "sampler__window_width": 2,
        "sampler__children": 2,
    },
}
