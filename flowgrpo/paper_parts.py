"""Which papers the parts of a recipe come from, beside those that the recipe itself names. Torch-free."""

from __future__ import annotations

from flowgrpo.recipe import Recipe
from flowgrpo.recipe_kinds import foreign_keys

PARTS: dict[str, dict[str, str]] = {
    "sampler.kernel": {
        "flow_sde": "flow_grpo",
        "wan_sde": "flow_grpo",
        "dance_sde": "dance_grpo",
        "cps": "flow_cps",
    },
    "sampler.window": dict.fromkeys(("progressive", "rollover", "exp_decay", "linear_decay"), "mix_grpo"),
    "sampler.plan": {"branch": "branch_grpo", "single_branch": "tempflow_grpo"},
    "sampler.solver": dict.fromkeys(
        ("dpmpp_1", "dpmpp_2_midpoint", "dpmpp_2_heun", "dpmpp_3", "dpmpp_3_heun", "dpmpp_3_corrected"),
        "dpm_solver_pp",
    ),
    "sampler.order": {
        "low_confidence": "llada",
        **dict.fromkeys(("maskgit_plus", "topk_margin", "entropy"), "dream"),
    },
    "sampler.remasking": dict.fromkeys(("rcr", "rcr_max", "rcr_block", "rcr_block_max"), "mdpo"),
    "objective.likelihood": {
        "one_step": "diffu_grpo",
        "coupled": "coupled_grpo",
        "sdmc": "gdpo",
        "sdmc_floor": "gdpo",
        "trajectory": "mdpo",
    },
    "objective.advantage": {"grpo": "grpo"},
    "objective.ratio": {"guard": "grpo_guard"},
    "objective.weight": {"inverse_dt": "grpo_guard", "noise_level": "tempflow_grpo"},
    "objective.select": {
        **dict.fromkeys(("random_steps", "best_of_n"), "dance_grpo"),
        **dict.fromkeys(("parent_top1", "extreme", "depth_window"), "branch_grpo"),
        "largest_steps": "mdpo",
    },
    "reward.names": {"preference": "pref_grpo"},
}
"""Key of a recipe -> value -> paper. What is ours, or too common to cite, is left out."""


def parts_in_use(recipe: Recipe) -> dict[str, str]:
    """Papers of the parts that a recipe combines.

    Args:
        recipe: a checked recipe.

    Returns:
        dict[str, str]: key of `flowgrpo.papers.PAPERS` -> the parts, as "sampler.kernel cps, ...".
    """
    foreign = foreign_keys(recipe.model.kind)
    found: dict[str, list[str]] = {}
    for key, papers in PARTS.items():
        section, name = key.split(".")
        held = getattr(getattr(recipe, section), name)
        for value in () if key in foreign else (held,) if isinstance(held, str) else held:
            if value in papers:
                found.setdefault(papers[value], []).append(f"{key} {value}")
    if recipe.sampler.tail_ratio is not None:
        found.setdefault("dpm_solver_pp", []).append("sampler.tail_ratio")
    return {paper: ", ".join(parts) for paper, parts in found.items()}
