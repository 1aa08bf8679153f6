"""Print versions, machine and paths: what a bug report needs."""

from __future__ import annotations

import argparse
import json

from flowgrpo.cli.display import columns
from flowgrpo.environment import facts

HELP = "print versions, machine and paths"
TAKES_OVERRIDES = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true")


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    found = facts()
    if options.json:
        print(json.dumps(found, indent=1))
        return 0
    for section, entries in found.items():
        print(f"{section}\n{columns(entries.items())}")
    return 0
