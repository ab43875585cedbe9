"""Ledger: which lease goes to whom, and which are done. It makes every example of every epoch count exactly once.

    handle(now, message) -> outbox        is the only mutator, but for `recall` before the first message

A lease is granted, then finished, or it comes back (late, lost, failed) and is granted again with the next attempt,
after the shards were asked who has it. A worker that asks when nothing is to be had waits in line, and is answered when
a lease comes back or the run ends; nothing in here blocks. Knows no clock and no network: time enters as `now`, and an
expiry is a Tick like any other message.

When a worker may go on, and which gradients form one update, is decided by ps.consistency. Where gradients are applied
in rounds, a lease that every shard has staged is finished when its round is closed. Who had to wait pulls again.

A shard that lost its memory says what it still has: finished leases that it lacks are granted again. What a worker or a
shard said of an earlier incarnation is not believed. A ledger that lost its own memory reads its journal (`recall`) and
asks the shards what they have (`rejoin`); it grants nothing before all have answered.

A run that is to be cut into another number of shards is brought to rest first: nothing is granted that never was, what
came back is (in rounds: only what a shard makes up for), and when every shard has the same leases it is over.

A lease whose gradient was not finite goes to another worker, at the versions that this one pulls. If it fails there too
(or, with no other worker, once more), the run has diverged. If not, the first one is to blame and gets no lease any
more.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from itertools import count
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from ps.book import NOBODY, LeaseBook, Outstanding
from ps.consistency import ConsistencySettings
from ps.errors import require
from ps.inquiries import Inquiries
from ps.intervals import IntervalSet
from ps.journal import (
    LeaseDiscarded,
    LeaseFailed,
    LeaseFinished,
    LeaseGranted,
    LeaseReturned,
    LedgerOpened,
    LedgerStopped,
    PairParted,
    Record,
    RoundOrdered,
    ShardRejoined,
    WorkerLeft,
    WorkerQuarantined,
)
from ps.losses import Finish, Losses
from ps.messages import (
    JOURNAL,
    Address,
    Claim,
    Discarded,
    Failed,
    Finished,
    Granted,
    Has,
    Inventory,
    Message,
    NextLease,
    NoMoreLeases,
    Role,
    RoundClosed,
    Stop,
    TakeInventory,
    Tick,
    WorkerLost,
)
from ps.pairs import Pairs
from ps.rounds import StagedLease

if TYPE_CHECKING:
    from ps.leases import LeasePlan
    from ps.shard import Outbox


LARGEST_WORKER = (1 << 31) - 1  # id, also of one that joins: the next one fits every message
_OF_A_WORKER = (NextLease, WorkerLost)
_TO_A_WORKER = Role.WORKER  # looked up in its Enum it takes twice as long


class Ending(Enum):
    """Why no more leases are granted."""

    COMPLETED = "completed"
    SIGNAL = "signal"
    TARGET = "target"
    TIME = "time"
    DIVERGED = "diverged"
    FAILED = "failed"
    AT_REST = "at rest"


@dataclass(frozen=True, slots=True)
class LedgerSettings:
    """How patient the ledger is.

    Attributes:
        lease_seconds: A lease not finished after this long is looked after (a lost worker's at once).
        max_attempts: Grants of one lease before the run is given up.
    """

    lease_seconds: float = 300.0
    max_attempts: int = 5

    def __post_init__(self) -> None:
        require(self.lease_seconds > 0, "ledger.lease_seconds", self.lease_seconds, "a positive number of seconds")
        require(self.max_attempts >= 1, "ledger.max_attempts", self.max_attempts, "at least 1")


class LedgerStatus(Struct, frozen=True):
    """What the ledger tells about the run. `loss`: mean main loss of the last leases, at most an epoch's, or NaN;
    `recent_auxiliary`: of the newest leases, per auxiliary head; `next_worker`: the least id that no worker has had;
    `quarantined`: workers that get no lease any more.
    """

    leases: int
    granted: int
    finished: int
    reissued: int
    outstanding: int
    samples: int
    skipped: int
    workers: int
    loss: float
    recent_loss: float
    recent_error: float
    ending: str
    message: str
    recent_auxiliary: tuple[float, ...] = ()
    next_worker: int = 0
    quarantined: tuple[int, ...] = ()


@dataclass(slots=True)
class _Worker:
    """One logical worker. Invariant: waiting implies lease is None.

    `version`: that it pulled before it asked; `asked`: at which of the ledger's messages.
    """

    number: int = -1
    version: int = 0
    asked: int = 0
    waiting: bool = False
    answer: Granted | NoMoreLeases | None = None
    lease: int | None = None


class Ledger:
    """The ledger's state machine.

    Args:
        plan: The run's leases.
        shards: Shards in the run, each asked before a lease is granted again.
        settings: Patience.
        workers: Logical workers 0..workers-1 that will ask; others may join under ids of their own.
        consistency: When they may go on; by default at once.
        resting: Bring the run to rest.
    """

    def __init__(
        self,
        plan: LeasePlan,
        shards: int,
        settings: LedgerSettings,
        workers: int,
        consistency: ConsistencySettings | None = None,
        resting: bool = False,
    ) -> None:
        self._plan = plan
        self._shards = shards
        self._expected = workers
        self._lost_workers: set[int] = set()  # their ids are never used again
        self._quarantined: list[int] = []  # those of them that were sent away
        self._settings = settings
        self._resting = resting
        consistency = consistency or ConsistencySettings()
        self._gate = consistency.gate(plan.leases)
        for worker in range(workers):
            self._gate.entered(worker)
        self._rounds = consistency.rounds(workers, shards)
        self._messages = 0
        self._book = LeaseBook(plan)
        self._workers: dict[int, _Worker] = {}
        self._line: deque[int] = deque()  # workers in waiting, longest first
        self._held_up: list[int] = []  # likewise: those that the gate held up when it stood there
        self._gate_stood: object = None
        self._inquiries = Inquiries(shards)
        self._numbers = count(1)  # of what the shards are asked and told
        self._incarnations = [0] * shards
        self._pairs = Pairs()
        self._unheard: dict[int, tuple[int, float]] = {}  # shard asked for its inventory -> number, deadline
        self._redo: set[int] = set()  # leases of closed rounds that some shard lost
        self._losses = Losses(plan.leases_per_epoch)
        self._granted = self._reissued = self._samples = 0
        self._skipped: dict[int, int] = {}  # lease -> its unreadable examples, if there are any
        self._ending: Ending | None = None
        self._message = ""

    def opened(self, now: float) -> LedgerOpened:
        """The record that opens the ledger's journal."""
        plan = self._plan
        return LedgerOpened(
            now, self._expected, self._shards, plan.examples, plan.batch_size, plan.epochs, plan.seed, plan.batches
        )

    def status(self) -> LedgerStatus:
        book = self._book
        return LedgerStatus(
            leases=self._plan.leases,
            granted=self._granted,
            finished=len(book.finished),
            reissued=self._reissued,
            outstanding=len(book.outstanding) + len(book.returned) + (0 if self._rounds is None else len(self._rounds)),
            samples=self._samples,
            skipped=sum(self._skipped.values()),
            workers=len(self._workers),
            loss=self._losses.mean,
            recent_loss=self._losses.recent_mean,
            recent_error=self._losses.recent_error,
            recent_auxiliary=self._losses.recent_auxiliary,
            ending=self._ending.value if self._ending else "",
            message=self._message,
            next_worker=1 + max((self._expected - 1, *self._workers, *self._lost_workers)),
            quarantined=tuple(self._quarantined),
        )

    @property
    def workers(self) -> list[int]:
        """Workers that are not lost, whether they have asked yet or not; joiners count once they have."""
        return sorted({*range(self._expected), *self._workers} - self._lost_workers)

    @property
    def _living(self) -> int:
        return len(self.workers)

    def handle(self, now: float, message: Message) -> Outbox:
        """Take in one message; return what goes out because of it, the journal's records first."""
        if isinstance(message, _OF_A_WORKER) and not 0 <= message.worker <= LARGEST_WORKER:
            raise ValueError(f"ledger: got worker {message.worker}, expected 0 to {LARGEST_WORKER}")
        out: Outbox = []
        self._messages += 1
        match message:
            case NextLease():
                self._next(now, message, out)
            case WorkerLost():
                self._lost(now, message.worker, out)
            case Tick():
                self._tick(now, out)
            case Has():
                self._answered(now, message, out)
            case RoundClosed():
                self._round_closed(now, message, out)
            case Inventory():
                self._took_inventory(now, message, out)
            case Claim():
                self._claimed(now, message, out)
            case Stop():
                self._stop(now, Ending(message.reason), "", out)
            case _:
                raise TypeError(
                    f"ledger got {type(message).__name__}: "
                    "it handles NextLease, WorkerLost, Tick, Has, RoundClosed, Inventory, Claim and Stop"
                )
        if self._rounds is not None:
            self._close_round(now, out)
        self._serve(now, out)
        return sorted(out, key=_after_the_journal) if len(out) > 1 else out

    # --- what workers say --------------------------------------------------------------------------------------------

    def _check(self, done: Finished) -> None:
        """Raise ValueError if that many examples cannot be."""
        if not 0 <= done.lease < self._plan.leases:
            return  # it is ignored
        count = self._plan.count(done.lease)
        if not (0 <= done.errors <= count and 0 <= done.skipped <= count):
            raise ValueError(
                f"ledger: got {done.errors} errors and {done.skipped} skipped examples of lease {done.lease}, "
                f"expected 0 to {count} of each"
            )

    def _next(self, now: float, message: NextLease, out: Outbox) -> None:
        if isinstance(message.outcome, Finished):
            self._check(message.outcome)
        if message.worker in self._lost_workers:  # a zombie: nothing waits for it, and nothing is waited for
            answer = NoMoreLeases(message.number, Ending.FAILED.value)
            out.append((Address(Role.WORKER, message.worker), answer))
            return
        worker = self._joined(message.worker)
        if message.number == worker.number:  # a retry: the same answer, or the same place in line
            if worker.answer:
                out.append((Address(Role.WORKER, message.worker), worker.answer))
            return
        if message.number < worker.number:
            return
        held = worker.lease
        worker.number, worker.answer = message.number, None
        worker.version, worker.asked = message.version, self._messages
        match message.outcome:
            case Finished() as done:
                self._done(now, message.worker, done, out)
            case Failed() as failed:
                self._fail(now, message.worker, failed, out)
            case Discarded() as discarded:
                self._discard(now, message.worker, discarded, out)
        worker.lease = None
        if held is not None and self._book.holder(held) == message.worker:
            self._inquire(now, [held], out)  # it came back without a word about what it held
        if not worker.waiting:
            worker.waiting = True
            self._line.append(message.worker)

    def _joined(self, id: int) -> _Worker:
        if (worker := self._workers.get(id)) is None:
            if id >= self._expected:
                self._gate.entered(id)
            worker = self._workers[id] = _Worker()
        return worker

    def _done(self, now: float, worker: int, done: Finished, out: Outbox) -> None:
        """Every shard has the lease: it is finished, or waits for its round. Unless a shard has lost it since."""
        if self._workers[worker].lease == done.lease:  # once per grant, also if the ledger lost its memory meanwhile
            self._gate.finished(worker)
        if not 0 <= done.lease < self._book.ungranted or done.lease in self._book.finished:
            return
        if any(self._incarnations) and self._lost_since(done):
            if self._book.holds(worker, done.lease, done.attempt):
                self._inquire(now, [done.lease], out, blameless=True)
            return
        for suspect in self._book.not_finite.get(done.lease, ()):
            if suspect != worker:
                self._quarantine(now, suspect, done.lease, out)
        word = StagedLease(worker, done.lease, done.attempt, done.loss, done.errors, done.skipped, 0, done.auxiliary)
        self._arrived(now, word, out)

    def _lost_since(self, done: Finished) -> bool:
        """Whether a shard has lost its memory since it said that it has the lease."""
        told = dict(enumerate(done.incarnations))
        return any(told.get(shard, 0) < known for shard, known in enumerate(self._incarnations))

    def _arrived(self, now: float, done: StagedLease, out: Outbox) -> None:
        """Every shard has the lease's gradient, applied or staged."""
        if self._rounds is None:
            self._finish(now, done, out)
            return
        lease = self._book.outstanding.get(done.lease)
        if self._rounds.made_up(done):
            self._book.settle(done.lease)
        elif done.lease in self._redo:  # its round was made up for, as an earlier ledger said
            self._finish(now, done, out)
        elif done.lease not in self._rounds:
            if not self._rounds.rule.keeps and (lease is None or lease.attempt != done.attempt):
                return  # its round was closed without it
            self._book.settle(done.lease)
            self._rounds.stage(replace(done, read=lease.read if lease else 0))
        else:
            self._book.settle(done.lease)  # it waits for its round already

    def _finish(self, now: float, done: StagedLease, out: Outbox) -> None:
        """Every shard has applied the lease."""
        self._book.settle(done.lease)
        samples = self._plan.count(done.lease)
        record = LeaseFinished(
            now, done.worker, done.lease, done.attempt, samples, done.loss, done.errors, done.skipped, done.auxiliary
        )
        self._count(record)
        out.append((JOURNAL, record))

    def _count(self, record: LeaseFinished) -> None:
        self._redo.discard(record.lease)
        if not self._book.finished.add(record.lease):
            return
        self._samples += record.samples
        if record.skipped:
            self._skipped[record.lease] = record.skipped
        if record.worker >= 0:
            self._losses.add(Finish(record.samples - record.skipped, record.loss, record.auxiliary, record.errors))

    def _discard(self, now: float, worker: int, discarded: Discarded, out: Outbox) -> None:
        """Nothing is wrong with the lease: that it was late does not count among its attempts."""
        if self._book.holds(worker, discarded.lease, discarded.attempt) is None:
            return
        out.append((JOURNAL, LeaseDiscarded(now, worker, discarded.lease, discarded.attempt)))
        self._inquire(now, [discarded.lease], out, blameless=True)

    def _fail(self, now: float, worker: int, failed: Failed, out: Outbox) -> None:
        if (lease := self._book.holds(worker, failed.lease, failed.attempt)) is None:
            return
        out.append((JOURNAL, LeaseFailed(now, worker, failed.lease, failed.attempt, failed.finite, failed.reason)))
        if not failed.finite:
            seen_by = self._book.not_finite.setdefault(failed.lease, set())
            again = worker in seen_by
            seen_by.add(worker)
            if len(seen_by) > 1 or again:
                self._stop(now, Ending.DIVERGED, failed.reason, out)
                return
        lease.reason = failed.reason
        self._inquire(now, [failed.lease], out)

    def _quarantine(self, now: float, worker: int, lease: int, out: Outbox) -> None:
        """What it found not finite, another did not. The last worker stays."""
        if worker in self._lost_workers or self._living == 1:
            return
        out.append((JOURNAL, WorkerQuarantined(now, worker, lease)))
        self._quarantined.append(worker)
        if (state := self._workers.get(worker)) is not None and state.waiting:
            self._answer(worker, NoMoreLeases(state.number, Ending.FAILED.value), out)
        self._lost(now, worker, out)

    # --- what the driver says ----------------------------------------------------------------------------------------

    def _lost(self, now: float, worker: int, out: Outbox) -> None:
        if worker not in self._lost_workers:
            out.append((JOURNAL, WorkerLeft(now, worker)))
        self._leave(worker)
        self._inquire(now, self._book.held_by(worker), out)

    def _leave(self, worker: int) -> None:
        self._lost_workers.add(worker)
        self._workers.pop(worker, None)
        self._gate.left(worker)
        for line in (self._line, self._held_up):
            if worker in line:
                line.remove(worker)

    def _tick(self, now: float, out: Outbox) -> None:
        outstanding = self._book.outstanding
        self._inquire(now, [id for id, held in outstanding.items() if not held.inquiry and held.deadline <= now], out)
        deadline = now + self._settings.lease_seconds
        out += self._inquiries.late(now, deadline)
        if self._rounds is not None and not self._unheard:
            out += self._rounds.late(now, deadline)
        self._ask_for_inventory(now, [shard for shard, (_, late) in self._unheard.items() if late <= now], out)

    def _stop(self, now: float, ending: Ending, message: str, out: Outbox) -> None:
        if self._ending is None:
            self._ending, self._message = ending, message
            out.append((JOURNAL, LedgerStopped(now, ending.value)))

    # --- leases that come back ---------------------------------------------------------------------------------------

    def _inquire(self, now: float, leases: list[int], out: Outbox, blameless: bool = False) -> None:
        if not leases:
            return
        number = next(self._numbers)
        for id in leases:
            lease = self._book.outstanding[id]
            lease.inquiry, lease.blameless = number, lease.blameless or blameless
        out += self._inquiries.ask(number, leases, now + self._settings.lease_seconds)

    def _answered(self, now: float, message: Has, out: Outbox) -> None:
        if not self._believed(message):
            return
        for id, everywhere in self._inquiries.answered(message).items():
            lease = self._book.outstanding.get(id)
            if lease is None or lease.inquiry != message.number:
                continue  # finished meanwhile, by word of its worker
            if everywhere:
                self._arrived(now, StagedLease(-1, id, lease.attempt, math.nan, 0, 0, lease.read), out)
            else:
                self._return(now, id, out)

    def _believed(self, message: Has | RoundClosed) -> bool:
        """Whether this is the word of a shard as it is now, and not of what it lost since."""
        return 0 <= message.shard < self._shards and message.incarnation == self._incarnations[message.shard]

    def _return(self, now: float, id: int, out: Outbox, blameless: bool = False) -> None:
        """The lease will be granted again."""
        reason = lease.reason if (lease := self._book.outstanding.get(id)) else ""
        out.append((JOURNAL, LeaseReturned(now, id, self._book.attempt(id))))
        attempts = self._book.give_back(id, blameless)
        if attempts >= self._settings.max_attempts:
            text = f"lease {id} was granted {attempts} times and never finished"
            self._stop(now, Ending.FAILED, f"{text}: {reason or 'late, or its workers were lost'}", out)

    # --- memory that was lost ----------------------------------------------------------------------------------------

    def _took_inventory(self, now: float, message: Inventory, out: Outbox) -> None:
        """A shard says all that it has. Raises ValueError, before any change, if that is no set of leases."""
        shard = message.shard
        if not 0 <= shard < self._shards or message.incarnation < self._incarnations[shard]:
            return
        came_back = message.incarnation > self._incarnations[shard]
        asked = self._unheard.get(shard, (0, 0.0))[0]
        if not came_back and (not message.number or message.number != asked):
            return  # it is known already
        applied = IntervalSet.of_bounds(message.applied)
        self._unheard.pop(shard, None)
        if came_back:
            self._incarnations[shard] = message.incarnation
            out.append((JOURNAL, ShardRejoined(now, shard, message.incarnation, message.version)))
        book = self._book
        missing = [id for id in applied.missing(book.ungranted) if id in book.finished or id in self._redo]
        for id in missing:
            self._unfinish(id)
        again = missing
        if self._rounds is not None:
            self._redo.update(missing)
            again = self._rounds.lost(shard, message.version, missing, message.staged)
            for id in set(missing).difference(again):
                if not self._rounds.lacks(id):  # it waits on all shards, for the round that is made up for
                    self._rounds.made_up(StagedLease(-1, id, book.attempt(id), math.nan, 0, 0, 0))
                    book.settle(id)
            for done in self._rounds.done():
                self._finish(now, done, out)
        for id in again:
            if id not in book.outstanding and id not in book.returned:
                self._return(now, id, out, blameless=True)
        if (self._ending is Ending.COMPLETED and not book.complete) or self._ending is Ending.AT_REST:
            self._ending = None
            for worker in self._told:
                self._lost(now, worker, out)
        out += self._inquiries.again(shard)

    def _claimed(self, now: float, claim: Claim, out: Outbox) -> None:
        """One of a shard and its standby asks to go on without the other. Raises ValueError for no shard of the run."""
        if not 0 <= claim.shard < self._shards:
            raise ValueError(f"ledger: got a claim of shard {claim.shard}, expected 0 to {self._shards - 1}")
        out += self._pairs.ruled(now, claim, self._incarnations[claim.shard])

    @property
    def _told(self) -> list[int]:
        """Workers that know of an end: they have gone, and if the run goes on after all nothing may wait for them."""
        return [id for id, worker in self._workers.items() if isinstance(worker.answer, NoMoreLeases)]

    def _unfinish(self, id: int) -> bool:
        """Some shard lacks this lease; return whether it was finished."""
        if not self._book.finished.discard(id):
            return False
        self._samples -= self._plan.count(id)
        self._skipped.pop(id, None)
        return True

    def recall(self, records: Iterable[Record]) -> None:
        """Remember what an earlier ledger of this run wrote down. Whom it had not answered asks again."""
        opened = cut = 0
        for record in records:
            match record:
                case LedgerOpened():
                    opened += 1
                    if record.resumed:
                        self._ending = None
                    if record.cut > cut or opened == 1:
                        cut, self._incarnations, self._pairs = record.cut, [0] * record.shards, Pairs()
                case LeaseGranted():
                    self._recall_grant(record)
                case LeaseFinished():
                    self._recall_finish(record)
                case LeaseFailed() | LeaseDiscarded():
                    self._recall_trouble(record)
                case LeaseReturned():
                    if self._unfinish(record.lease) and self._rounds is not None:
                        self._redo.add(record.lease)
                    self._book.give_back(record.lease, blameless=record.lease not in self._book.outstanding)
                    if self._ending is Ending.COMPLETED:
                        self._ending = None
                        for id in self._told:
                            self._leave(id)
                case RoundOrdered():
                    self._recall_round(record)
                case WorkerLeft():
                    self._leave(record.worker)
                case WorkerQuarantined():
                    self._quarantined.append(record.worker)
                case ShardRejoined():
                    self._incarnations[record.shard] = record.incarnation
                case PairParted():
                    self._pairs.recall(record)
                case LedgerStopped():
                    self._ending = Ending(record.reason)
                    for worker in self._workers.values():  # each was told, for all that is known, until it asks again
                        worker.answer = NoMoreLeases(worker.number, record.reason)
        self._numbers = count((opened << 32) + 1)  # what an earlier ledger asked is not answered to this one

    def _recall_grant(self, record: LeaseGranted) -> None:
        read = 0 if self._rounds is None else self._rounds.count
        for id in self._book.held_by(record.worker):  # it said something of them that was not written down
            self._book.outstanding[id].worker = NOBODY
        self._book.granted(record.lease, record.attempt, record.worker, record.deadline, read)
        self._granted += 1
        self._reissued += record.attempt > 0
        if record.worker in self._lost_workers:
            return
        worker = self._joined(record.worker)
        worker.number, worker.lease = record.number, record.lease
        lease = self._plan.lease(record.lease, record.attempt, record.deadline)
        worker.answer = Granted(record.number, lease, pull=True)

    def _recall_finish(self, record: LeaseFinished) -> None:
        self._book.settle(record.lease)
        self._count(record)
        worker = self._workers.get(record.worker)
        if worker is not None and worker.lease == record.lease:
            worker.lease = None
            self._gate.finished(record.worker)
        if self._rounds is not None:
            self._rounds.recall_finished(record.lease)

    def _recall_trouble(self, record: LeaseFailed | LeaseDiscarded) -> None:
        """Its holder has nothing to say of it any more: the shards will be asked."""
        if (lease := self._book.outstanding.get(record.lease)) is None or lease.attempt != record.attempt:
            return
        lease.worker = NOBODY
        lease.blameless = isinstance(record, LeaseDiscarded)
        if isinstance(record, LeaseFailed):
            lease.reason = record.reason
            if not record.finite:
                self._book.not_finite.setdefault(record.lease, set()).add(record.worker)
        if (worker := self._workers.get(record.worker)) is not None and worker.lease == record.lease:
            worker.lease = None

    def _recall_round(self, record: RoundOrdered) -> None:
        assert self._rounds is not None, "rounds are ordered only where there are some"
        leases = []
        for id in record.leases:
            held = self._book.settle(id) or Outstanding(self._book.attempt(id), NOBODY, 0.0, 0)
            leases.append(StagedLease(-1, id, held.attempt, math.nan, 0, 0, held.read))
        self._rounds.recall(record.round, leases, record.keep)

    def resume(self, now: float) -> Outbox:
        """What a ledger says whose run was over and is taken up again: as `rejoin`; and all workers are lost."""
        self._ending, self._message = None, ""
        out = self.rejoin(now)
        for worker in self.workers:
            self._lost(now, worker, out)
        return sorted(out, key=_after_the_journal)

    def rejoin(self, now: float) -> Outbox:
        """What a ledger that came back says: it asks the shards for all that they have, and after leases that nobody
        holds any more.
        """
        out: Outbox = []
        self._ask_for_inventory(now, range(self._shards), out)
        living = set(self.workers)
        orphans = [id for id, lease in self._book.outstanding.items() if lease.worker not in living]
        self._inquire(now, orphans, out)
        return out

    def _ask_for_inventory(self, now: float, shards: Iterable[int], out: Outbox) -> None:
        for shard in shards:
            number = next(self._numbers)
            self._unheard[shard] = number, now + self._settings.lease_seconds
            out.append((Address(Role.SHARD, shard), TakeInventory(number)))

    # --- rounds ------------------------------------------------------------------------------------------------------

    def _close_round(self, now: float, out: Outbox) -> None:
        """Tell the shards to close the next round, if it is due. What it comes too late for is granted again."""
        if self._rounds is None or self._unheard:
            return
        deadline = now + self._settings.lease_seconds
        out += self._rounds.orders(self._numbers, deadline)
        if self._resting:
            return
        book = self._book
        more = self._ending is None and bool(book.outstanding or book.to_grant)
        leases = self._rounds.due([lease.read for lease in book.outstanding.values()], last=not more)
        if not leases:
            return
        keep = self._rounds.rule.keeps or self._ending is not None
        order = self._rounds.close(next(self._numbers), leases, deadline, keep)
        out.append((JOURNAL, RoundOrdered(now, order.round, leases, keep)))
        out += [(Address(Role.SHARD, shard), order) for shard in range(self._shards)]
        if keep:
            return
        late = [(id, lease.attempt, lease.worker) for id, lease in book.outstanding.items()]
        late += [(staged.lease, staged.attempt, staged.worker) for staged in self._rounds.drop()]
        for id, attempt, worker in late:
            out.append((JOURNAL, LeaseDiscarded(now, worker, id, attempt)))
            self._return(now, id, out, blameless=True)

    def _round_closed(self, now: float, message: RoundClosed, out: Outbox) -> None:
        if self._rounds is not None and self._believed(message):
            for done in self._rounds.closed(message):
                self._finish(now, done, out)

    # --- granting ----------------------------------------------------------------------------------------------------

    def _serve(self, now: float, out: Outbox) -> None:
        """Answer workers in line, longest first, as far as there is an answer."""
        if self._ending is None and self._book.complete and not self._unheard:
            self._stop(now, Ending.COMPLETED, "", out)
        if self._ending is None and self._resting and self._at_rest:
            self._stop(now, Ending.AT_REST, "", out)
        if self._gate.position != self._gate_stood:
            self._gate_stood = self._gate.position
            self._release()
        if self._ending is not None:
            self._release()
            while self._line:
                worker = self._line.popleft()
                self._answer(worker, NoMoreLeases(self._workers[worker].number, self._ending.value), out)
            return
        if self._unheard:
            return
        if self._line:
            self._serve_line(now, False, out)
        if self._held_up and self._book.returned and not self._book.outstanding:
            self._serve_line(now, True, out)  # whoever else could look at what came back waits for these

    @property
    def _at_rest(self) -> bool:
        """Whether every shard has the same leases, as far as is known."""
        if self._unheard or self._book.outstanding:
            return False
        return not self._book.returned if self._rounds is None else self._rounds.at_rest

    def _release(self) -> None:
        """Who was held up is asked again."""
        if self._held_up:
            self._line = deque(sorted([*self._held_up, *self._line], key=lambda worker: self._workers[worker].asked))
            self._held_up.clear()

    def _serve_line(self, now: float, again: bool, out: Outbox) -> None:
        """Grant what may be granted. `again`: also what the worker found not finite."""
        kept = 0
        for _ in range(len(self._line)):
            full = self._rounds is not None and not self._rounds.may_grant(len(self._book.outstanding))
            if full or not self._book.to_grant:
                self._line.rotate(kept)  # those who had their turn are longest in line still
                return
            worker = self._line.popleft()
            if not self._gate.opens(worker):
                self._held_up.append(worker)
            elif (found := self._take(worker, again)) is None:
                self._line.append(worker)  # a whole turn keeps the order
                kept += 1
            else:
                self._grant(now, worker, found, out)

    def _take(self, worker: int, again: bool) -> int | None:
        """The next lease for this worker: returned ones first, but none that it found not finite if others can look."""
        wanted = None if self._rounds is None else self._rounds.wanted
        if wanted is None and self._resting and self._rounds is not None:
            wanted = set()
        fresh = wanted is None and not self._resting
        if not self._book.returned:
            return self._book.take_fresh() if fresh else None

        def suits(id: int) -> bool:
            may_look = again or worker not in self._book.not_finite.get(id, ()) or self._living == 1
            return may_look and (wanted is None or id in wanted)

        found = self._book.take_returned(suits)
        return self._book.take_fresh() if found is None and fresh else found

    def _grant(self, now: float, worker: int, id: int, out: Outbox) -> None:
        deadline = now + self._settings.lease_seconds
        state = self._workers[worker]
        waited = state.asked != self._messages
        pull = waited or (self._rounds is not None and self._rounds.outdated(state.version))
        read = self._rounds.count if pull and self._rounds is not None else state.version
        attempt = self._book.grant(id, worker, deadline, read)
        self._granted += 1
        self._reissued += attempt > 0
        number = state.number
        state.lease = id
        out.append((JOURNAL, LeaseGranted(now, worker, number, id, attempt, deadline)))
        self._answer(worker, Granted(number, self._plan.lease(id, attempt, deadline), pull), out)

    def _answer(self, worker: int, answer: Granted | NoMoreLeases, out: Outbox) -> None:
        state = self._workers[worker]
        state.answer, state.waiting = answer, False
        out.append((Address(_TO_A_WORKER, worker), answer))


def _after_the_journal(item: tuple[Address, object]) -> bool:
    return item[0] is not JOURNAL
