"""Recording: a run's journals, arranged for whoever runs it again.

Shards share no state: each one's own order, with what every pull read, is all that a replay needs. The other journals
are witnesses: what was granted to whom, which loss a gradient had, what a worker was answered.

Where the parameters were cut anew, into another number of shards, a recording ends and another follows: no gradient
that was read before is applied after it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ps.errors import RunFailed
from ps.journal import (
    Arithmetic,
    AveragerOpened,
    AveragerSaved,
    LeaseFinished,
    LeaseGranted,
    LeaseReturned,
    LedgerOpened,
    PushHandled,
    Record,
    RoundApplied,
    SampleAveraged,
    ShardOpened,
    WorkerExchanged,
    WorkerTimed,
)
from ps.messages import Outcome, Reading
from ps.wire.files import SUFFIX, journals, read_journal

TAKEN = (Outcome.APPLIED, Outcome.STAGED)
Attempt = tuple[int, int]  # lease, attempt: what one gradient is computed for
Averaged = SampleAveraged | AveragerOpened | AveragerSaved


def openings(folder: Path) -> list[LedgerOpened]:
    """How a run's ledger began, and how it came back: at least one.

    Raises:
        RunFailed: The run never began.
        JournalDamaged: The ledger's journal is damaged.
    """
    path = folder / f"ledger{SUFFIX}"
    found = [record for record in (read_journal(path) if path.exists() else ()) if isinstance(record, LedgerOpened)]
    if not found:
        raise RunFailed(f"{folder}: got no ledger's journal with an opening record, expected one")
    return found


@dataclass(slots=True)
class Recording:
    """What the journals of one run say.

    Attributes:
        opened: The plan that leases were cut from.
        arithmetic: Per actor, what decided its bits.
        shards: Per shard, its records in order, until the parameters were cut anew.
        grants: Per lease and attempt, the worker that got it.
        finished: Per lease, what the ledger heard of it.
        averaged: Per shard, the averager's records in order, likewise: what it took in, and where it was saved and came
            back.
        exchanges: Per (worker, exchange, shard), the worker's side of it.
        compute_seconds: Per worker, how long its gradients took, in order.
        exchange_seconds: Of all workers, per lease; also while they computed.
        hosts: Worker hosts, each with one compute turn.
        after: What follows when the parameters were cut anew, with the same witnesses; None if they never were.
    """

    opened: LedgerOpened
    arithmetic: dict[str, Arithmetic] = field(default_factory=dict)
    shards: list[list[Record]] = field(default_factory=list)
    grants: dict[Attempt, int] = field(default_factory=dict)
    finished: dict[int, LeaseFinished] = field(default_factory=dict)
    averaged: dict[int, list[Averaged]] = field(default_factory=dict)
    exchanges: dict[tuple[int, int, int], WorkerExchanged] = field(default_factory=dict)
    compute_seconds: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    exchange_seconds: list[float] = field(default_factory=list)
    hosts: int = 0
    after: Recording | None = None

    @property
    def parts(self) -> list[Recording]:
        """This one and what follows, in order."""
        return [self, *(self.after.parts if self.after else ())]

    @property
    def simulated(self) -> bool:
        """Whether its times are virtual: they begin at 0."""
        return self.opened.now == 0.0

    @classmethod
    def read(cls, folder: Path) -> Recording:
        """Read the journals in this folder.

        Raises:
            RunFailed: One is missing, or the run never began.
            JournalDamaged: One is damaged before its end.
        """
        return cls.of({path.name.removesuffix(SUFFIX): list(read_journal(path)) for path in journals(folder)}, folder)

    @classmethod
    def of(cls, of: Mapping[str, list[Record]], folder: Path) -> Recording:
        """Arrange journals that were read already, by actor. Raises RunFailed, naming the folder, as `read` does."""
        openings = [record for record in of.get("ledger", ()) if isinstance(record, LedgerOpened)]
        if not openings:
            raise RunFailed(f"{folder}: got no ledger's journal with an opening record, expected one")
        witnesses = cls(openings[0])
        witnesses.hosts = sum(actor.startswith("host-") for actor in of)
        for actor, records in of.items():
            for record in records:
                witnesses._add(actor, record)
        cuts = {opened.cut: opened.shards for opened in openings}
        for shard in range(max(cuts.values())):
            if f"shard-{shard}" not in of:
                raise RunFailed(f"{folder}: got no journal of shard {shard}, expected one of every shard")
        found: Recording | None = None
        for cut, shards in sorted(cuts.items(), reverse=True):
            of_shards = [_of_cut(of[f"shard-{shard}"], cut) for shard in range(shards)]
            averaged = _by_shard(_of_cut(of.get("averager", []), cut), shards)
            found = replace(witnesses, shards=of_shards, averaged=averaged, after=found)
        assert found is not None, "it was opened at least once"
        return found

    def _add(self, actor: str, record: Record) -> None:
        match record:
            case Arithmetic():
                self.arithmetic[actor] = record
            case LeaseGranted():
                self.grants[record.lease, record.attempt] = record.worker
            case LeaseFinished():
                self.finished[record.lease] = record
            case LeaseReturned():
                self.finished.pop(record.lease, None)
            case WorkerExchanged():
                self.exchanges[record.worker, record.number, record.shard] = record
            case WorkerTimed():
                self.compute_seconds[record.worker].append(record.decode_seconds + record.compute_seconds)
                self.exchange_seconds.append(record.exchange_seconds + record.hidden_seconds)

    def taken(self, shard: int) -> list[PushHandled]:
        """The pushes whose gradient this shard took, at once or for a round, in order."""
        return [r for r in self.shards[shard] if isinstance(r, PushHandled) and r.outcome in TAKEN]

    def updates(self, shard: int) -> int:
        """How many updates this shard made."""
        records = self.shards[shard]
        applied = sum(isinstance(r, PushHandled) and r.outcome is Outcome.APPLIED for r in records)
        return applied + sum(isinstance(r, RoundApplied) for r in records)

    def held(self, shard: int) -> set[int]:
        """The leases that are on this shard: without what it applied and lost again."""
        made: list[tuple[int, ...]] = []
        begun: int | None = None  # the version that it has where this recording begins
        for record in self.shards[shard]:
            match record:
                case ShardOpened():
                    begun = record.version if begun is None else begun
                    del made[record.version - begun :]
                case PushHandled(outcome=Outcome.APPLIED):
                    made.append((record.lease,))
                case RoundApplied():
                    made.append(record.leases)
        return {lease for leases in made for lease in leases}

    @property
    def ends_at(self) -> int | None:
        """The version that every shard has where the parameters are cut anew; None if they never are."""
        opened = (record for record in self.after.shards[0] if isinstance(record, ShardOpened)) if self.after else ()
        return next((record.version for record in opened), None)

    def attempts(self) -> dict[Attempt, tuple[Reading, ...]]:
        """Per gradient that some shard took, what it was computed from; the first shard's word, if they differ."""
        found: dict[Attempt, tuple[Reading, ...]] = {}
        for shard in range(len(self.shards)):
            for push in self.taken(shard):
                found.setdefault((push.lease, push.attempt), push.read)
        return found


def _of_cut(records: Sequence[Record], cut: int) -> list[Record]:
    """What an actor recorded after the parameters had been cut anew so often, and before the next time."""
    found: list[Record] = []
    now = 0
    for record in records:
        if isinstance(record, ShardOpened | AveragerOpened):
            now = record.cut
        if now == cut:
            found.append(record)
    return found


def _by_shard(records: Sequence[Record], shards: int) -> dict[int, list[Averaged]]:
    """The averager's records on each shard."""
    found: dict[int, list[Averaged]] = {shard: [] for shard in range(shards)}
    for record in records:
        match record:
            case SampleAveraged():
                found[record.shard].append(record)
            case AveragerOpened() | AveragerSaved():
                for of_shard in found.values():
                    of_shard.append(record)
    return found
