"""Averager: the Polyak average that is evaluated, defined over versions k, 2k, 3k, ... of each shard.

    exponential:   a <- d a + (1 - d) w      read as a / (1 - d^n), so that the start at zero leaves no trace
    uniform:       a <- a + (w - a) / n      over the versions from `start` on

`handle` is the only mutator, but for `recall` before the first message; no clock, no I/O. A version counts once: after
a shard's restore it repeats versions that were averaged already.

Source: Polyak and Juditsky 1992 (uniform); Szegedy et al. 2014, section 6 (its window is not published); bias
correction: Kingma and Ba 2015, section 3. Shape suffix: N = parameters held by one shard.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from msgspec import Struct

from ps.errors import nearest, require
from ps.journal import AveragerOpened, AveragerSaved, SampleAveraged
from ps.messages import JOURNAL, Address, Message, Read, ReadDone, Role, Sample, SampleTaken
from ps.states import AveragerState, SliceState, Stretch

if TYPE_CHECKING:
    from torch import Tensor

    from ps.shard import Outbox

KINDS = ("exponential", "uniform")


@dataclass(frozen=True, slots=True)
class AverageSettings:
    """Which average.

    Attributes:
        kind: "exponential" or "uniform".
        every: k: updates between two versions that count.
        decay: d of the exponential average, per version that counts; 0 chooses the decay whose window is `window` of
            the whole run.
        window: Share of the run's updates that the exponential average looks back on (mean age), used while `decay` is
            0.
        start: First version that the uniform average counts, as a share of the run's updates.
    """

    kind: str = "exponential"
    every: int = 4
    decay: float = 0.0
    window: float = 0.05
    start: float = 0.5

    def __post_init__(self) -> None:
        require(self.kind in KINDS, "average.kind", self.kind, f"one of {', '.join(KINDS)}{nearest(self.kind, KINDS)}")
        require(self.every >= 1, "average.every", self.every, "at least 1 update")
        require(0 <= self.decay < 1, "average.decay", self.decay, "0 (then average.window decides) or a value below 1")
        require(0 < self.window <= 1, "average.window", self.window, "a share of the run above 0, at most 1")
        require(0 <= self.start < 1, "average.start", self.start, "a share of the run from 0, below 1")

    def decay_for(self, updates: int) -> float:
        """The decay per counted version in a run of so many updates: as given, or a mean age of `window` x updates."""
        if self.decay:
            return self.decay
        return 1.0 - 1.0 / max(2.0, self.window * updates / self.every)


class AveragerStatus(Struct, frozen=True):
    """Per shard: the newest version averaged and how many were (the least of its elements)."""

    versions: tuple[int, ...]
    counts: tuple[int, ...]


@dataclass(slots=True)
class _Slice:
    """One shard's part. Invariant: of each stretch `count` versions up to `version` are in a_N; it is zero while that
    is 0. There are several only where shards that had skipped different versions were cut anew.
    """

    a_N: Tensor
    version: int
    stretches: tuple[Stretch, ...]

    @property
    def count(self) -> int:
        """Versions that are in all of it."""
        return min((stretch.count for stretch in self.stretches), default=0)


class Averager:
    """The averager's state machine.

    Args:
        elements: Parameters of each shard.
        settings: Which average.
        updates: Updates of the whole run, from which window and start are reckoned.
    """

    def __init__(self, elements: tuple[int, ...], settings: AverageSettings, updates: int) -> None:
        self._slices = [_Slice(torch.zeros(n), 0, (Stretch(0, n, 0),)) for n in elements]
        self._exponential = settings.kind == "exponential"
        self._decay = settings.decay_for(updates)
        self._start = int(settings.start * updates)

    def status(self) -> AveragerStatus:
        return AveragerStatus(tuple(s.version for s in self._slices), tuple(s.count for s in self._slices))

    def state(self) -> AveragerState:
        """What it remembers, copied."""
        return AveragerState(tuple(SliceState(s.a_N.clone(), s.version, s.stretches) for s in self._slices))

    def recall(self, state: AveragerState) -> None:
        """Take up what `state` wrote down, in place of all that came since."""
        for shard, part in enumerate(state.slices):
            self.recall_slice(shard, part)

    def recall_slice(self, shard: int, part: SliceState) -> None:
        """Likewise of one shard alone: they share nothing."""
        self._slices[shard] = _Slice(part.a_N.clone(), part.version, part.stretches)

    def opened(self, now: float, snapshot: int = 0, cut: int = 0) -> AveragerOpened:
        """The record that opens the averager's journal. `snapshot`: what it came back from; 0: it begins; `cut`: how
        often the parameters were cut anew.
        """
        return AveragerOpened(now, snapshot, cut)

    def saved(self, now: float, snapshot: int) -> AveragerSaved:
        """The record that says where in its journal the averager's state became this snapshot."""
        return AveragerSaved(now, snapshot)

    def handle(self, now: float, message: Message) -> Outbox:
        """Take in one message; return what goes out because of it, the journal's records first."""
        match message:
            case Sample():
                counted = self._count(message)
                taken = SampleTaken(message.shard, message.incarnation, message.version)
                record = SampleAveraged(now, message.shard, message.incarnation, message.version, counted)
                return [(JOURNAL, record), (Address(Role.SHARD, message.shard), taken)]
            case Read():
                part = self._slices[message.shard]
                for stretch in part.stretches:
                    correction = 1.0 - self._decay**stretch.count if self._exponential and stretch.count else 1.0
                    here = slice(stretch.start, stretch.stop)
                    torch.div(part.a_N[here], correction, out=message.out_N[here])
                return [(message.reader, ReadDone(message.number, message.shard, part.version, part.count))]
            case _:
                raise TypeError(f"averager got {type(message).__name__}: it handles Sample and Read")

    def _count(self, sample: Sample) -> bool:
        part = self._slices[sample.shard]
        if sample.version <= part.version:
            return False
        part.version = sample.version
        if not self._exponential and sample.version < self._start:
            return False
        part.stretches = tuple(replace(stretch, count=stretch.count + 1) for stretch in part.stretches)
        for stretch in part.stretches:
            share = 1.0 - self._decay if self._exponential else 1.0 / stretch.count
            here = slice(stretch.start, stretch.stop)
            part.a_N[here].lerp_(sample.weights_N[here], share)
        return True
