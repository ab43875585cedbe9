"""Harness: several ways of doing one thing, measured in turn, so that a noisy machine is noisy for all of them.

One round measures every side once; every other round in reverse order, so that a steady drift favours nobody. What is
said of a side is the median over the rounds, with the lowest and the highest; what is said of two sides is the ratio
within a round, which the noise that both had in common has left.

Knows nothing of what it measures: a side is called and says how many it did per second.
"""

from __future__ import annotations

import json
import sys
import time  # noqa: TID251 -- measuring is what this is for
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from ps.errors import require

PAIRS = 7  # rounds that a figure worth telling rests on

Side = Callable[[], float]  # does its work once or many times; returns how many (images, exchanges, ...) per second


@dataclass(frozen=True, slots=True)
class Spread:
    """Several measurements of one thing."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(median(values), min(values), max(values))

    def as_json(self) -> dict[str, float]:
        """Four significant digits: no measurement here has more."""
        values = {"median": self.median, "min": self.lowest, "max": self.highest}
        return {name: float(f"{value:.4g}") for name, value in values.items()}


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a bench found.

    Attributes:
        rates: By side, in the order given; one rate per round.
        reference: The side that all others are compared with.
    """

    rates: Mapping[str, tuple[float, ...]]
    reference: str

    @property
    def rounds(self) -> int:
        return len(self.rates[self.reference])

    def rate(self, side: str) -> Spread:
        """Of the side's rates."""
        return Spread.of(self.rates[side])

    def ratio(self, side: str, to: str = "") -> Spread:
        """Of the side's rate over another's (the reference's) in the same round."""
        others = self.rates[to or self.reference]
        return Spread.of([one / other for one, other in zip(self.rates[side], others, strict=True)])

    def as_json(self) -> dict[str, Any]:
        """Per side its `rate` and `ratio`, each a `median`, `min` and `max`."""
        sides = {side: {"rate": self.rate(side).as_json(), "ratio": self.ratio(side).as_json()} for side in self.rates}
        return {"reference": self.reference, "rounds": self.rounds, "sides": sides}

    def table(self, title: str, unit: str) -> Table:
        """For a person. `unit`: what is counted per second."""
        table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="cyan")
        table.add_column("")
        for head in (f"{unit}/s", "from", "to", f"x {self.reference}", "from", "to"):
            table.add_column(head, justify="right")
        for side in self.rates:
            row = [_digits(value) for spread in (self.rate(side), self.ratio(side)) for value in _values(spread)]
            table.add_row(side, *(row[:3] if side == self.reference else row))
        table.caption = f"medians of {self.rounds} rounds in alternation, with the lowest and the highest"
        table.caption_justify = "left"
        return table


def compare(
    sides: Mapping[str, Side],
    reference: str,
    pairs: int = PAIRS,
    progress: Callable[[int, int], None] = lambda done, all: None,
) -> Comparison:
    """Measure all sides in alternation, after one round that warms them up and is thrown away.

    Args:
        sides: By name. Called on this thread, one at a time.
        reference: The one that the others are compared with.
        pairs: Rounds.
        progress: Told how many of all measurements are done.

    Raises:
        BadInput: Fewer than one round.
    """
    require(pairs >= 1, "pairs", pairs, "at least 1")
    rates: dict[str, list[float]] = {side: [] for side in sides}
    done, all = 0, (pairs + 1) * len(sides)
    for number in range(pairs + 1):
        for side in list(sides)[:: -1 if number % 2 else 1]:
            rates[side].append(sides[side]())
            done += 1
            progress(done, all)
    return Comparison({side: tuple(measured[1:]) for side, measured in rates.items()}, reference)


def repeating(
    work: Callable[[], object], units: float, seconds: float, clock: Callable[[], float] = time.perf_counter
) -> Side:
    """A side that repeats `work`, worth `units` each time, until so many seconds have passed, and at least once."""

    def measure() -> float:
        began, times = clock(), 0
        while (spent := clock() - began) < seconds or times == 0:
            work()
            times += 1
        return times * units / spent

    return measure


@contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar for `compare`, on stderr; nothing where stderr is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    console = Console(file=sys.stderr)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what)
        yield lambda done, all: progress.update(task, completed=done, total=all)


def tell(found: Mapping[str, Any], table: Table, as_json: bool) -> None:
    """Print what a bench found, as one JSON object or as a table."""
    if as_json:
        print(json.dumps(found, allow_nan=False))
    else:
        Console(highlight=False).print(table)


def _values(spread: Spread) -> tuple[float, float, float]:
    return spread.median, spread.lowest, spread.highest


def _digits(value: float) -> str:
    """About three significant digits, never in powers of ten."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
