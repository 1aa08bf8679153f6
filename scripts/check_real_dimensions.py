"""Rehearse one iteration of every family at its published size, without weights, and write the table `check` reads.

    python scripts/check_real_dimensions.py                  all models, those that the table has already left out
    python scripts/check_real_dimensions.py --names flux.1-dev --again

Each model takes from half a minute to several minutes on one core; the table is written after each.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from flowgrpo.policies.rehearsal import real_names, rehearse
from flowgrpo.policies.rehearsal_checks import problems

TABLE = Path(__file__).resolve().parent.parent / "assets" / "benchmarks" / "real_dimensions.json"


def main() -> int:
    options = _options()
    table: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8")) if TABLE.is_file() else {}
    found: list[str] = []
    for name in options.names or real_names():
        if name not in table or options.again:
            start = time.monotonic()
            table[name] = rehearse(name)
            TABLE.parent.mkdir(parents=True, exist_ok=True)
            TABLE.write_text(json.dumps(dict(sorted(table.items())), indent=1) + "\n", encoding="utf-8")
            print(f"{name}: {_line(table[name])} ({time.monotonic() - start:.0f} s)", flush=True)
        found += problems(name, table[name])
    for problem in found:
        print(problem, file=sys.stderr)
    return 1 if found else 0


def _line(row: dict[str, Any]) -> str:
    kinds = {kind: _parameters(row, kind) for kind in ("transformer", "text_encoder")}
    held = {key: f"{value / 2**30:.3g} GiB" for key, value in row["bytes"].items()}
    return (
        f"{kinds['transformer']:.2f} B parameters, {kinds['text_encoder']:.2f} B in text encoders"
        f", {row['tokens']} tokens, {row['flops']['sampling'] / 1e12:.2f} TFLOP a step"
        f", {', '.join(f'{key} {text}' for key, text in held.items())}"
    )


def _parameters(row: dict[str, Any], kind: str) -> float:
    """Billions in the components of a kind."""
    return sum(count for key, count in row["parameters"].items() if key.startswith(kind)) / 1e9


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", nargs="+", choices=real_names(), metavar="NAME", help="these models alone")
    parser.add_argument("--again", action="store_true", help="replace what the table has")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
