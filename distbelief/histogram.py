"""Histograms of staleness: value to count."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping


def total(histograms: list[dict[int, int]]) -> Counter[int]:
    """The sum of several."""
    return sum((Counter(histogram) for histogram in histograms), Counter())


def mean(histogram: Mapping[int, int]) -> float:
    """Mean value; NaN of an empty one."""
    count = sum(histogram.values())
    return sum(value * n for value, n in histogram.items()) / count if count else math.nan


def percentile(histogram: Mapping[int, int], share: float) -> float:
    """The smallest value with at least this share of the counts at or below it; NaN of an empty histogram."""
    needed = share * sum(histogram.values())
    reached = 0
    for value in sorted(histogram):
        reached += histogram[value]
        if reached >= needed:
            return value
    return math.nan


def binned(histogram: Mapping[int, int], least: int, width: int) -> Counter[int]:
    """Neighbouring values put together: the first value of each `width` of them, counted from `least`, to its count."""
    found: Counter[int] = Counter()
    for value, count in histogram.items():
        found[least + (value - least) // width * width] += count
    return found
