"""The command line's entry, which first makes sure that the packages of generic names are our own."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from flowgrpo.environment import require_own_packages
from flowgrpo.errors import USAGE, UsageError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: words after the program's name; None takes the process's own.

    Returns: the exit code.
    """
    try:
        require_own_packages()
    except UsageError as error:
        print(f"flowgrpo: error: {error}", file=sys.stderr)
        return USAGE
    # Commands import names from both packages, so only now.
    from flowgrpo.cli.app import main as run

    return run(argv)
