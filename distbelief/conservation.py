"""Conservation of staleness: a law that every asynchronous run obeys, whatever its timing, checked from its journals.

    sum of tau over the applied updates + ages of the pulls that were never applied
        = sum over the updates of the other pulls then open

Staleness tau is from the shards' journals; the pulls are from the workers': when each was opened and closed, in the
shard's versions. So the two sides agree only if what shards count is what workers lived through. With W workers that
have one gradient in flight each, the right side is (W - 1) x updates: hence a mean staleness of W - 1. Workers that
pull ahead have two pulls open, of which a push comes from the older one: there it is hardly less than (2 W - 1) x
updates.

It is not decided for runs in rounds, for programs whose pushes may come from an older pull, where a shard went back to
a snapshot (its versions repeat), and where the end of a worker's journal was lost with its host.

Source: facts of queueing (Little's law, in updates instead of seconds); the form is ours.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ps.journal import PushHandled, RoundApplied, ShardOpened, WorkerExchanged
from ps.messages import Outcome

Open = tuple[int, int]  # shard, worker: whose pull


class _Silent(NamedTuple):
    """A pull that became no update that its worker heard of. If it became one, that was number `since` + 1 to `until`.

    `read`: the version that it read.
    """

    since: int
    until: int
    read: int


@dataclass(slots=True)
class Conservation:
    """Adds up both sides. Records of worker hosts come before those of shards, each journal in its order.

    Attributes:
        updates, staleness: Per shard: updates, and the sum of their tau.
        others: Per shard: updates that pulls were open for which became one, the one that they became included.
        pulls: Of one worker, open at once: 1, where each exchange pulls; 2 where it pulls ahead, and pushes by itself.
    """

    pulls: int = 1
    updates: Counter[int] = field(default_factory=Counter)
    staleness: Counter[int] = field(default_factory=Counter)
    others: Counter[int] = field(default_factory=Counter)
    _opened: Counter[int] = field(default_factory=Counter)
    _open: dict[Open, list[int]] = field(default_factory=lambda: defaultdict(list))  # versions read, newest last
    _heard: dict[Open, int] = field(default_factory=dict)  # version that the newest exchange told
    _silent: dict[Open, list[_Silent]] = field(default_factory=lambda: defaultdict(list))
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
        """A worker's oldest pull ends with its push, or where there would be one too many; whether it became an update,
        the outcome says.
        """
        who, version = (record.shard, record.worker), record.reading.version
        opened, pushed = self._open[who], record.lease >= 0
        if len(opened) == self.pulls:
            read = opened.pop(0)
            if record.outcome is Outcome.APPLIED and pushed:
                self.others[record.shard] += version - read
            else:  # perhaps it did all the same, and only the answer was lost
                self._silent[who].append(_Silent(self._heard[who], version, read))
        if self.pulls == 1 or not pushed:
            opened.append(version)
        self._heard[who] = version

    def _applied(self, shard: int, record: PushHandled) -> None:
        self.updates[shard] += 1
        self.staleness[shard] += record.staleness
        who = (shard, record.worker)
        if record.version > self._heard.get(who, -1):  # it did not live to hear of it
            if len(opened := self._open[who]) == self.pulls:
                self.others[shard] += record.version - opened.pop(0)
            else:
                self._decidable = False  # the worker's journal lacks what came before
        elif who in self._silent:
            spans = self._silent[who]
            at = bisect_left(spans, record.version, key=lambda span: span.until)
            if at < len(spans) and spans[at].since < record.version:
                self.others[shard] += record.version - spans.pop(at).read

    def verdict(self, oldest: bool = True) -> dict[str, Any]:
        """For summary.json: all None where the law does not decide; the sums are over all shards.

        Args:
            oldest: Whether every push comes from the oldest pull that its worker has open.
        """
        ages = Counter(dict.fromkeys(self.updates, 0))  # of the pulls that were never applied, at their end
        for (shard, _), spans in self._silent.items():
            ages[shard] += sum(span.until - span.read for span in spans)
        for (shard, _), opened in self._open.items():
            ages[shard] += sum(self.updates[shard] - read for read in opened)
        shards = list(self.updates)
        left = {shard: self.staleness[shard] + ages[shard] for shard in shards}
        right = {shard: self.others[shard] + ages[shard] - self.updates[shard] for shard in shards}
        once = all(self._opened[shard] <= 1 for shard in shards)
        decided = oldest and self._decidable and once and bool(shards)
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
