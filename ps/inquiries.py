"""Inquiries: before a lease is granted again, every shard is asked whether it has it. The ledger's book of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ps.messages import Address, Has, Role, WhoHas


@dataclass(slots=True)
class _Inquiry:
    """A question to all shards. Invariant: answers holds each shard at most once, and not yet all of them."""

    leases: tuple[int, ...]
    deadline: float
    answers: dict[int, frozenset[int]] = field(default_factory=dict)


class Inquiries:
    """The open questions, by number.

    Args:
        shards: Shards in the run.
    """

    def __init__(self, shards: int) -> None:
        self._shards = shards
        self._open: dict[int, _Inquiry] = {}

    def __contains__(self, number: int) -> bool:
        return number in self._open

    def ask(self, number: int, leases: Iterable[int], deadline: float) -> list[tuple[Address, WhoHas]]:
        """The messages that ask all shards about these leases; they are asked again after the deadline."""
        inquiry = self._open[number] = _Inquiry(tuple(leases), deadline)
        return self._to(range(self._shards), number, inquiry)

    def late(self, now: float, deadline: float) -> list[tuple[Address, WhoHas]]:
        """The messages to shards that have not answered in time."""
        again = []
        for number, inquiry in self._open.items():
            if inquiry.deadline <= now:
                inquiry.deadline = deadline
                silent = [shard for shard in range(self._shards) if shard not in inquiry.answers]
                again += self._to(silent, number, inquiry)
        return again

    def again(self, shard: int) -> list[tuple[Address, WhoHas]]:
        """The messages that ask this shard everything once more: what it answered, it may have lost."""
        asked = []
        for number, inquiry in self._open.items():
            inquiry.answers.pop(shard, None)
            asked += self._to([shard], number, inquiry)
        return asked

    def answered(self, message: Has) -> dict[int, bool]:
        """With the last shard's answer: lease to whether every shard has it. Before it: nothing."""
        inquiry = self._open.get(message.number)
        if inquiry is None or not 0 <= message.shard < self._shards:
            return {}
        inquiry.answers[message.shard] = frozenset(message.leases)
        if len(inquiry.answers) < self._shards:
            return {}
        del self._open[message.number]
        everywhere = frozenset.intersection(*inquiry.answers.values())
        return {lease: lease in everywhere for lease in inquiry.leases}

    @staticmethod
    def _to(shards: Iterable[int], number: int, inquiry: _Inquiry) -> list[tuple[Address, WhoHas]]:
        return [(Address(Role.SHARD, shard), WhoHas(number, inquiry.leases)) for shard in shards]
