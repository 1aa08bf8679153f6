"""Who keeps gold while a proxy rises? Long runs on the embedded proxies, with gold watching.

    python -m scripts.bench_overoptimisation --out assets/benchmarks/overoptimisation.json

Trains each recipe on a proxy for `--minutes` of processor time per seed and evaluates proxy and gold on held-out
prompts, before and after; finished runs are not repeated. Prints, per run, proxy and gold of the rollouts at the
start, at gold's best and at the end, and the seconds after which gold first had reached two levels: a method
over-optimises where gold falls from its best while the proxy still rises. `--picture FILE` draws the curves.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from flowgrpo.runfolder import write_atomically
from scripts.bench_methods import EVALUATION, NO_END
from scripts.benchmarks import find, gain, held, train
from scripts.curves_picture import Curve, Panel, picture, smoothed

CLIP = ("--reward.names", "clip=1.0,gold=0.0")
JUDGE = ("--reward.names", "preference=1.0,clip=0.0,gold=0.0")
RUNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "flow_grpo": ("demo", CLIP),
    "grpo_guard": ("grpo_guard_demo", CLIP),
    "pref_grpo": ("pref_grpo_demo", JUDGE),
    "flagship": ("flagship", CLIP),
    "flagship, constant rate": ("flagship", (*CLIP, "--train.lr_decay_updates", "none")),
}
"""Name -> recipe and what it is told. Pref-GRPO trains on its judge's win rates, whose mean is always a half: its
proxy in table and picture is the small CLIP too, which it does not train on."""
SMOOTH_S = 90.0
"""Seconds of training in a mean: one iteration's reward is mostly its prompts, of which small batches have few."""
LEVELS = (0.76, 0.80)
"""Gold of the rollouts; the table says after how many seconds a run is there."""


def main() -> None:
    """Run what is missing, then print the table."""
    args = _arguments()
    words = [*NO_END, "--train.max_minutes", str(args.minutes), *EVALUATION, "--eval.scorers", "gold,clip"]
    base = None
    for seed in args.seeds:
        for name in args.names:
            if find(held(args.out), name, seed) is None and not args.table:
                recipe, told = RUNS[name]
                folder = args.runs / f"{name.replace(', ', '-').replace(' ', '-')}-seed{seed}"
                base = train(args.out, name, recipe, seed, folder, [*words, *told], base=base)
    rows = held(args.out)
    print(table(rows, args.names, args.seeds))
    if args.picture:
        write_atomically(args.picture, drawn(rows, args.names, args.seeds[0]))


def table(rows: list[dict[str, Any]], names: list[str], seeds: list[int]) -> str:
    """Mean rollout rewards of three times, and held-out scores; missing runs are said to be missing."""
    lines = [
        "run                     seed  iterations  rollouts: proxy start, at gold's best, end  gold start, best, end  "
        f"seconds to {LEVELS[0]:.2f}, {LEVELS[1]:.2f}  held-out proxy  strict gold     partial gold"
    ]
    for name in names:
        for seed in seeds:
            row = find(rows, name, seed)
            lines.append(f"{name:23s} {seed:4d}  missing" if row is None else _line(name, seed, row))
    return "\n".join(lines)


def _line(name: str, seed: int, row: dict[str, Any]) -> str:
    proxy, gold = (_smoothed(row, scorer)[_width(row) - 1 :] for scorer in ("clip", "gold"))
    best = max(range(len(gold)), key=gold.__getitem__)
    shown = ["  ".join(f"{series[i]:.3f}" for i in (0, best, -1)) for series in (proxy, gold)]
    reached = ", ".join(_reached(row, level) for level in LEVELS)
    ends = ["{:.1f} -> {:.1f}".format(*gain(row, "heldout", score)) for score in ("clip", "gold.strict", "gold")]
    return (
        f"{name:23s} {seed:4d}  {row['iterations']:10d}  {shown[0]:42s}  {shown[1]}  {reached:21s}  {'  '.join(ends)}"
    )


def _reached(row: dict[str, Any], level: float) -> str:
    """Seconds after which the smoothed gold of the rollouts had reached a level for the first time."""
    gold, first = _smoothed(row, "gold"), _width(row) - 1
    found = next((at for at in range(first, len(gold)) if gold[at] >= level), None)
    return "never" if found is None else f"{row['curve'][found][0]:.0f}"


def drawn(rows: list[dict[str, Any]], names: list[str], seed: int) -> str:
    """The picture: smoothed proxy and gold of the rollouts over seconds, one line per run of one seed."""
    found = {name: row for name in names if (row := find(rows, name, seed))}
    panels = [
        Panel(title, [_curve(name, row, scorer) for name, row in found.items()])
        for title, scorer in (("proxy (small CLIP), mean of rollouts", "clip"), ("gold, mean of rollouts", "gold"))
    ]
    return picture(panels, "Proxy and gold over the seconds of training, for each method")


def _curve(name: str, row: dict[str, Any], scorer: str) -> Curve:
    seconds = [point[0] for point in row["curve"]]
    return Curve(name, list(zip(seconds, _smoothed(row, scorer), strict=True)))


def _smoothed(row: dict[str, Any], scorer: str) -> list[float]:
    return smoothed(row["by_scorer"][scorer], _width(row))


def _width(row: dict[str, Any]) -> int:
    return max(1, round(SMOOTH_S / row["seconds_per_iteration"]["total"]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("assets/benchmarks/overoptimisation.json"))
    parser.add_argument("--runs", type=Path, default=Path("runs/overoptimisation"), help="where the run folders go")
    parser.add_argument("--names", nargs="*", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=20.0, help="training time of each run")
    parser.add_argument("--table", action="store_true", help="print what is there and run nothing")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the curves of the first seed as SVG")
    return parser.parse_args()


if __name__ == "__main__":
    main()
