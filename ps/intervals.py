"""Interval set: non-negative integers that arrive nearly in order, such as the ids of applied leases.

Kept as sorted intervals, packed, that neither overlap nor touch. A run that applied a million leases in order holds one
interval; each lease still missing costs one more.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Interval(NamedTuple):
    """The integers start .. stop - 1."""

    start: int
    stop: int


class IntervalSet:
    """A set of non-negative integers. `add` and `discard` are its only mutators."""

    __slots__ = ("_count", "_starts", "_stops")

    def __init__(self) -> None:
        self._starts = array("q")  # ascending; _stops[i - 1] < _starts[i] < _stops[i]
        self._stops = array("q")
        self._count = 0

    @classmethod
    def of(cls, intervals: Iterable[tuple[int, int]]) -> IntervalSet:
        """The set that `intervals()` wrote down.

        Raises:
            ValueError: They are not ascending, or some are empty, overlap, touch or are negative: damaged, or not ours.
        """
        made = cls()
        previous = -1
        for start, stop in intervals:
            if not previous < start < stop:
                raise ValueError(f"got interval ({start}, {stop}) after {previous}, expected {previous} < start < stop")
            made._starts.append(start)
            made._stops.append(stop)
            made._count += stop - start
            previous = stop
        return made

    def add(self, x: int) -> bool:
        """Put x into the set.

        Returns:
            True if x is new.

        Raises:
            ValueError: x is negative.
        """
        if x < 0:
            raise ValueError(f"got {x}, expected a non-negative integer")
        starts, stops = self._starts, self._stops
        i = bisect_right(starts, x)  # interval i - 1 is the last that starts at or before x
        left = stops[i - 1] if i else -1
        if x < left:
            return False
        extends_right = i < len(starts) and starts[i] == x + 1
        if left == x:
            if extends_right:
                stops[i - 1] = stops.pop(i)
                del starts[i]
            else:
                stops[i - 1] = x + 1
        elif extends_right:
            starts[i] = x
        else:
            starts.insert(i, x)
            stops.insert(i, x + 1)
        self._count += 1
        return True

    def discard(self, x: int) -> bool:
        """Take x out of the set; return whether it was in it."""
        if x not in self:
            return False
        i = bisect_right(self._starts, x) - 1
        start, stop = self._starts[i], self._stops[i]
        rest = [(a, b) for a, b in ((start, x), (x + 1, stop)) if a < b]
        self._starts[i : i + 1] = array("q", [a for a, _ in rest])
        self._stops[i : i + 1] = array("q", [b for _, b in rest])
        self._count -= 1
        return True

    def __contains__(self, x: int) -> bool:
        i = bisect_right(self._starts, x)
        return i > 0 and x < self._stops[i - 1]

    def __len__(self) -> int:
        return self._count

    def intervals(self) -> tuple[Interval, ...]:
        """The set as ascending intervals that neither overlap nor touch."""
        return tuple(map(Interval, self._starts, self._stops))

    def bounds(self) -> tuple[int, ...]:
        """Likewise as start, stop, start, stop, ...: as a message carries it."""
        return tuple(bound for interval in self.intervals() for bound in interval)

    @classmethod
    def of_bounds(cls, bounds: Sequence[int]) -> IntervalSet:
        """The set that `bounds()` wrote down. Raises ValueError as `of`."""
        if len(bounds) % 2:
            raise ValueError(f"got {len(bounds)} bounds, expected a start and a stop for each interval")
        return cls.of(zip(bounds[::2], bounds[1::2], strict=True))

    def missing(self, stop: int) -> list[int]:
        """The integers 0 .. stop - 1 that are not in the set, ascending."""
        gaps: list[int] = []
        covered = 0
        for interval in self.intervals():
            if covered >= stop:
                break
            gaps.extend(range(covered, min(interval.start, stop)))
            covered = interval.stop
        gaps.extend(range(covered, stop))
        return gaps
