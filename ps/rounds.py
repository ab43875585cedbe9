"""Rounds: which staged gradients become one update. The ledger's book of them; the shards hold the gradients.

A round is closed by the ledger alone, with a list of leases that every shard has staged, and the next one only after
every shard has closed it. In between nobody is granted a lease: whoever asks then pulls again, and reads the result.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ps.messages import Address, CloseRound, Role, RoundClosed


@dataclass(frozen=True, slots=True)
class RoundRule:
    """What makes a round.

    Attributes:
        size: Gradients in a round; their sum is divided by it, in a short last round too.
        in_work: Leases that may be granted or staged at once.
        limit: The greatest staleness. 0: the first `size` that come are the round, and the others are too late. Above
            0: those wait for the next one, and a round is put off while it would make one that is still out too late.
    """

    size: int
    in_work: int
    limit: int

    @property
    def keeps(self) -> bool:
        """Whether gradients that are left over stay for the next round."""
        return self.limit > 0


@dataclass(frozen=True, slots=True)
class StagedLease:
    """A lease whose gradient every shard has staged. `worker` and `loss` as in journal.LeaseFinished; `read`: the
    version under the gradient, as far as it is known.
    """

    worker: int
    lease: int
    attempt: int
    loss: float
    errors: int
    skipped: int
    read: int
    auxiliary: tuple[float, ...] = ()


@dataclass(slots=True)
class _Closing:
    """A round that shards were told to close. Invariant: `closed` is not yet all of them."""

    order: CloseRound
    leases: list[StagedLease]
    deadline: float
    closed: set[int] = field(default_factory=set)


class Rounds:
    """The book. `count` rounds are closed on every shard, so no shard's version is below it.

    Invariant: a lease is staged, or in the round that is being closed, or neither.
    """

    def __init__(self, rule: RoundRule, shards: int) -> None:
        self.rule = rule
        self._shards = shards
        self.count = 0
        self._staged: dict[int, StagedLease] = {}  # in the order of arrival
        self._closing: _Closing | None = None

    def __contains__(self, lease: int) -> bool:
        closing = self._closing.leases if self._closing else ()
        return lease in self._staged or any(lease == each.lease for each in closing)

    def __len__(self) -> int:
        """Leases that wait for their round to be closed."""
        return len(self._staged) + (len(self._closing.leases) if self._closing else 0)

    def stage(self, lease: StagedLease) -> None:
        """Every shard has this lease's gradient."""
        self._staged[lease.lease] = lease

    def may_grant(self, in_work: int) -> bool:
        """Whether another lease may be granted beside so many that are."""
        put_off = self.rule.keeps and len(self._staged) >= self.rule.size
        return self._closing is None and not put_off and in_work + len(self._staged) < self.rule.in_work

    def outdated(self, version: int) -> bool:
        """Whether a gradient at this version would be too late at once."""
        return not self.rule.keeps and version < self.count

    def due(self, reads: Iterable[int], last: bool) -> tuple[int, ...]:
        """The leases of the round that is to be closed now; none for no round.

        Args:
            reads: The versions under the gradients that are still out.
            last: Nothing more will come: a short round will do.
        """
        if self._closing is not None or not self._staged or (len(self._staged) < self.rule.size and not last):
            return ()
        waiting = list(self._staged.values())
        if self.rule.keeps:
            waiting.sort(key=lambda staged: staged.read)  # the oldest first; among equals the first that came
            if self._too_late([*reads], [staged.read for staged in waiting[self.rule.size :]]):
                return ()
        return tuple(sorted(staged.lease for staged in waiting[: self.rule.size]))

    def _too_late(self, out: list[int], staged: list[int]) -> bool:
        """Whether the next round would make a gradient that is still out later than the limit, even if all are applied
        oldest first from then on.

        Args:
            out, staged: The versions under the gradients that are not in the next round.
        """
        if not out:
            return False
        order = sorted([*((read, True) for read in out), *((read, False) for read in staged)])
        return any(
            is_out and self.count + 1 + place // self.rule.size - read > self.rule.limit
            for place, (read, is_out) in enumerate(order)
        )

    def close(self, number: int, leases: tuple[int, ...], deadline: float, keep: bool) -> CloseRound:
        """What the shards are told, in message `number`, and asked again after the deadline."""
        order = CloseRound(number, self.count + 1, leases, self.rule.size, keep)
        self._closing = _Closing(order, [self._staged.pop(lease) for lease in leases], deadline)
        return order

    def drop(self) -> list[StagedLease]:
        """Forget what is staged, as the shards do that were told not to keep it; return it."""
        dropped = list(self._staged.values())
        self._staged.clear()
        return dropped

    def closed(self, message: RoundClosed) -> list[StagedLease]:
        """A shard has closed a round; if it is the last one to do so, return the round's leases."""
        closing = self._closing
        if closing is None or closing.order.number != message.number or not 0 <= message.shard < self._shards:
            return []
        closing.closed.add(message.shard)
        if len(closing.closed) < self._shards:
            return []
        self._closing = None
        self.count += 1
        return closing.leases

    def late(self, now: float, deadline: float) -> list[tuple[Address, CloseRound]]:
        """The messages to shards that have not closed the round in time."""
        closing = self._closing
        if closing is None or closing.deadline > now:
            return []
        closing.deadline = deadline
        silent = [shard for shard in range(self._shards) if shard not in closing.closed]
        return [(Address(Role.SHARD, shard), closing.order) for shard in silent]
