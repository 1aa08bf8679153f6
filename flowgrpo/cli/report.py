"""Write the report of a run: one HTML page that needs nothing else."""

from __future__ import annotations

import argparse
from pathlib import Path

from flowgrpo.cli.arguments import existing_folder

HELP = "write the report of a run"
TAKES_OVERRIDES = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", type=existing_folder, help="folder of a run")
    parser.add_argument("--out", metavar="FILE", type=Path, help="default: RUN/report.html")


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    from flowgrpo.report import write_report

    print(write_report(options.run, options.out))
    return 0
