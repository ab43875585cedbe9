"""Simulated driver: the pieces of a run in one process, on a virtual clock.

It carries messages between the very machines and worker programs of a live run, in the order in which a model of the
cluster lets them arrive; what they do with them is theirs. A shard serves one exchange after the other, a worker that
shares cores waits for its turn, a lost worker's messages still arrive.

Shape suffix: N = parameters of the model.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import cast

from torch import Tensor

from cluster.agenda import LATE, Agenda
from cluster.model import ClusterModel
from cluster.pieces import Pieces
from cluster.spec import RunStatus
from ps.journal import Record, WorkerTimed
from ps.ledger import Ending
from ps.messages import (
    AVERAGER,
    LEDGER,
    Address,
    Exchange,
    Exchanged,
    Lease,
    Message,
    Read,
    ReadDone,
    Role,
    Stop,
    Tick,
    WorkerLost,
)
from ps.shard import Outbox
from workers.program import Answer, Ask, Compute, Note, Program

TICK_SECONDS = 1.0
EVENTS_AT_ONCE = 100


@dataclass(slots=True)
class _Worker:
    """One logical worker. Invariant: missing counts the Nones in answers."""

    id: int
    program: Program
    compute_seconds: Callable[[], float]
    answers: list[Message | None] = field(default_factory=list)
    missing: int = 0
    places: dict[Address, int] = field(default_factory=dict)  # whose answer goes where in `answers`
    lease: Lease | None = None
    computing: bool = False
    asked: float = 0.0  # when the last Ask or Compute was made
    pushing: bool = False  # the Ask under way carries a gradient
    spent: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0, 0.0])  # lease, turn, compute, exchange


class Simulation:
    """One simulated run. Create and `run`; `read` and the machines' `status` tell what it came to.

    Args:
        pieces: What is driven.
        model: How long things take.
        workers: Logical workers 0..workers-1 that begin at time 0.
        max_seconds: Virtual time after which no more leases are granted; 0 for no limit.
    """

    def __init__(self, pieces: Pieces, model: ClusterModel, workers: int, max_seconds: float = 0.0) -> None:
        self._pieces = pieces
        self._vectors = pieces.vectors
        self._model = model
        self._agenda = Agenda()
        self._workers: dict[int, _Worker] = {}  # those at work
        self._next_worker = workers
        self._busy_until = [0.0] * len(pieces.shards)
        self._free_turns = model.settings.turns
        self._line: deque[_Worker] = deque()  # for a turn
        self._handlers: dict[Address, Callable[[float, Message], Outbox]] = {
            shard_address(shard.index): shard.handle for shard in pieces.shards
        }
        self._handlers |= {LEDGER: pieces.ledger.handle, AVERAGER: pieces.averager.handle}
        for worker in range(workers):
            self._agenda.after(0.0, self._start, worker)
        if max_seconds:
            self._agenda.after(max_seconds, self._deliver, (LEDGER, Stop(Ending.TIME.value)))
        self._agenda.after(TICK_SECONDS, self._tick, None, LATE)
        self._to_start = workers

    @property
    def now(self) -> float:
        """Virtual seconds since the beginning."""
        return self._agenda.now

    def run(self, look: Callable[[], None] = lambda: None) -> None:
        """Let the run take place, to its end. `look` is called every now and then between two events; it may read and
        stop the run.
        """
        while self._agenda.run(EVENTS_AT_ONCE, self._going):
            look()

    def _going(self) -> bool:
        return bool(self._workers or self._to_start)

    @property
    def samples(self) -> int:
        """Examples applied on the first shard."""
        return self._pieces.shards[0].samples

    def status(self) -> RunStatus:
        """What every piece tells about itself."""
        pieces = self._pieces
        shards = tuple(shard.status() for shard in pieces.shards)
        return RunStatus(pieces.ledger.status(), shards, pieces.averager.status(), len(self._workers))

    def stop(self, ending: Ending) -> None:
        """Grant no more leases."""
        self._deliver((LEDGER, Stop(ending.value)))

    def read(self, average: bool, out_N: Tensor) -> int:
        """Copy the newest weights, or their average, into `out_N`; return how many it averages (0: none yet)."""
        counts = []
        start = 0
        for shard in self._pieces.shards:
            part_N = out_N[start : start + shard.elements]
            start += shard.elements
            to = AVERAGER if average else shard_address(shard.index)
            ((_, answer),) = self._handlers[to](self.now, Read(Address(Role.WORKER, -1), 0, shard.index, part_N))
            assert isinstance(answer, ReadDone)
            counts.append(answer.samples)
        return min(counts)

    # --- messages ----------------------------------------------------------------------------------------------------

    def _deliver(self, letter: tuple[Address, Message]) -> None:
        """A message reaches ledger or averager, or a shard that is free: it is handled, and what comes of it sent."""
        to, message = letter
        if isinstance(message, Exchange):
            message = self._vectors.arriving(message)
        records: list[Record] = []
        for address, item in self._handlers[to](self._agenda.now, message):
            if address.role is Role.JOURNAL:
                records.append(cast("Record", item))
            elif address.role is Role.WORKER:
                self._answer(to, message, address.index, cast("Message", item))
            else:
                self._send(address, cast("Message", item))
        if records:
            self._pieces.recorders[to].write(records)

    def _send(self, to: Address, message: Message) -> None:
        size = 0
        if to.role is Role.SHARD and isinstance(message, Exchange) and message.push is not None:
            size = self._pieces.vector_bytes[to.index]
        action = self._queue if to.role is Role.SHARD else self._deliver
        self._agenda.after(self._model.transfer_seconds(size), action, (to, message))

    def _answer(self, sender: Address, request: Message, worker: int, answer: Message) -> None:
        size = 0
        if isinstance(answer, Exchanged) and isinstance(request, Exchange) and request.weights_N is not None:
            size = self._pieces.vector_bytes[sender.index]
            self._vectors.pulled(request, answer.reading)
        self._agenda.after(self._model.transfer_seconds(size), self._answered, (worker, sender, answer))

    def _queue(self, letter: tuple[Address, Message]) -> None:
        """A message reaches a shard, which serves exchanges one after the other."""
        to, message = letter
        if not isinstance(message, Exchange):
            self._deliver(letter)
            return
        done = max(self._agenda.now, self._busy_until[to.index]) + self._model.settings.service_seconds
        self._busy_until[to.index] = done
        if done > self._agenda.now:
            self._agenda.after(done - self._agenda.now, self._deliver, letter)
        else:
            self._deliver(letter)

    def _tick(self, _: None) -> None:
        self._deliver((LEDGER, Tick()))
        self._agenda.after(TICK_SECONDS, self._tick, None, LATE)

    # --- workers -----------------------------------------------------------------------------------------------------

    def _start(self, id: int) -> None:
        self._to_start -= 1
        program = self._pieces.program(id, self._vectors.enter(id))
        worker = self._workers[id] = _Worker(id, program, self._model.compute_times(id))
        life_seconds = self._model.life_seconds(id)
        if life_seconds < float("inf"):
            self._agenda.after(life_seconds, self._lose, worker)
        self._go_on(worker, None)

    def _lose(self, worker: _Worker) -> None:
        """A worker's process is gone; what it sent before still arrives."""
        if self._workers.pop(worker.id, None) is None:
            return
        worker.program.close()
        self._vectors.leave(worker.id)
        if worker in self._line:
            self._line.remove(worker)
        elif worker.computing:
            self._end_turn()
        chosen = self._model.settings
        self._agenda.after(chosen.detection_seconds, self._deliver, (LEDGER, WorkerLost(worker.id)))
        if chosen.rejoin_seconds:
            self._to_start += 1
            self._agenda.after(chosen.rejoin_seconds, self._start, self._next_worker)
            self._next_worker += 1

    def _answered(self, letter: tuple[int, Address, Message]) -> None:
        """An answer reaches a worker, which goes on when it has all that it asked for."""
        id, sender, message = letter
        worker = self._workers.get(id)
        if worker is None:
            return
        worker.answers[worker.places[sender]] = message
        worker.missing -= 1
        if worker.missing:
            return
        seconds = self._agenda.now - worker.asked
        if sender == LEDGER:
            worker.spent[0] += seconds
        else:
            worker.spent[3] += seconds
            if worker.pushing:
                self._timed(worker)
        self._go_on(worker, tuple(answer for answer in worker.answers if answer is not None))

    def _go_on(self, worker: _Worker, answer: Answer) -> None:
        """Tell a worker's program what it waited for, and do what it wants next."""
        while True:
            try:
                effect = worker.program.send(answer)
            except StopIteration:
                del self._workers[worker.id]
                self._vectors.leave(worker.id)
                return
            match effect:
                case Note():
                    records = [replace(record, now=self._agenda.now) for record in effect.records]
                    self._pieces.recorders[Address(Role.WORKER)].write(records)
                    answer = None
                case Ask():
                    self._ask(worker, effect)
                    return
                case Compute():
                    self._take_turn(worker, effect)
                    return

    def _ask(self, worker: _Worker, effect: Ask) -> None:
        worker.asked = self._agenda.now
        worker.missing = len(effect.requests)
        worker.answers = [None] * worker.missing
        worker.places = {to: place for place, (to, _) in enumerate(effect.requests)}
        first = effect.requests[0][1]
        worker.pushing = isinstance(first, Exchange) and first.push is not None
        for to, message in effect.requests:
            self._send(to, message)

    def _take_turn(self, worker: _Worker, effect: Compute) -> None:
        worker.asked = self._agenda.now
        worker.lease = effect.lease
        if self._model.settings.turns and not self._free_turns:
            self._line.append(worker)
            return
        self._free_turns -= 1
        self._compute(worker)

    def _compute(self, worker: _Worker) -> None:
        worker.spent[1] += self._agenda.now - worker.asked
        worker.asked = self._agenda.now
        worker.computing = True
        self._agenda.after(worker.compute_seconds(), self._computed, worker)

    def _computed(self, worker: _Worker) -> None:
        if worker.id not in self._workers:
            return
        worker.computing = False
        worker.spent[2] += self._agenda.now - worker.asked
        self._end_turn()
        assert worker.lease is not None
        self._go_on(worker, self._vectors.compute(worker.id, worker.lease))

    def _end_turn(self) -> None:
        self._free_turns += 1
        if self._line:
            self._free_turns -= 1
            self._compute(self._line.popleft())

    def _timed(self, worker: _Worker) -> None:
        assert worker.lease is not None
        lease, turn, compute, exchange = worker.spent
        worker.spent = [0.0, 0.0, 0.0, 0.0]
        record = WorkerTimed(self._agenda.now, worker.id, worker.lease.id, lease, turn, 0.0, compute, exchange)
        self._pieces.recorders[Address(Role.WORKER)].write([record])


def shard_address(index: int) -> Address:
    return Address(Role.SHARD, index)
