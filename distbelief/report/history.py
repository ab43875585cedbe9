"""History: what a run's journals say about its course: losses and throughput over time, staleness and time by worker.

summary.json has the sums; what cannot be told from sums is read here, in one pass, and counted as there: what a shard
applied and lost again, or a lease that was finished and came back, does not count.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from distbelief.summary import NOBODY, Account
from distbelief.timing import PARTS
from ps.journal import (
    Arithmetic,
    LeaseGranted,
    LedgerOpened,
    Record,
    WorkerTimed,
)


@dataclass(frozen=True, slots=True)
class Finished:
    """A lease that every shard has. Loss in nats per example, NaN if not known; errors: wrong answers in training."""

    now: float
    samples: int
    loss: float
    errors: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """A piece of the course.

    Attributes:
        seconds: Its middle, since the run's start.
        samples: Examples applied until its end.
        loss, error: Means over its examples; NaN if none is known.
        images_per_second: Over its length.
    """

    seconds: float
    samples: int
    loss: float
    error: float
    images_per_second: float


@dataclass(slots=True)
class History:
    """What the journals of a run say. Times on the clock that they were written by.

    Attributes:
        opened: When the ledger began; None in a run that never did.
        finished: In the order in which the ledger heard of them.
        by_shard, by_worker: Staleness in updates to how often.
        seconds: Per worker, by what they went into, as WorkerTimed names it.
        timed: Per worker, the leases that they went into.
        granted: Per worker, leases.
        arithmetic: Per actor, what decided its bits.
    """

    opened: float | None = None
    finished: list[Finished] = field(default_factory=list)
    by_shard: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    by_worker: dict[int, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    seconds: dict[int, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    timed: Counter[int] = field(default_factory=Counter)
    granted: Counter[int] = field(default_factory=Counter)
    arithmetic: dict[str, Arithmetic] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> History:
        """Read a run's journals. Raises JournalDamaged if one is."""
        history = cls()
        account = Account.of(folder, history._add)
        for each in account.finished.values():
            history.finished.append(Finished(each.now, each.samples - each.skipped, each.loss, each.errors))
        for (actor, _), versions in account.history.items():
            for made in versions:
                history.by_shard[actor].update(made.staleness)
                for worker, staleness in zip(made.workers, made.staleness, strict=True):
                    if worker != NOBODY:
                        history.by_worker[worker][staleness] += 1
        return history

    def _add(self, actor: str, record: Record) -> None:
        match record:
            case LedgerOpened() if self.opened is None:
                self.opened = record.now
            case LeaseGranted():
                self.granted[record.worker] += 1
            case WorkerTimed():
                self.timed[record.worker] += 1
                for name in PARTS:
                    self.seconds[record.worker][name] += getattr(record, f"{name}_seconds")
            case Arithmetic():
                self.arithmetic[actor] = record

    def course(self, began: float, stretches: int) -> list[Stretch]:
        """The run in so many pieces of equal length in time, those without a finished lease left out.

        Args:
            began: The run's start, on the journals' clock.
        """
        if not self.finished:
            return []
        first, last = self.finished[0].now, self.finished[-1].now
        length = (last - first) / stretches or 1.0
        found, samples, start = [], 0, 0
        times = [each.now for each in self.finished]
        for piece in range(stretches):
            until = first + (piece + 1) * length
            stop = len(times) if piece == stretches - 1 else bisect_left(times, until)
            part = self.finished[start:stop]
            start = stop
            if not part:
                continue
            samples += sum(each.samples for each in part)
            known = [each for each in part if math.isfinite(each.loss) and each.samples]
            count = sum(each.samples for each in known)
            loss = sum(each.loss * each.samples for each in known) / count if count else math.nan
            error = sum(each.errors for each in known) / count if count else math.nan
            speed = sum(each.samples for each in part) / length
            found.append(Stretch(until - length / 2 - began, samples, loss, error, speed))
        return found
