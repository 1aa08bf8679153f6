"""Plain text for people: aligned columns, numbers with units."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def columns(rows: Iterable[Sequence[str]], *, indent: int = 2) -> str:
    """Rows as aligned columns; the last column is not padded."""
    held = [tuple(row) for row in rows]
    if not held:
        return ""
    widths = [max(len(row[i]) for row in held if i < len(row)) for i in range(max(map(len, held)))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in held)
    return "\n".join(" " * indent + line for line in lines)


def value(given: Any) -> str:
    """A recipe value as it is written on the command line."""
    if given is None:
        return "none"
    if isinstance(given, bool):
        return str(given).lower()
    if isinstance(given, dict):
        return ",".join(f"{key}={value(entry)}" for key, entry in given.items()) or "{}"
    if isinstance(given, list | tuple):
        return ",".join(value(entry) for entry in given) or "[]"
    return f"{given:g}" if isinstance(given, float) else str(given) or '""'


def duration(seconds: float) -> str:
    """Seconds with two digits that matter: 0.4 s, 12 s, 3.5 min, 2.1 h, 4.0 d."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def size(number: float) -> str:
    """Bytes in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.3g} {unit}"
        number /= 1024
    return f"{number:.3g} TiB"


def scores(rows: Sequence[dict[str, Any]]) -> str:
    """Evaluation rows: mean and 95 % interval of each scorer, in all and by category."""
    lines = [("scorer", "category", "mean", "95 %", "n")]
    for row in rows:
        lines.append((row["scorer"], "all", *_cells(row)))
        parts = row["by_category"]
        if len(parts) > 1:
            lines += [("", category, *_cells(part)) for category, part in parts.items()]
    return columns(lines)


def _cells(part: dict[str, Any]) -> tuple[str, str, str]:
    if part["mean"] is None:
        return "none scored", "", "0"
    return f"{part['mean']:.4f}", f"± {part['ci95']:.4f}", str(part["n"])
