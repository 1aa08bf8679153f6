"""Golden adapters of rewards: file stem -> function(inputs) -> outputs."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from flowgrpo.advantages import clamped, combined_advantages, group_advantages
from reward_models.comparisons import Comparison, win_rates
from reward_models.verdicts import FlexReply, category_mean, category_rates, edit, flex, flex_mix, think

Case = dict[str, Any]

OPTIONS = {"ddof": 1, "eps": 1e-8}
CLAMP = 5.0


def pref_winrate(case: Case) -> Case:
    """Two habits of the source are rebuilt here: it rounds rates, and counts a reply that it cannot read as a tie."""
    return PARSERS[case["parser"]](case)


def _sentences(case: Case) -> Case:
    parse = {"think": think, "edit": edit}[case["parser"]]
    verdicts = [parse(text, first=case["label_1"], second=case["label_2"]) for text in case["judge_outputs"]]
    rates = _rounded(_rates(case, verdicts))
    return {"win_rate_rounded3": rates, "advantage": _advantages(rates)}


def _flex(case: Case) -> Case:
    replies = [_half_for_none(flex(text)) for text in case["judge_outputs"]]
    overall = _rounded(_rates(case, [reply.overall for reply in replies]))
    rates = category_rates(case["pairs"], replies, _one_group(case))
    mean = _rounded(category_mean(rates, case["category_weights"] or (), count=case["group_size"]))
    weights = {"overall_weight": case["overall_weight"], "category_weight": case["dim_weight"]}
    parts = [_advantages(overall), _advantages(mean.nan_to_num(0.0)).where(~mean.isnan(), torch.nan)]
    return {
        "overall_win_rate_rounded3": overall,
        "category_mean_rounded3": mean.nan_to_num(0.0),
        "has_category": (~mean.isnan()).tolist(),
        "reward_intended": flex_mix(overall, mean, **weights),
        "advantage_gdpo": _advantages(flex_mix(*parts, **weights)),
    }


def _several(case: Case) -> Case:
    rewards = {name: torch.tensor(values, dtype=torch.float64) for name, values in case["rewards"].items()}
    group = torch.arange(case["num_groups"]).repeat_interleave(case["group_size"])
    everyone = torch.ones(len(group), dtype=torch.bool)
    combine = "decoupled" if case["apply_gdpo"] else "normalise_then_weigh"
    options = {"weights": case["weights"], "combine": combine, "clamp": CLAMP, **OPTIONS}
    return {
        "per_reward_advantage": {
            name: group_advantages(values, everyone, group, **OPTIONS).tolist() for name, values in rewards.items()
        },
        "advantage": combined_advantages(rewards, everyone, group, **options),
    }


PARSERS = {"think": _sentences, "edit": _sentences, "flex": _flex, "none": _several}


def _one_group(case: Case) -> list[int]:
    return [0] * case["group_size"]


def _rates(case: Case, verdicts: list[float]) -> Tensor:
    """The file presents the lower index first, as the source does."""
    judged = zip(case["pairs"], verdicts, strict=True)
    return win_rates([Comparison(*pair, _half(verdict)) for pair, verdict in judged], _one_group(case))[0]


def _half(verdict: float) -> float:
    return 0.5 if math.isnan(verdict) else verdict


def _half_for_none(reply: FlexReply) -> FlexReply:
    return FlexReply(_half(reply.overall), tuple((name, _half(verdict)) for name, verdict in reply.categories))


def _rounded(rates: Tensor) -> Tensor:
    return rates.round(decimals=3)


def _advantages(rewards: Tensor) -> Tensor:
    group = torch.zeros(len(rewards), dtype=torch.long)
    return clamped(group_advantages(rewards, group == 0, group, **OPTIONS), CLAMP)


ADAPTERS = {"pref_winrate": pref_winrate}
