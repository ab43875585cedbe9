"""Groups: cells that differ in their seed alone, and the best of those that differ in rate or momentum as well.

An asynchronous run at one worker's rate says little about asynchrony: each way of training is shown at the best rate
and momentum of the grid, and the whole grid beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from distbelief.laboratory.results import Result
from distbelief.report.drawing import Point


@dataclass(frozen=True, slots=True, order=True)
class Way:
    """A way to train: what does not need tuning. The order is that in which pages name them."""

    cluster: str
    workers: int
    consistency: str
    correction: str

    def label(self, others: Iterable[Way]) -> str:
        """What tells it from the others, in words."""
        ways = {self, *others}
        parts = []
        if len({way.workers for way in ways}) > 1 or len(ways) == 1:
            parts.append(f"{self.workers} worker{'s' if self.workers > 1 else ''}")
        for name in ("consistency", "correction", "cluster"):
            if len({getattr(way, name) for way in ways}) > 1:
                value = getattr(self, name)
                parts.append("no correction" if (name, value) == ("correction", "none") else value)
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Group:
    """Results of one way at one rate and momentum: one per seed."""

    way: Way
    momentum: float
    rate: float
    results: tuple[Result, ...]

    @property
    def error(self) -> float:
        """Mean top-1 error of the average at the end; NaN if nothing was learned."""
        return fmean(result.error for result in self.results)

    @property
    def errors(self) -> tuple[float, float]:
        """The least and the greatest of the seeds."""
        found = [result.error for result in self.results]
        return min(found), max(found)

    @property
    def diverged(self) -> int:
        """How many did."""
        return sum(result.diverged for result in self.results)

    def to_target(self) -> tuple[float, float]:
        """Mean samples and virtual seconds to the target; infinite if one did not reach it."""
        reached = [result.target for result in self.results]
        if not all(reached):
            return math.inf, math.inf
        known = [each for each in reached if each is not None]
        return fmean(each.samples for each in known), fmean(each.seconds for each in known)

    def mean(self, of: Callable[[Result], float | None]) -> float:
        """Mean over the seeds of what is known; NaN if nothing is."""
        known = [value for value in map(of, self.results) if value is not None]
        return fmean(known) if known else math.nan

    def course(self, against_time: bool) -> tuple[list[Point], list[Point], list[Point]]:
        """Mean, least and greatest error over the seeds at every evaluation that all of them had.

        Args:
            against_time: x is virtual seconds; otherwise examples.
        """
        middle, low, high = [], [], []
        for tested in zip(*[result.course for result in self.results], strict=False):
            x = fmean(each.seconds if against_time else each.samples for each in tested)
            errors = [each.error for each in tested]
            middle.append((x, fmean(errors)))
            low.append((x, min(errors)))
            high.append((x, max(errors)))
        return middle, low, high


def grouped(results: Sequence[Result]) -> list[Group]:
    """Every group, by way, momentum and rate."""
    found: dict[tuple[Way, float, float], list[Result]] = {}
    for result in results:
        cell = result.cell
        way = Way(cell.cluster, cell.workers, cell.consistency, cell.correction)
        found.setdefault((way, cell.momentum, cell.rate), []).append(result)
    return [Group(*key, tuple(of)) for key, of in sorted(found.items(), key=lambda item: item[0])]


def by_error(groups: Sequence[Group]) -> list[Group]:
    """Of every way the group with the least error at the end; those that learned nothing are left out."""
    return _best(groups, lambda group: group.error)


def by_time(groups: Sequence[Group]) -> list[Group]:
    """Of every way the group that came to the target first, in virtual time; those that never did are left out."""
    return _best(groups, lambda group: group.to_target()[1])


def _best(groups: Sequence[Group], cost: Callable[[Group], float]) -> list[Group]:
    best: dict[Way, Group] = {}
    for group in groups:
        if math.isfinite(cost(group)) and (group.way not in best or cost(group) < cost(best[group.way])):
            best[group.way] = group
    return list(best.values())
