"""Numbers for people: which are usable, how they are written, and where the ticks of an axis lie."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

MISSING = "–"


def usable(value: Any) -> float | None:
    """The value as a finite float; None for anything else (text, NaN, infinity, a truth value)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def present(values: Iterable[float | None]) -> list[float]:
    """The values that are there."""
    return [value for value in values if value is not None]


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are there; None without any."""
    there = present(values)
    return sum(there) / len(there) if there else None


def largest_magnitude(values: Iterable[float | None]) -> float | None:
    """The value farthest from 0, with its sign; None without any."""
    return max(present(values), key=abs, default=None)


def number(value: float | None) -> str:
    """Whole numbers in full; four significant digits otherwise, scientific below 1e-3 and from 1e6 on."""
    if value is None:
        return MISSING
    if value == 0:
        return "0"
    if value == int(value) and abs(value) < 1e12:
        return typeset(f"{int(value):,}")
    if not 1e-3 <= abs(value) < 1e6:
        return scientific(value)
    return typeset(f"{value:,.{max(1, 3 - math.floor(math.log10(abs(value))))}f}".rstrip("0").rstrip("."))


def scientific(value: float | None) -> str:
    """Three significant digits in scientific notation, and a plain 0 for exactly 0."""
    if value is None:
        return MISSING
    return "0" if value == 0 else _short_scientific(value, 2, padded=True)


def percent(share: float | None) -> str:
    """A share in [0, 1] as a percentage with one decimal."""
    return MISSING if share is None else f"{100 * share:.1f} %"


def duration(seconds: float | None) -> str:
    """Seconds as hours, minutes and seconds, the two largest parts; milliseconds below a second."""
    if seconds is None:
        return MISSING
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms" if seconds >= 0.01 else f"{1000 * seconds:.1f} ms" if seconds else "0 s"
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


@dataclass(frozen=True, slots=True)
class Scale:
    """A straight map from values `low`..`high` to positions `start`..`stop`, of the logarithm where `log`."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, here = (math.log10(x) if self.log else x for x in (self.low, self.high, value))
        return self.start + (here - low) / (high - low) * (self.stop - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values inside the range, about `count` of them."""
        return log_ticks(self.low, self.high, count) if self.log else linear_ticks(self.low, self.high, count)


def linear_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within [low, high]; at most `count` + 1 of them."""
    rough = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if step >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def whole_ticks(low: int, high: int, count: int = 5) -> list[int]:
    """Ticks of an axis of whole numbers, such as iterations: always whole, the ends among them if nothing else is."""
    if low == high:
        return [low]
    ticks = sorted({round(tick) for tick in linear_ticks(low, high, count) if tick == round(tick)})
    return ticks if len(ticks) > 1 else [low, high]


def log_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Powers of ten within [low, high], thinned to at most `count`; 1, 2, 5 steps where there are under two."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    powers = list(range(first, last + 1))
    if len(powers) >= 2:
        return [10.0**power for power in powers[:: math.ceil(len(powers) / count)]]
    fine = (digit * 10.0**power for power in range(first - 1, last + 2) for digit in (1, 2, 5))
    return [value for value in fine if low <= value * (1 + 1e-9) and value <= high * (1 + 1e-9)]


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Labels of one axis in one notation: as many decimals as the smallest gap needs, or scientific throughout."""
    largest = max((abs(tick) for tick in ticks), default=0.0)
    gaps = [b - a for a, b in itertools.pairwise(ticks)]
    gap = min(gaps, default=largest) or 1.0
    decimals = max(0, -math.floor(math.log10(gap) + 1e-9))
    if largest >= 1e5 or decimals > 4:
        digits = max(0, math.floor(math.log10(largest or 1.0) + 1e-9) - math.floor(math.log10(gap) + 1e-9))
        return ["0" if tick == 0 else _short_scientific(tick, digits) for tick in ticks]
    return [typeset(f"{tick:.{decimals}f}") for tick in ticks]


def _short_scientific(value: float, digits: int, *, padded: bool = False) -> str:
    mantissa, exponent = f"{value:.{digits}e}".split("e")
    short = mantissa if padded or not digits else mantissa.rstrip("0").rstrip(".")
    return typeset(f"{short}e{int(exponent)}")


def typeset(digits: str) -> str:
    """With true minus signs: as wide as digits, and no line breaks after them."""
    return digits.replace("-", "−")
