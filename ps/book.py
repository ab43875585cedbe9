"""Book: where every lease is. The ledger's memory of them; what follows from it is the ledger's business.

    ungranted  ->  out  ->  (staged, in rounds: see ps.rounds)  ->  finished
                   |  ^                                                |
                   v  |                                                |
                 returned   <------------------------------------------+   a shard lost its memory

Every lease is in exactly one place. An attempt is never granted twice: it names one gradient.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from msgspec import Struct

from ps.intervals import IntervalSet
from ps.leases import LeasePlan

NOBODY = -1  # holds a lease that is being looked after


class Outstanding(Struct, gc=False):
    """A granted lease.

    Attributes:
        worker: Who holds it; NOBODY while it is looked after.
        read: The version that its gradient is computed from, or an earlier one.
        inquiry: Number of the inquiry it is part of, or 0.
        reason: Of its failure, for a person.
        blameless: It comes back for no fault of its own: that does not count among its attempts.
    """

    attempt: int
    worker: int
    deadline: float
    read: int
    inquiry: int = 0
    reason: str = ""
    blameless: bool = False


class LeaseBook:
    """The book.

    Attributes:
        ungranted: The first lease that was never granted; those after it were not either.
        returned: Leases that wait to be granted again, ascending.
        outstanding: By lease.
        not_finite: Lease to the workers that found its gradient not finite.
    """

    def __init__(self, plan: LeasePlan) -> None:
        self._leases = plan.leases
        self.ungranted = 0
        self.returned: list[int] = []
        self.outstanding: dict[int, Outstanding] = {}
        self.finished = IntervalSet()
        self.not_finite: dict[int, set[int]] = {}
        self._attempts: dict[int, int] = {}  # the newest of each lease that came back; 0 for all others
        self._tries: Counter[int] = Counter()  # grants of a lease that came to nothing, since it was finished last

    @property
    def to_grant(self) -> bool:
        """Whether any lease waits to be granted."""
        return bool(self.returned) or self.ungranted < self._leases

    @property
    def complete(self) -> bool:
        return len(self.finished) == self._leases

    def attempt(self, id: int) -> int:
        """The newest attempt of this lease."""
        return self._attempts.get(id, 0)

    def take_returned(self, suits: Callable[[int], bool]) -> int | None:
        """The first returned lease that suits, to be granted."""
        for position, id in enumerate(self.returned):
            if suits(id):
                del self.returned[position]
                return id
        return None

    def take_fresh(self) -> int | None:
        """The next lease that was never granted, to be granted."""
        if self.ungranted == self._leases:
            return None
        self.ungranted += 1
        return self.ungranted - 1

    def grant(self, id: int, worker: int, deadline: float, read: int) -> int:
        """A lease that was taken goes to this worker; return the attempt."""
        attempt = self.attempt(id)
        self.outstanding[id] = Outstanding(attempt, worker, deadline, read)
        return attempt

    def granted(self, id: int, attempt: int, worker: int, deadline: float, read: int) -> None:
        """It is known that this grant was made."""
        self.ungranted = max(self.ungranted, id + 1)
        if id in self.returned:
            self.returned.remove(id)
        if attempt:
            self._attempts[id] = attempt
        self.outstanding[id] = Outstanding(attempt, worker, deadline, read)

    def held_by(self, worker: int) -> list[int]:
        """The leases that this worker holds."""
        return [id for id, lease in self.outstanding.items() if lease.worker == worker and not lease.inquiry]

    def holder(self, id: int) -> int:
        """Who holds this lease; NOBODY if it is not out, or is looked after."""
        lease = self.outstanding.get(id)
        return NOBODY if lease is None or lease.inquiry else lease.worker

    def holds(self, worker: int, id: int, attempt: int) -> Outstanding | None:
        """The lease, if this worker holds this attempt of it."""
        lease = self.outstanding.get(id)
        if lease is None or lease.worker != worker or lease.attempt != attempt or lease.inquiry:
            return None
        return lease

    def settle(self, id: int) -> Outstanding | None:
        """The lease's gradient is on every shard: it is not out any more, nor waits to be granted again."""
        if id in self.returned:
            self.returned.remove(id)
        self.not_finite.pop(id, None)
        self._tries.pop(id, None)
        return self.outstanding.pop(id, None)

    def give_back(self, id: int, blameless: bool = False) -> int:
        """The lease will be granted again, wherever it was; return how often it came to nothing by some fault."""
        lease = self.outstanding.pop(id, None)
        self.finished.discard(id)
        self._attempts[id] = self.attempt(id) + 1
        if lease is not None and not lease.blameless and not blameless:
            self._tries[id] += 1
        if id not in self.returned:  # one that waited for its round leaves no word of that in a journal
            self.returned.append(id)
            self.returned.sort()
        return self._tries[id]
