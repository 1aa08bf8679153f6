"""What holds for every test."""

from __future__ import annotations

import os

# Judges keep their answers by default. Tests count questions, so that one must not answer for another.
os.environ["FLOWGRPO_JUDGE_CACHE"] = "none"
