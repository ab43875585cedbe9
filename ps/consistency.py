"""Consistency: when a worker may go on, and which gradients form one update. It is the ledger's gate.

    async       a worker goes on at once; every gradient is an update
    bounded     stale synchronous: a worker at clock c waits while c - c_min > s, over the clocks of all living workers;
                s = 0 keeps all of them in one round. The bound is on the slowest worker's clock, not on how often one
                pulls: a worker that had to wait pulls again before it computes
    softsync    n-softsync: an update is the mean of c = floor(W / n) gradients, whoever they are from; staleness is
                about n, and here at most 2 n: an update waits while a gradient still out would be later than that
    sync        an update is the mean of W gradients, all taken at the same version
    backup      likewise of the first W - b of a round; the b late ones are granted again, so that no example is lost

A warm start lets one worker alone compute the first leases of async and bounded runs. A ramp lets a few workers begin
an async run, and the others join them as the share of the leases that are left falls:

    workers at work = begin / share left            all W from the moment on where that is W

How late a gradient may be is bounded by staleness x rate x curvature. A schedule that brings the rate to 0 leaves room
for more workers the further it has come: with a linear one staleness x rate stays where `begin` workers put it.

Sources: Ho et al. 2013 (bounded); Zhang, Gupta, Lian, Liu 2016 (softsync, where 2 n is measured and not enforced); Chen
et al. 2016 (backup); Dean et al. 2012 (warm start); the ramp is ours, after Smith et al. 2018 (a larger batch in place
of a smaller rate).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from dataclasses import dataclass

from ps.errors import BadInput, nearest, require
from ps.rounds import RoundRule, Rounds
from ps.staging import Staging

CONSISTENCIES = ("async", "bounded", "softsync", "sync", "backup")
_IN_ROUNDS = ("softsync", "sync", "backup")


class Gate:
    """Async: whoever asks may go on. The base of the others, which say where they differ."""

    @property
    def position(self) -> object:
        """Where the gate stands: as long as this stays the same, whoever it held up is held up still."""
        return None

    def entered(self, worker: int) -> None:
        """A worker is there. Told once for each."""

    def left(self, worker: int) -> None:
        """A worker is lost."""

    def finished(self, worker: int) -> None:
        """A worker has done what it was granted."""

    def opens(self, worker: int) -> bool:
        """Whether this worker, which asks for a lease, may go on now."""
        return True


class Bounded(Gate):
    """Bounded staleness. A worker's clock counts what it has finished.

    A worker that joins starts at the least clock, so it holds nobody up; one that is lost leaves the minimum.
    """

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._clocks: dict[int, int] = {}
        self._at: Counter[int] = Counter()  # clock -> workers that show it
        self._least = 0

    @property
    def position(self) -> object:
        return self._least

    def entered(self, worker: int) -> None:
        self._clocks[worker] = self._least
        self._at[self._least] += 1

    def left(self, worker: int) -> None:
        if (clock := self._clocks.pop(worker, None)) is not None:
            self._leave(clock)

    def finished(self, worker: int) -> None:
        clock = self._clocks[worker]
        self._clocks[worker] = clock + 1
        self._at[clock + 1] += 1
        self._leave(clock)

    def opens(self, worker: int) -> bool:
        return self._clocks[worker] - self._least <= self._bound

    def _leave(self, clock: int) -> None:
        """A worker shows this clock no longer. The least one may rise to the next that somebody shows."""
        self._at[clock] -= 1
        while self._clocks and not self._at[self._least]:
            del self._at[self._least]
            self._least += 1


class WarmStart(Gate):
    """One worker alone until so many leases are finished; then what `inner` says, whose clocks begin there."""

    def __init__(self, leases: int, inner: Gate) -> None:
        self._left = leases
        self._inner = inner
        self._alone: int | None = None

    @property
    def position(self) -> object:
        return self._left > 0, self._alone, self._inner.position

    def entered(self, worker: int) -> None:
        self._inner.entered(worker)

    def left(self, worker: int) -> None:
        self._inner.left(worker)
        if worker == self._alone:
            self._alone = None

    def finished(self, worker: int) -> None:
        if self._left:
            self._left -= 1
        else:
            self._inner.finished(worker)

    def opens(self, worker: int) -> bool:
        if not self._left:
            return self._inner.opens(worker)
        if self._alone is None:
            self._alone = worker
        return worker == self._alone


class Ramp(Gate):
    """A few workers begin, and more follow the fewer leases are left.

    Those that come first are spread over the ids, since neighbours share a machine or a process.
    """

    def __init__(self, begin: int, leases: int) -> None:
        self._begin = begin
        self._leases = leases
        self._finished = 0
        self._order: list[int] = []  # every worker's place, least first
        self._lost = 0

    @property
    def position(self) -> object:
        return self._lost, -(-self._begin * self._leases // self._left)

    @property
    def _left(self) -> int:
        return max(1, self._leases - self._finished)

    def entered(self, worker: int) -> None:
        insort(self._order, _place(worker))

    def left(self, worker: int) -> None:
        place = _place(worker)
        if (rank := bisect_left(self._order, place)) < len(self._order) and self._order[rank] == place:
            del self._order[rank]
            self._lost += 1

    def finished(self, worker: int) -> None:
        self._finished += 1

    def opens(self, worker: int) -> bool:
        return bisect_left(self._order, _place(worker)) * self._left < self._begin * self._leases


def _place(worker: int) -> int:
    """Where among all workers this one's turn to begin comes: ids bit-reversed, so that any first few are far apart."""
    return int(f"{worker:064b}"[::-1], 2)


@dataclass(frozen=True, slots=True)
class ConsistencySettings:
    """What a user chooses about consistency; the head of this file explains the kinds.

    Attributes:
        kind: One of CONSISTENCIES.
        bound: s of bounded.
        split: n of softsync: updates that W gradients make.
        backups: b of backup.
        warm_leases: async and bounded only: leases that one worker computes alone at the start.
        begin: async only: workers that begin, where the others follow as the run goes on; 0: all begin.

    Raises:
        BadInput: A setting is out of its range, or the kind is unknown.
    """

    kind: str = "async"
    bound: int = 4
    split: int = 1
    backups: int = 1
    warm_leases: int = 0
    begin: int = 0

    def __post_init__(self) -> None:
        require(
            self.kind in CONSISTENCIES,
            "consistency.kind",
            self.kind,
            f"one of {', '.join(CONSISTENCIES)}{nearest(self.kind, CONSISTENCIES)}",
        )
        require(self.bound >= 0, "consistency.bound", self.bound, "0 or more clock ticks")
        require(self.split >= 1, "consistency.split", self.split, "at least 1")
        require(self.backups >= 0, "consistency.backups", self.backups, "0 or more workers")
        require(self.warm_leases >= 0, "consistency.warm_leases", self.warm_leases, "0 or more leases")
        require(self.begin >= 0, "consistency.begin", self.begin, "0 (all begin) or more workers")

    def check(self, workers: int) -> None:
        """Raise BadInput if so many workers cannot keep to it."""
        if self.kind == "softsync":
            require(self.split <= workers, "consistency.split", self.split, f"at most the number of workers, {workers}")
        if self.kind == "backup":
            expected = f"fewer than the number of workers, {workers}"
            require(self.backups < workers, "consistency.backups", self.backups, expected)
        if self.warm_leases and self.in_rounds:
            raise BadInput(
                f"consistency.warm_leases: got {self.warm_leases} with {self.kind}, expected 0: "
                "only async and bounded have a warm start"
            )
        if self.begin and (self.kind != "async" or self.warm_leases):
            mode = self.kind if self.kind != "async" else f"{self.warm_leases} warm leases"
            raise BadInput(f"consistency.begin: got {self.begin} with {mode}, expected 0: only async has a ramp")

    @property
    def in_rounds(self) -> bool:
        """Whether gradients wait at the shards until the ledger closes a round."""
        return self.kind in _IN_ROUNDS

    def mean_staleness(self, workers: int) -> int:
        """What the mean staleness comes to, in updates."""
        match self.kind:
            case "softsync":
                return min(self.split, workers - 1)
            case "sync" | "backup":
                return 0
            case _:
                return workers - 1

    def staleness_at_first(self, workers: int) -> int:
        """Likewise at first, while a ramp lets only a few workers work."""
        return self.mean_staleness(min(self.begin or workers, workers))

    def gradients(self, workers: int) -> int:
        """Gradients in one update."""
        rule = self._rule(workers)
        return 1 if rule is None else rule.size

    def staging(self, workers: int) -> Staging | None:
        """Where a shard's gradients wait for their round; None where each is applied at once."""
        rule = self._rule(workers)
        return None if rule is None else Staging(rule.limit)

    def gate(self, leases: int) -> Gate:
        """The ledger's gate, before the first worker. `leases`: of the whole run."""
        if self.begin:
            return Ramp(self.begin, leases)
        gate = Bounded(self.bound) if self.kind == "bounded" else Gate()
        return WarmStart(self.warm_leases, gate) if self.warm_leases else gate

    def rounds(self, workers: int, shards: int) -> Rounds | None:
        """The ledger's rounds, before the first; None where every gradient is an update of its own."""
        rule = self._rule(workers)
        return None if rule is None else Rounds(rule, shards)

    def _rule(self, workers: int) -> RoundRule | None:
        match self.kind:
            case "softsync":
                size, limit = workers // self.split, 2 * self.split
                return RoundRule(size, in_work=limit * size, limit=limit)  # no more, so that all can keep to the limit
            case "sync":
                return RoundRule(size=workers, in_work=workers, limit=0)
            case "backup":
                return RoundRule(size=workers - self.backups, in_work=workers, limit=0)
            case _:
                return None
