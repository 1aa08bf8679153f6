"""`python -m flowgrpo` and `accelerate launch -m flowgrpo`."""

from __future__ import annotations

import sys

from flowgrpo.cli import main

if __name__ == "__main__":
    sys.exit(main())
