"""Golden adapters of the objective: file stem -> function(inputs) -> outputs."""

from __future__ import annotations

ADAPTERS = {}
