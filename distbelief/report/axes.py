"""Axes: from values to places in a drawing, and the numbers that stand beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

TICKS = 5  # about so many


def short(value: float) -> str:
    """For example "1.5k", "20", "0.025", "2e-05"."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def share(value: float) -> str:
    """A fraction in percent."""
    return f"{100 * value:.3g} %"


@dataclass(frozen=True, slots=True)
class Axis:
    """What one direction of a drawing means.

    Attributes:
        label: With the unit.
        log: Logarithmic; values must be above 0.
        from_zero: 0 is in sight.
        text: How a value is written.
    """

    label: str
    log: bool = False
    from_zero: bool = False
    text: Callable[[float], str] = short


class Scale:
    """Places values of an axis between two edges, in pixels. Without any value it goes from 0 to 1.

    Args:
        values: What has to have a place.
        start, stop: Where the edges are.
        tight: The edges are the least and the greatest value; otherwise they are the round numbers beyond them.
    """

    def __init__(self, axis: Axis, values: Iterable[float], start: float, stop: float, tight: bool = False) -> None:
        self._log = axis.log
        self._text = axis.text
        self._start, self._stop = start, stop
        finite = [value for value in values if math.isfinite(value) and (value > 0 or not axis.log)]
        if axis.from_zero and not axis.log:
            finite.append(0.0)
        low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
        if low == high:
            low, high = (low / 2, high * 2) if axis.log else (low - abs(low) / 2, high + (abs(high) or 1.0) / 2)
        found = _decades(low, high) if axis.log else _round(low, high)
        self._values = [value for value in found if low <= value <= high] if tight else found
        self._low, self._high = min(low, *self._values, high), max(high, *self._values, low)

    def __call__(self, value: float) -> float:
        """Where the value is."""
        low, high = self._low, self._high
        if self._log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self._start + (self._stop - self._start) * (value - low) / (high - low)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Where numbers stand, and how they are written."""
        return [(self(value), self._text(value)) for value in self._values]


def _round(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten, from at most `low` to at least `high`."""
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


def _decades(low: float, high: float) -> list[float]:
    """Powers of ten between `low` and `high`, with some between them where there are few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    parts = (1, 2, 5) if last - first <= 2 else (1,)
    every = max(1, (last - first) // TICKS)
    powers = range(first, last + 1, every)
    found = [m * 10.0**n for n in powers for m in parts if low * 0.999 <= m * 10.0**n <= high * 1.001]
    return found or [low, high]
