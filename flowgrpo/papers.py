"""The papers behind the recipes, and how to cite them.

A recipe names its papers in `paper`, separated by commas: a key of `PAPERS`, or an arXiv number that is in it. Author
lists are complete, or end in "others" where a full one could not be confirmed.
"""

from __future__ import annotations

from dataclasses import dataclass

from flowgrpo.errors import RecipeError, did_you_mean


@dataclass(frozen=True, slots=True)
class Paper:
    """One paper.

    Attributes:
        title: as printed.
        authors: in order; "others" last stands for the rest.
        year: of the first version.
        arxiv: number without version.
        note: what it brings to this project.
    """

    title: str
    authors: tuple[str, ...]
    year: int
    arxiv: str
    note: str


PAPERS: dict[str, Paper] = {
    "grpo": Paper(
        "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models",
        (
            *("Zhihong Shao", "Peiyi Wang", "Qihao Zhu", "Runxin Xu", "Junxiao Song", "Xiao Bi", "Haowei Zhang"),
            *("Mingchuan Zhang", "Y. K. Li", "Y. Wu", "Daya Guo"),
        ),
        2024,
        "2402.03300",
        "GRPO: advantages relative to a group",
    ),
    "flow_grpo": Paper(
        "Flow-GRPO: Training Flow Matching Models via Online RL",
        (
            *("Jie Liu", "Gongye Liu", "Jiajun Liang", "Yangguang Li", "Jiaheng Liu", "Xintao Wang", "Pengfei Wan"),
            *("Di Zhang", "Wanli Ouyang"),
        ),
        2025,
        "2505.05470",
        "the SDE of a flow, and GRPO on it",
    ),
    "dance_grpo": Paper(
        "DanceGRPO: Unleashing GRPO on Visual Generation",
        (
            *("Zeyue Xue", "Jie Wu", "Yu Gao", "Fangyuan Kong", "Lingting Zhu", "Mengzhao Chen", "Zhiheng Liu"),
            *("Wei Liu", "Qiushan Guo", "Weilin Huang", "others"),
        ),
        2025,
        "2505.07818",
        "constant-noise SDE, shared initial noise, random steps",
    ),
    "flow_cps": Paper(
        "Coefficients-Preserving Sampling for Reinforcement Learning with Flow Matching",
        ("Feng Wang", "Zihao Yu"),
        2025,
        "2509.05952",
        "stochastic steps without excess noise",
    ),
    "mix_grpo": Paper(
        "MixGRPO: Unlocking Flow-based GRPO Efficiency with Mixed ODE-SDE",
        ("Junzhe Li", "Yutao Cui", "Tao Huang", "others"),
        2025,
        "2507.21802",
        "sliding window of stochastic steps; Flash",
    ),
    "branch_grpo": Paper(
        "BranchGRPO: Stable and Efficient GRPO with Structured Branching in Diffusion Models",
        ("Yuming Li", "Yikai Wang", "Yuying Zhu", "Zhongyu Zhao", "Ming Lu", "Qi She", "Shanghang Zhang"),
        2025,
        "2509.06040",
        "tree rollouts, fused rewards, pruning",
    ),
    "tempflow_grpo": Paper(
        "TempFlow-GRPO: When Timing Matters for GRPO in Flow Models",
        (
            *("Xiaoxuan He", "Siming Fu", "Yuke Zhao", "Wanli Li", "Jian Yang", "Dacheng Yin", "Fengyun Rao"),
            "Bo Zhang",
        ),
        2025,
        "2508.04324",
        "single-step explorations, noise-aware weights",
    ),
    "grpo_guard": Paper(
        "GRPO-Guard: Mitigating Implicit Over-Optimization in Flow Matching via Regulated Clipping",
        (
            *(
                "Jing Wang",
                "Jiajun Liang",
                "Jie Liu",
                "Henglin Liu",
                "Gongye Liu",
                "Jun Zheng",
                "Wanyuan Pang",
                "Ao Ma",
            ),
            *("Zhenyu Xie", "Xintao Wang", "Meng Wang", "Pengfei Wan", "Xiaodan Liang"),
        ),
        2025,
        "2510.22319",
        "unbiased ratio, equal gradients over steps",
    ),
    "pref_grpo": Paper(
        "Pref-GRPO: Pairwise Preference Reward-based GRPO for Stable Text-to-Image Reinforcement Learning",
        (
            *("Yibin Wang", "Zhimin Li", "Yuhang Zang", "Yujie Zhou", "Jiazi Bu", "Chunyu Wang", "Qinglin Lu"),
            *("Cheng Jin", "Jiaqi Wang"),
        ),
        2025,
        "2508.20751",
        "win rates as rewards; UniGenBench",
    ),
    "sd3": Paper(
        "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis",
        (
            *("Patrick Esser", "Sumith Kulal", "Andreas Blattmann", "Rahim Entezari", "Jonas Müller", "Harry Saini"),
            *("Yam Levi", "Dominik Lorenz", "Axel Sauer", "Frederic Boesel", "Dustin Podell", "Tim Dockhorn"),
            *("Zion English", "Kyle Lacey", "Alex Goodwin", "Yannik Marek", "Robin Rombach"),
        ),
        2024,
        "2403.03206",
        "the architecture of Stable Diffusion 3 and of tiny-sd3",
    ),
    "dpm_solver_pp": Paper(
        "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models",
        ("Cheng Lu", "Yuhao Zhou", "Fan Bao", "Jianfei Chen", "Chongxuan Li", "Jun Zhu"),
        2022,
        "2211.01095",
        "multistep solvers on the predicted sample",
    ),
    "diffu_grpo": Paper(
        "d1: Scaling Reasoning in Diffusion Large Language Models via Reinforcement Learning",
        ("Siyan Zhao", "Devaansh Gupta", "Qinqing Zheng", "Aditya Grover"),
        2025,
        "2504.12216",
        "diffu-GRPO: one-step likelihoods with prompt masking",
    ),
    "coupled_grpo": Paper(
        "DiffuCoder: Understanding and Improving Masked Diffusion Models for Code Generation",
        (
            *("Shansan Gong", "Ruixiang Zhang", "Huangjie Zheng", "Jiatao Gu", "Navdeep Jaitly", "Lingpeng Kong"),
            "Yizhe Zhang",
        ),
        2025,
        "2506.20639",
        "coupled-GRPO: complementary masks",
    ),
    "gdpo": Paper(
        "Improving Reasoning for Diffusion Language Models via Group Diffusion Policy Optimization",
        (
            *("Kevin Rojas", "Jiahe Lin", "Kashif Rasul", "Anderson Schneider", "Yuriy Nevmyvaka", "Molei Tao"),
            "Wei Deng",
        ),
        2025,
        "2510.08554",
        "semi-deterministic Monte Carlo of the ELBO",
    ),
    "mdpo": Paper(
        "MDPO: Overcoming the Training-Inference Divide of Masked Diffusion Language Models",
        ("Haoyu He", "Katrin Renz", "Yong Cao", "Andreas Geiger"),
        2025,
        "2508.13148",
        "trajectory-level training; running-confidence remasking",
    ),
    "llada": Paper(
        "Large Language Diffusion Models",
        (
            *("Shen Nie", "Fengqi Zhu", "Zebin You", "Xiaolu Zhang", "Jingyang Ou", "Jun Hu", "Jun Zhou", "Yankai Lin"),
            *("Ji-Rong Wen", "Chongxuan Li"),
        ),
        2025,
        "2502.09992",
        "LLaDA: low-confidence remasking in blocks",
    ),
    "dream": Paper(
        "Dream 7B: Diffusion Large Language Models",
        (
            *("Jiacheng Ye", "Zhihui Xie", "Lin Zheng", "Jiahui Gao", "Zirui Wu", "Xin Jiang", "Zhenguo Li"),
            "Lingpeng Kong",
        ),
        2025,
        "2508.15487",
        "decoding orders by entropy, margin and confidence",
    ),
}


def papers_of(named: str | None) -> list[str]:
    """Keys of the papers that a recipe's `paper` names.

    Args:
        named: keys or arXiv numbers ("mix_grpo", "arXiv 2507.21802"), separated by commas; None names none.

    Returns:
        list[str]: keys of `PAPERS`, each once, in order.

    Raises:
        RecipeError: one sentence for every paper that is not in the table.
    """
    words = [word.strip() for word in (named or "").split(",") if word.strip()]
    found = {word: _key(word) for word in words}
    unknown = [
        f"paper: {word!r} is not in the table of papers{did_you_mean(word, PAPERS)} "
        f"(keys: {', '.join(PAPERS)}; or one of their arXiv numbers)"
        for word, key in found.items()
        if key is None
    ]
    if unknown:
        raise RecipeError(unknown)
    return list(dict.fromkeys(key for key in found.values() if key is not None))


def bibtex(key: str) -> str:
    """The BibTeX entry of one paper of the table."""
    paper = PAPERS[key]
    fields = {
        "title": f"{{{paper.title}}}",
        "author": " and ".join(paper.authors),
        "journal": f"arXiv preprint arXiv:{paper.arxiv}",
        "eprint": paper.arxiv,
        "archivePrefix": "arXiv",
        "year": str(paper.year),
    }
    return entry("article", f"{paper.authors[0].split()[-1].lower()}{paper.year}{key.replace('_', '')}", fields)


def entry(kind: str, name: str, fields: dict[str, str]) -> str:
    """One BibTeX entry from its fields in order."""
    lines = "".join(f"  {field} = {{{value}}},\n" for field, value in fields.items())
    return f"@{kind}{{{name},\n{lines}}}"


def _key(word: str) -> str | None:
    number = word.casefold().removeprefix("arxiv").lstrip(": ")
    return next((key for key, paper in PAPERS.items() if word == key or number == paper.arxiv), None)
