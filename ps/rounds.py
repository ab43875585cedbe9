"""Rounds: which staged gradients become one update. The ledger's book of them; the shards hold the gradients.

A round is closed by the ledger alone, with a list of leases that every shard has staged, and the next one only after
every shard has closed it. In between nobody is granted a lease: whoever asks then pulls again, and reads the result.

A shard that lost its memory makes up for the rounds that it lost, one after the other, before there is another round:
the leases in them are granted again, to be staged there (the other shards have them), and it alone is told to close.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, pairwise

from msgspec import Struct

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


class StagedLease(Struct, frozen=True):
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


@dataclass(slots=True)
class _MakingUp:
    """The rounds that one shard has to make up for. Invariant: there is at least one.

    Attributes:
        version: The shard's, before the first of them.
        held: Leases whose gradients wait on it.
        order: What it was told, once it holds all of the first round.
    """

    version: int
    rounds: deque[tuple[int, ...]]
    held: set[int]
    order: CloseRound | None = None
    deadline: float = 0.0

    @property
    def lacking(self) -> set[int]:
        return set(self.rounds[0]) - self.held

    def __contains__(self, lease: int) -> bool:
        return any(lease in leases for leases in self.rounds)


class Rounds:
    """The book. `count` rounds are closed on every shard that has not lost some, so no other's version is below it.

    Invariant: a lease is staged, or in the round that is being closed, or neither.
    """

    def __init__(self, rule: RoundRule, shards: int) -> None:
        self.rule = rule
        self._shards = shards
        self.count = 0
        self._staged: dict[int, StagedLease] = {}  # in the order of arrival
        self._closing: _Closing | None = None
        self._behind: dict[int, _MakingUp] = {}  # by shard
        self._made: dict[int, StagedLease] = {}  # again on every shard, and some has to make up for its round

    def __contains__(self, lease: int) -> bool:
        closing = self._closing.leases if self._closing else ()
        return lease in self._staged or lease in self._made or any(lease == each.lease for each in closing)

    def __len__(self) -> int:
        """Leases that wait for their round to be closed."""
        return len(self._staged) + len(self._made) + (len(self._closing.leases) if self._closing else 0)

    @property
    def at_rest(self) -> bool:
        """Whether every shard has closed the same rounds, and none is told to close another."""
        return not self._behind and self._closing is None and not self._made

    def stage(self, lease: StagedLease) -> None:
        """Every shard has this lease's gradient."""
        self._staged[lease.lease] = lease

    def may_grant(self, in_work: int) -> bool:
        """Whether another lease may be granted beside so many that are. While a shard makes up for what it lost: one of
        `wanted`.
        """
        if self._behind:
            return True
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
        if (
            self._behind
            or self._closing is not None
            or not self._staged
            or (len(self._staged) < self.rule.size and not last)
        ):
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

    def recall(self, round: int, leases: Iterable[StagedLease], keep: bool) -> None:
        """It is known that the shards were told to close this round, and not yet that all did."""
        waiting = list(leases)
        order = CloseRound(0, round, tuple(each.lease for each in waiting), self.rule.size, keep)
        self.count = round - 1
        self._closing = _Closing(order, waiting, 0.0)

    def recall_finished(self, lease: int) -> None:
        """It is known that every shard has applied this lease: with the others of its round."""
        if self._closing is not None and lease in self._closing.order.leases:
            self.count, self._closing = self._closing.order.round, None

    def drop(self) -> list[StagedLease]:
        """Forget what is staged, as the shards do that were told not to keep it; return it."""
        dropped = list(self._staged.values())
        self._staged.clear()
        return dropped

    def closed(self, message: RoundClosed) -> list[StagedLease]:
        """A shard has closed a round; return the leases that are done by that: if it is the last one, the round's."""
        behind = self._behind.get(message.shard)
        if behind is not None and behind.order is not None and behind.order.number == message.number:
            return self._caught_up(message.shard, behind)
        closing = self._closing
        if closing is None or closing.order.number != message.number or not 0 <= message.shard < self._shards:
            return []
        closing.closed.add(message.shard)
        return self.done()

    def done(self) -> list[StagedLease]:
        """The leases that every shard has applied by now: those that no shard has to make up for any more, and those of
        the round that is being closed, if every shard has closed it.
        """
        made = [lease for lease in self._made if not any(lease in each for each in self._behind.values())]
        leases = [self._made.pop(lease) for lease in made]
        closing = self._closing
        if closing is None or self._behind or len(closing.closed) < self._shards:
            return leases
        self._closing = None
        self.count += 1
        return leases + closing.leases

    def late(self, now: float, deadline: float) -> list[tuple[Address, CloseRound]]:
        """The messages to shards that have not closed the round in time."""
        again = []
        for shard, behind in self._behind.items():
            if behind.order is not None and behind.deadline <= now:
                behind.deadline = deadline
                again.append((Address(Role.SHARD, shard), behind.order))
        closing = self._closing
        if closing is None or closing.deadline > now:
            return again
        closing.deadline = deadline
        silent = [shard for shard in range(self._shards) if shard not in closing.closed and shard not in self._behind]
        return [*again, *((Address(Role.SHARD, shard), closing.order) for shard in silent)]

    # --- a shard that lost its memory --------------------------------------------------------------------------------

    @property
    def wanted(self) -> set[int] | None:
        """The leases that some shard lacks for the next round that it makes up for; None if no shard does."""
        return set().union(*(each.lacking for each in self._behind.values())) if self._behind else None

    def lost(self, shard: int, version: int, missing: Iterable[int], staged: Iterable[int]) -> list[int]:
        """A shard says what it has. Return the leases that have to be granted again, for this shard to have them.

        Args:
            version: Rounds that it has closed.
            missing: Leases of closed rounds that it has not.
            staged: Leases whose gradients wait on it.
        """
        held = set(staged)
        gone = [lease for lease in [*self._staged, *self._made] if lease not in held]
        rounds = _cut(sorted(missing), self.count - version)
        if (closing := self._closing) is not None:
            closing.closed.discard(shard)
            if version > self.count:
                closing.closed.add(shard)
            else:
                rounds.append(closing.order.leases)
        self._behind.pop(shard, None)
        if rounds:
            self._behind[shard] = _MakingUp(version, deque(rounds), held)
        needed = set(chain.from_iterable(rounds)) - held
        again = [lease for lease in gone if lease in self._staged or lease in needed]
        for lease in again:
            self._staged.pop(lease, None)
            self._made.pop(lease, None)
        return sorted({*again, *needed})

    def lacks(self, lease: int) -> bool:
        """Whether some shard has not the gradient of this lease, for a round that it makes up for."""
        return any(lease in each and lease not in each.held for each in self._behind.values())

    def made_up(self, done: StagedLease) -> bool:
        """Every shard has this lease's gradient, applied or staged; return whether some was making up for it."""
        behind = [each for each in self._behind.values() if done.lease in each]
        for each in behind:
            each.held.add(done.lease)
        if behind and not (self._closing is not None and done.lease in self._closing.order.leases):
            self._made[done.lease] = done
        return bool(behind)

    def orders(self, numbers: Iterator[int], deadline: float) -> list[tuple[Address, CloseRound]]:
        """What shards that are behind are told now."""
        told = []
        for shard, each in self._behind.items():
            if each.order is None and not each.lacking:
                each.order = CloseRound(next(numbers), each.version + 1, each.rounds[0], self.rule.size, keep=True)
                each.deadline = deadline
                told.append((Address(Role.SHARD, shard), each.order))
        return told

    def _caught_up(self, shard: int, behind: _MakingUp) -> list[StagedLease]:
        """A shard has made up for a round; return the leases that are done by that."""
        behind.rounds.popleft()
        behind.version += 1
        behind.order = None
        if not behind.rounds:
            del self._behind[shard]
            if self._closing is not None:
                self._closing.closed.add(shard)
        return self.done()


def _cut(leases: list[int], parts: int) -> list[tuple[int, ...]]:
    """The leases in so many rounds, as even as can be."""
    cuts = [len(leases) * part // parts for part in range(parts + 1)] if parts else [0]
    return [tuple(leases[start:stop]) for start, stop in pairwise(cuts)]
