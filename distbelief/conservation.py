"""Conservation of staleness: a law that every asynchronous run obeys, whatever its timing, checked from its journals.

    sum of tau over the applied updates + ages of the pulls that were never applied
        = sum over the updates of the other pulls then open

Staleness tau is from the shards' journals; the pulls are from the workers': when each was opened and closed, in the
shard's versions. So the two sides agree only if what shards count is what workers lived through. With W workers that
have one gradient in flight each, the right side is (W - 1) x updates: hence a mean staleness of W - 1.

It is not decided for runs in rounds, for programs whose pushes may come from an older pull, where a shard went back to
a snapshot (its versions repeat), and where the end of a worker's journal was lost with its host.

Source: facts of queueing (Little's law, in updates instead of seconds); the form is ours.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from ps.journal import PushHandled, RoundApplied, ShardOpened, WorkerExchanged
from ps.messages import Outcome

Open = tuple[int, int]  # shard, worker: whose pull


@dataclass(slots=True)
class Conservation:
    """Adds up both sides. Records of worker hosts come before those of shards, each journal in its order.

    Attributes:
        updates, staleness: Per shard: updates, and the sum of their tau.
        others: Per shard: updates that pulls were open for which became one, the one that they became included.
    """

    updates: Counter[int] = field(default_factory=Counter)
    staleness: Counter[int] = field(default_factory=Counter)
    others: Counter[int] = field(default_factory=Counter)
    _opened: Counter[int] = field(default_factory=Counter)
    _read: dict[Open, int] = field(default_factory=dict)  # version that the newest pull read
    _silent: dict[Open, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    _in_doubt: set[Open] = field(default_factory=set)  # whose last pull became an update that it did not hear of
    _decidable: bool = True

    def add(self, shard: int, record: object) -> None:
        """Count one record. `shard`: whose journal it is from; anything for a host's."""
        match record:
            case WorkerExchanged():
                self._exchanged(record)
            case PushHandled(outcome=Outcome.APPLIED):
                self._applied(shard, record)
            case ShardOpened():
                self._opened[shard] += 1
            case RoundApplied():
                self._decidable = False

    def _exchanged(self, record: WorkerExchanged) -> None:
        """A worker's newest pull ends where its next one begins; whether it became an update, the outcome says."""
        who, version = (record.shard, record.worker), record.reading.version
        read = self._read.get(who)
        self._read[who] = version
        if read is None:
            return
        if record.outcome is Outcome.APPLIED and record.lease >= 0:
            self.others[record.shard] += version - read
        else:  # perhaps it did all the same, and only the answer was lost
            self._silent[who].append((read, version))

    def _applied(self, shard: int, record: PushHandled) -> None:
        self.updates[shard] += 1
        self.staleness[shard] += record.staleness
        who = (shard, record.worker)
        last = self._read.get(who)
        if last is None or (record.version > last and who in self._in_doubt):
            self._decidable = False  # the worker's journal lacks what came before
        elif record.version > last:
            self._in_doubt.add(who)
            self.others[shard] += record.version - last
        elif who in self._silent:
            spans = self._silent[who]
            at = bisect_left(spans, record.version, key=lambda span: span[1])
            if at < len(spans) and spans[at][0] < record.version:
                read, _ = spans.pop(at)
                self.others[shard] += record.version - read

    def verdict(self, newest: bool = True) -> dict[str, Any]:
        """For summary.json: all None where the law does not decide; the sums are over all shards.

        Args:
            newest: Whether every push comes from its worker's newest pull.
        """
        ages = Counter(dict.fromkeys(self.updates, 0))  # of the pulls that were never applied, at their end
        for (shard, _), spans in self._silent.items():
            ages[shard] += sum(end - read for read, end in spans)
        for who, read in self._read.items():
            if who not in self._in_doubt:
                ages[who[0]] += self.updates[who[0]] - read
        shards = list(self.updates)
        left = {shard: self.staleness[shard] + ages[shard] for shard in shards}
        right = {shard: self.others[shard] + ages[shard] - self.updates[shard] for shard in shards}
        once = all(self._opened[shard] <= 1 for shard in shards)
        decided = newest and self._decidable and once and bool(shards)
        if not decided:
            return {"holds": None, "staleness_and_ages": None, "others_open": None}
        return {
            "holds": left == right,
            "staleness_and_ages": sum(left.values()),
            "others_open": sum(right.values()),
        }


def complaint(verdict: dict[str, Any] | None) -> str:
    """One line about a broken law; empty if it holds or is not decided."""
    if not verdict or verdict.get("holds") is not False:
        return ""
    return (
        f"error: staleness is not conserved: shards count {verdict['staleness_and_ages']:,} updates, workers lived "
        f"through {verdict['others_open']:,}; what this run says of its staleness cannot be trusted: please report it"
    )
