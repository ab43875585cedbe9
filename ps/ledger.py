"""Ledger: which lease goes to whom, and which are done. It makes every example of every epoch count exactly once.

    handle(now, message) -> outbox        is the only mutator

A lease is granted, then finished, or it comes back (late, lost, failed) and is granted again with the next attempt,
after the shards were asked who has it. A worker that asks when nothing is to be had waits in line, and is answered when
a lease comes back or the run ends; nothing in here blocks. Knows no clock and no network: time enters as `now`, and an
expiry is a Tick like any other message.

When a worker may go on, and which gradients form one update, is decided by ps.consistency. Where gradients are applied
in rounds, a lease that every shard has staged is finished when its round is closed. Who had to wait pulls again.

A lease whose gradient was not finite goes to another worker, at the versions that this one pulls. If it fails there too
(or if there is no other worker), the run has diverged.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

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
    RoundOrdered,
)
from ps.messages import (
    JOURNAL,
    Address,
    Discarded,
    Failed,
    Finished,
    Granted,
    Has,
    Message,
    NextLease,
    NoMoreLeases,
    Role,
    RoundClosed,
    Stop,
    Tick,
    WorkerLost,
)
from ps.rounds import StagedLease

if TYPE_CHECKING:
    from ps.leases import LeasePlan
    from ps.shard import Outbox


class Ending(Enum):
    """Why no more leases are granted."""

    COMPLETED = "completed"
    SIGNAL = "signal"
    TARGET = "target"
    TIME = "time"
    DIVERGED = "diverged"
    FAILED = "failed"


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


@dataclass(frozen=True, slots=True)
class LedgerStatus:
    """What the ledger tells about the run. `loss`: mean main loss of the last leases, at most an epoch's, or NaN;
    `recent_auxiliary`: of the newest leases, per auxiliary head.
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


@dataclass(slots=True)
class _Outstanding:
    """A granted lease. `inquiry`: number of the inquiry it is part of (then nobody holds it any more), or 0; `read`:
    the version that its gradient is computed from, or an earlier one.
    """

    attempt: int
    worker: int
    deadline: float
    read: int
    inquiry: int = 0
    reason: str = ""  # of its failure, for a person


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


@dataclass(frozen=True, slots=True)
class _Finish:
    """What a finished lease said: mean losses and number of errors over so many examples."""

    examples: int
    loss: float
    auxiliary: tuple[float, ...]
    errors: int


RECENT_LEASES = 50  # that the live view's loss is the mean of


class Ledger:
    """The ledger's state machine.

    Args:
        plan: The run's leases.
        shards: Shards in the run, each asked before a lease is granted again.
        settings: Patience.
        workers: Logical workers 0..workers-1 that will ask; others may join under ids of their own.
        consistency: When they may go on; by default at once.
    """

    def __init__(
        self,
        plan: LeasePlan,
        shards: int,
        settings: LedgerSettings,
        workers: int,
        consistency: ConsistencySettings | None = None,
    ) -> None:
        self._plan = plan
        self._shards = shards
        self._expected = workers
        self._lost_workers: set[int] = set()  # their ids are never used again
        self._settings = settings
        consistency = consistency or ConsistencySettings()
        self._gate = consistency.gate()
        for worker in range(workers):
            self._gate.entered(worker)
        self._rounds = consistency.rounds(workers, shards)
        self._messages = 0
        self._next_id = 0
        self._returned: list[tuple[int, int]] = []  # (lease, next attempt), ascending
        self._outstanding: dict[int, _Outstanding] = {}
        self._finished = IntervalSet()
        self._workers: dict[int, _Worker] = {}
        self._line: deque[int] = deque()  # workers in waiting, longest first
        self._inquiries = Inquiries(shards)
        self._question = 0  # number of the last one that the shards were asked
        self._not_finite: dict[int, set[int]] = {}  # lease -> workers that found it not finite
        self._discards: Counter[int] = Counter()  # lease -> its gradients that were too stale
        self._finishes: deque[_Finish] = deque(maxlen=plan.leases_per_epoch)
        self._granted = self._reissued = self._samples = self._skipped = 0
        self._ending: Ending | None = None
        self._message = ""

    def opened(self, now: float) -> LedgerOpened:
        """The record that opens the ledger's journal."""
        plan = self._plan
        return LedgerOpened(
            now, self._expected, self._shards, plan.examples, plan.batch_size, plan.epochs, plan.seed, plan.batches
        )

    def status(self) -> LedgerStatus:
        recent = list(self._finishes)[-RECENT_LEASES:]
        examples = sum(finish.examples for finish in recent)
        return LedgerStatus(
            leases=self._plan.leases,
            granted=self._granted,
            finished=len(self._finished),
            reissued=self._reissued,
            outstanding=len(self._outstanding)
            + len(self._returned)
            + (0 if self._rounds is None else len(self._rounds)),
            samples=self._samples,
            skipped=self._skipped,
            workers=len(self._workers),
            loss=_mean_loss(self._finishes),
            recent_loss=_mean_loss(recent),
            recent_error=sum(finish.errors for finish in recent) / examples if examples else math.nan,
            recent_auxiliary=_mean_auxiliary(recent),
            ending=self._ending.value if self._ending else "",
            message=self._message,
        )

    @property
    def _living(self) -> int:
        """Workers that are not lost, whether they have asked yet or not; joiners count once they have."""
        return len({*range(self._expected), *self._workers} - self._lost_workers)

    def handle(self, now: float, message: Message) -> Outbox:
        """Take in one message; return what goes out because of it, the journal's records first."""
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
            case Stop():
                self._stop(now, Ending(message.reason), "", out)
            case _:
                raise TypeError(
                    f"ledger got {type(message).__name__}: "
                    "it handles NextLease, WorkerLost, Tick, Has, RoundClosed and Stop"
                )
        self._close_round(now, out)
        self._serve(now, out)
        return sorted(out, key=_after_the_journal) if len(out) > 1 else out

    # --- what workers say --------------------------------------------------------------------------------------------

    def _next(self, now: float, message: NextLease, out: Outbox) -> None:
        if message.worker in self._lost_workers:  # a zombie: nothing waits for it, and nothing is waited for
            answer = NoMoreLeases(message.number, Ending.FAILED.value)
            out.append((Address(Role.WORKER, message.worker), answer))
            return
        if message.worker not in self._workers and message.worker >= self._expected:
            self._gate.entered(message.worker)
        worker = self._workers.setdefault(message.worker, _Worker())
        if message.number == worker.number:  # a retry: the same answer, or the same place in line
            if worker.answer:
                out.append((Address(Role.WORKER, message.worker), worker.answer))
            return
        if message.number < worker.number:
            return
        held, worker.lease = worker.lease, None
        worker.number, worker.answer = message.number, None
        worker.version, worker.asked = message.version, self._messages
        match message.outcome:
            case Finished() as done:
                self._gate.finished(message.worker)
                self._done(now, message.worker, done, out)
            case Failed() as failed:
                self._fail(now, message.worker, failed, out)
            case Discarded() as discarded:
                self._discard(now, message.worker, discarded, out)
        if (
            held is not None
            and (lease := self._outstanding.get(held))
            and lease.worker == message.worker
            and not lease.inquiry
        ):
            self._inquire(now, [held], out)  # it came back without a word about what it held
        if not worker.waiting:
            worker.waiting = True
            self._line.append(message.worker)

    def _done(self, now: float, worker: int, done: Finished, out: Outbox) -> None:
        """Every shard has the lease: it is finished, or waits for its round."""
        if not 0 <= done.lease < self._next_id or done.lease in self._finished:
            return
        lease = self._outstanding.get(done.lease)
        finished = StagedLease(
            worker, done.lease, done.attempt, done.loss, done.errors, done.skipped, 0, done.auxiliary
        )
        if self._rounds is None:
            self._forget(done.lease)
            self._finish(now, finished, out)
        elif done.lease not in self._rounds:
            if not self._rounds.rule.keeps and (lease is None or lease.attempt != done.attempt):
                return  # its round was closed without it
            self._forget(done.lease)
            self._rounds.stage(replace(finished, read=lease.read if lease else 0))

    def _finish(self, now: float, done: StagedLease, out: Outbox) -> None:
        """Every shard has applied the lease."""
        self._finished.add(done.lease)
        count = self._plan.lease(done.lease, done.attempt, 0.0).count
        self._samples += count
        self._skipped += done.skipped
        if done.worker >= 0:
            self._finishes.append(_Finish(count - done.skipped, done.loss, done.auxiliary, done.errors))
        record = LeaseFinished(
            now, done.worker, done.lease, done.attempt, count, done.loss, done.errors, done.skipped, done.auxiliary
        )
        out.append((JOURNAL, record))

    def _held_by(self, worker: int, id: int, attempt: int) -> _Outstanding | None:
        """The lease, if this worker holds this attempt of it."""
        lease = self._outstanding.get(id)
        if lease is None or lease.worker != worker or lease.attempt != attempt or lease.inquiry:
            return None
        return lease

    def _discard(self, now: float, worker: int, discarded: Discarded, out: Outbox) -> None:
        """Nothing is wrong with the lease: that it was late does not count among its attempts."""
        if self._held_by(worker, discarded.lease, discarded.attempt) is None:
            return
        out.append((JOURNAL, LeaseDiscarded(now, worker, discarded.lease, discarded.attempt)))
        self._discards[discarded.lease] += 1
        self._inquire(now, [discarded.lease], out)

    def _fail(self, now: float, worker: int, failed: Failed, out: Outbox) -> None:
        if (lease := self._held_by(worker, failed.lease, failed.attempt)) is None:
            return
        out.append((JOURNAL, LeaseFailed(now, worker, failed.lease, failed.attempt, failed.finite, failed.reason)))
        if not failed.finite:
            seen_by = self._not_finite.setdefault(failed.lease, set())
            seen_by.add(worker)
            if len(seen_by) > 1 or self._living == 1:
                self._stop(now, Ending.DIVERGED, failed.reason, out)
                return
        lease.reason = failed.reason
        self._inquire(now, [failed.lease], out)

    # --- what the driver says ----------------------------------------------------------------------------------------

    def _lost(self, now: float, worker: int, out: Outbox) -> None:
        self._lost_workers.add(worker)
        self._workers.pop(worker, None)
        self._gate.left(worker)
        if worker in self._line:
            self._line.remove(worker)
        held = [id for id, lease in self._outstanding.items() if lease.worker == worker and not lease.inquiry]
        self._inquire(now, held, out)

    def _tick(self, now: float, out: Outbox) -> None:
        late = [id for id, lease in self._outstanding.items() if not lease.inquiry and lease.deadline <= now]
        self._inquire(now, late, out)
        deadline = now + self._settings.lease_seconds
        out += self._inquiries.late(now, deadline)
        if self._rounds is not None:
            out += self._rounds.late(now, deadline)

    def _stop(self, now: float, ending: Ending, message: str, out: Outbox) -> None:
        if self._ending is None:
            self._ending, self._message = ending, message
            out.append((JOURNAL, LedgerStopped(now, ending.value)))

    # --- leases that come back ---------------------------------------------------------------------------------------

    def _inquire(self, now: float, leases: list[int], out: Outbox) -> None:
        if not leases:
            return
        self._question += 1
        for lease in leases:
            self._outstanding[lease].inquiry = self._question
        out += self._inquiries.ask(self._question, leases, now + self._settings.lease_seconds)

    def _answered(self, now: float, message: Has, out: Outbox) -> None:
        for id, everywhere in self._inquiries.answered(message).items():
            lease = self._outstanding.get(id)
            if lease is None or lease.inquiry != message.number:
                continue  # finished meanwhile, by word of its worker
            if everywhere:
                self._finish_by_shards(now, id, lease, out)
            else:
                self._return(now, id, lease.attempt, lease.reason, out)

    def _return(self, now: float, id: int, attempt: int, reason: str, out: Outbox) -> None:
        self._outstanding.pop(id, None)
        out.append((JOURNAL, LeaseReturned(now, id, attempt)))
        self._returned.append((id, attempt + 1))
        self._returned.sort()
        attempts = attempt + 1 - self._discards[id]
        if attempts >= self._settings.max_attempts:
            text = f"lease {id} was granted {attempts} times and never finished"
            self._stop(now, Ending.FAILED, f"{text}: {reason or 'late, or its workers were lost'}", out)

    def _finish_by_shards(self, now: float, id: int, lease: _Outstanding, out: Outbox) -> None:
        self._forget(id)
        done = StagedLease(-1, id, lease.attempt, math.nan, 0, 0, lease.read)
        if self._rounds is None:
            self._finish(now, done, out)
        else:
            self._rounds.stage(done)

    def _forget(self, id: int) -> None:
        self._outstanding.pop(id, None)
        if self._returned:
            self._returned = [(lease, attempt) for lease, attempt in self._returned if lease != id]
        self._not_finite.pop(id, None)
        self._discards.pop(id, None)

    # --- rounds ------------------------------------------------------------------------------------------------------

    def _close_round(self, now: float, out: Outbox) -> None:
        """Tell the shards to close the next round, if it is due. What it comes too late for is granted again."""
        if self._rounds is None:
            return
        more = self._ending is None and bool(self._outstanding or self._returned or self._next_id < self._plan.leases)
        leases = self._rounds.due([lease.read for lease in self._outstanding.values()], last=not more)
        if not leases:
            return
        self._question += 1
        keep = self._rounds.rule.keeps or self._ending is not None
        order = self._rounds.close(self._question, leases, now + self._settings.lease_seconds, keep)
        out.append((JOURNAL, RoundOrdered(now, order.round, leases, keep)))
        out += [(Address(Role.SHARD, shard), order) for shard in range(self._shards)]
        if keep:
            return
        late = [(id, lease.attempt, lease.worker) for id, lease in self._outstanding.items()]
        late += [(staged.lease, staged.attempt, staged.worker) for staged in self._rounds.drop()]
        for id, attempt, worker in late:
            out.append((JOURNAL, LeaseDiscarded(now, worker, id, attempt)))
            self._discards[id] += 1
            self._return(now, id, attempt, "", out)

    def _round_closed(self, now: float, message: RoundClosed, out: Outbox) -> None:
        if self._rounds is not None:
            for done in self._rounds.closed(message):
                self._finish(now, done, out)

    # --- granting ----------------------------------------------------------------------------------------------------

    def _serve(self, now: float, out: Outbox) -> None:
        """Answer workers in line, longest first, as far as there is an answer."""
        if self._ending is None and len(self._finished) == self._plan.leases:
            self._stop(now, Ending.COMPLETED, "", out)
        if self._ending is not None:
            while self._line:
                worker = self._line.popleft()
                self._answer(worker, NoMoreLeases(self._workers[worker].number, self._ending.value), out)
            return
        held_up = self._serve_line(now, False, out)
        if held_up and self._returned and not self._outstanding:
            self._serve_line(now, True, out)  # whoever else could look at what came back waits for these

    def _serve_line(self, now: float, again: bool, out: Outbox) -> bool:
        """Grant what may be granted. `again`: also what the worker found not finite. Returns whether the gate held
        somebody up.
        """
        held_up, kept = False, 0
        for _ in range(len(self._line)):
            full = self._rounds is not None and not self._rounds.may_grant(len(self._outstanding))
            if full or (self._next_id == self._plan.leases and not self._returned):
                self._line.rotate(kept)  # those who had their turn are longest in line still
                return held_up and not full
            worker = self._line.popleft()
            opens = self._gate.opens(worker)
            held_up |= not opens
            if not opens or (found := self._take(worker, again)) is None:
                self._line.append(worker)  # a whole turn keeps the order
                kept += 1
                continue
            self._grant(now, worker, *found, out)
        return held_up

    def _take(self, worker: int, again: bool) -> tuple[int, int] | None:
        """The next lease for this worker: returned ones first, but none that it found not finite if others can look."""
        for position, (id, attempt) in enumerate(self._returned):
            if again or worker not in self._not_finite.get(id, ()) or self._living == 1:
                del self._returned[position]
                return id, attempt
        if self._next_id < self._plan.leases:
            self._next_id += 1
            return self._next_id - 1, 0
        return None

    def _grant(self, now: float, worker: int, id: int, attempt: int, out: Outbox) -> None:
        deadline = now + self._settings.lease_seconds
        state = self._workers[worker]
        waited = state.asked != self._messages
        pull = waited or (self._rounds is not None and self._rounds.outdated(state.version))
        read = self._rounds.count if pull and self._rounds is not None else state.version
        self._outstanding[id] = _Outstanding(attempt, worker, deadline, read)
        self._granted += 1
        self._reissued += attempt > 0
        number = state.number
        state.lease = id
        out.append((JOURNAL, LeaseGranted(now, worker, number, id, attempt, deadline)))
        self._answer(worker, Granted(number, self._plan.lease(id, attempt, deadline), pull), out)

    def _answer(self, worker: int, answer: Granted | NoMoreLeases, out: Outbox) -> None:
        self._workers[worker].answer = answer
        self._workers[worker].waiting = False
        out.append((Address(Role.WORKER, worker), answer))


def _mean_loss(finishes: Collection[_Finish]) -> float:
    """Mean main loss per example; NaN of none."""
    examples = sum(finish.examples for finish in finishes)
    return sum(finish.loss * finish.examples for finish in finishes) / examples if examples else math.nan


def _mean_auxiliary(finishes: Collection[_Finish]) -> tuple[float, ...]:
    """Mean loss per example of each auxiliary head; leases without examples say nothing of them."""
    told = [finish for finish in finishes if finish.examples and finish.auxiliary]
    examples = sum(finish.examples for finish in told)
    heads = zip(*([loss * finish.examples for loss in finish.auxiliary] for finish in told), strict=True)
    return tuple(sum(head) / examples for head in heads)


def _after_the_journal(item: tuple[Address, object]) -> bool:
    return item[0] is not JOURNAL
