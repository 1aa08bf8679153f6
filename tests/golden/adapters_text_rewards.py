"""Golden adapters of text rewards: file stem -> function(inputs) -> outputs."""

from __future__ import annotations

from typing import Any

from reward_models.tasks import d1
from reward_models.tasks.code_format import code_format_reward, extract_code

Case = dict[str, Any]

D1 = {
    "gsm8k": lambda text, case: d1.gsm8k_rewards(text, case["answer"]),
    "countdown": lambda text, case: {"reward": d1.countdown_reward(text, case["numbers"], case["target"])},
    "sudoku": lambda text, case: {"reward": d1.sudoku_reward(text, case["puzzle"], case["solution"])},
    "math": lambda text, case: d1.math_rewards(text, case["solution"]),
}


def d1_rewards(case: Case) -> Case:
    return D1[case["task"]](case["completion"], case)


def code_format(case: Case) -> Case:
    text = case["completion"]
    return {"format_reward": code_format_reward(text), "extracted_code": extract_code(text)}


ADAPTERS = {"d1_rewards": d1_rewards, "code_format_reward": code_format}
