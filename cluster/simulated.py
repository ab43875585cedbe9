"""Simulated driver: the pieces of a run in one process, on a virtual clock.

It carries messages between the very machines and worker programs of a live run, in the order in which a model of the
cluster lets them arrive; what they do with them is theirs. A shard serves one exchange after the other, a worker that
shares cores waits for its turn, a lost worker's messages still arrive.

Shape suffix: N = parameters of the model.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from torch import Tensor

from cluster.agenda import LATE, agenda
from cluster.model import ClusterModel
from cluster.pieces import Pieces, Recorder
from cluster.spec import RunStatus
from ps.journal import Record, WorkerTimed
from ps.ledger import Ending
from ps.messages import (
    AVERAGER,
    JOURNAL,
    LEDGER,
    Address,
    Exchange,
    Exchanged,
    Message,
    Read,
    ReadDone,
    Role,
    Stop,
    Tick,
    WorkerLost,
)
from ps.shard import Outbox
from workers.program import Answer, Ask, Collect, Compute, Note, Program, Send

TICK_SECONDS = 1.0
LEDGER_KEY, AVERAGER_KEY = -1, -2
_WORKER, _SHARD = Role.WORKER, Role.SHARD  # looked up in an Enum they take twice as long


@dataclass(slots=True)
class Actor:
    """One shard, the ledger or the averager.

    Attributes:
        address: Whose.
        key: Shards: their index; the others have numbers below 0.
        vector_seconds: From sending a gradient to its arrival here, and likewise for weights from here.
        busy_until: When it will have served every exchange that has arrived.
    """

    address: Address
    key: int
    handle: Callable[[float, Message], Outbox]
    recorder: Recorder
    vector_seconds: float = 0.0
    busy_until: float = 0.0


@dataclass(slots=True)
class SimulatedWorker:
    """One logical worker. Invariant: missing counts the Nones in answers, which are in the order of the requests.

    Attributes:
        waiting: Whether it does nothing until it has all answers.
        sent, asked: When it last sent messages; when it began to wait for what it now waits for.
        hidden_seconds: That messages took while it did something else.
    """

    id: int
    program: Program
    next_compute_seconds: Callable[[], float]
    answers: list[Message | None] = field(default_factory=list)  # by the actor's key: the ledger's is of the last one
    missing: int = 0
    waiting: bool = False
    at: Compute | None = None  # what it computes
    computing: bool = False
    sent: float = 0.0
    asked: float = 0.0
    pushing: int | None = None  # the lease whose gradient the Ask under way carries
    lease_seconds: float = 0.0  # spent on the lease in hand, as are the following
    turn_seconds: float = 0.0
    compute_seconds: float = 0.0
    exchange_seconds: float = 0.0
    hidden_seconds: float = 0.0


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
        self._service_seconds = model.settings.service_seconds
        self._latency_seconds = model.transfer_seconds(0)
        self._agenda = agenda()
        self._workers: dict[int, SimulatedWorker] = {}  # those at work
        self._next_worker = workers
        self._free_turns = model.settings.turns
        self._line: deque[SimulatedWorker] = deque()  # for a turn
        recorders = pieces.recorders
        self._shards = [
            Actor(address, address.index, shard.handle, recorders[address], model.transfer_seconds(size))
            for shard, size in zip(pieces.shards, pieces.vector_bytes, strict=True)
            for address in [shard_address(shard.index)]
        ]
        self._ledger = Actor(LEDGER, LEDGER_KEY, pieces.ledger.handle, recorders[LEDGER])
        self._averager = Actor(AVERAGER, AVERAGER_KEY, pieces.averager.handle, recorders[AVERAGER])
        self._host = recorders[Address(Role.WORKER)]
        for worker in range(workers):
            self._agenda.after(0.0, self._start, worker)
        if max_seconds:
            self._agenda.after(max_seconds, self._deliver, (self._ledger, Stop(Ending.TIME.value)))
        self._agenda.after(TICK_SECONDS, self._tick, None, LATE)
        self._to_start = workers

    @property
    def now(self) -> float:
        """Virtual seconds since the beginning."""
        return self._agenda.now

    def run(self, look: Callable[[], None] = lambda: None, events: int = 1000) -> None:
        """Let the run take place, to its end. `look` is called after so many events, and may read and stop the run."""
        with _collector_paused():
            while self._agenda.run(events):
                look()

    @property
    def samples(self) -> int:
        """Examples applied on the first shard."""
        return self._pieces.shards[0].samples

    def status(self) -> RunStatus:
        """What every piece tells about itself."""
        pieces = self._pieces
        shards = tuple(shard.status() for shard in pieces.shards)
        return RunStatus(pieces.ledger.status(), shards, pieces.averager.status(), len(self._workers))

    def stop(self, ending: Ending, at_once: bool = False) -> None:
        """Grant no more leases. `at_once`: leases in hand are left unfinished."""
        self._deliver((self._ledger, Stop(ending.value)))
        if at_once:
            self._agenda.stop()

    def read(self, average: bool, out_N: Tensor) -> int:
        """Copy the newest weights, or their average, into `out_N`; return how many it averages (0: none yet)."""
        counts = []
        start = 0
        for shard in self._pieces.shards:
            part_N = out_N[start : start + shard.elements]
            start += shard.elements
            machine = self._pieces.averager if average else shard
            ((_, answer),) = machine.handle(self.now, Read(Address(Role.WORKER, -1), 0, shard.index, part_N))
            assert isinstance(answer, ReadDone)
            counts.append(answer.samples)
        return min(counts)

    # --- messages ----------------------------------------------------------------------------------------------------

    def _deliver(self, letter: tuple[Actor, Message]) -> None:
        """A message reaches ledger or averager, or a shard that is free: it is handled, and what comes of it sent."""
        actor, message = letter
        if isinstance(message, Exchange):
            message = self._vectors.arriving(message)
        records: list[Record] = []
        outbox = cast("list[tuple[Address, Any]]", actor.handle(self._agenda.now, message))
        for address, item in outbox:
            if address is JOURNAL:
                records.append(item)
            elif address.role is _WORKER:
                self._answer(actor, message, address.index, item)
            else:
                self._send(address, item)
        if records:
            actor.recorder.write(records)

    def _send(self, to: Address, message: Message) -> None:
        if to.role is _SHARD:
            actor = self._shards[to.index]
            with_vector = isinstance(message, Exchange) and message.push is not None
            seconds = actor.vector_seconds if with_vector else self._latency_seconds
            arrive = self._queue if self._service_seconds else self._deliver
            self._agenda.after(seconds, arrive, (actor, message))
        else:
            actor = self._ledger if to.role is Role.LEDGER else self._averager
            self._agenda.after(self._latency_seconds, self._deliver, (actor, message))

    def _answer(self, sender: Actor, request: Message, worker: int, answer: Message) -> None:
        seconds = self._latency_seconds
        if isinstance(answer, Exchanged) and isinstance(request, Exchange) and request.weights_N is not None:
            seconds = sender.vector_seconds
            self._vectors.pulled(request, answer.reading)
        self._agenda.after(seconds, self._answered, (worker, sender, answer))

    def _queue(self, letter: tuple[Actor, Message]) -> None:
        """A message reaches a shard, which serves exchanges one after the other."""
        actor, message = letter
        if not isinstance(message, Exchange):
            self._deliver(letter)
            return
        now = self._agenda.now
        actor.busy_until = max(now, actor.busy_until) + self._service_seconds
        self._agenda.after(actor.busy_until - now, self._deliver, letter)

    def _tick(self, _: None) -> None:
        self._deliver((self._ledger, Tick()))
        self._agenda.after(TICK_SECONDS, self._tick, None, LATE)

    # --- workers -----------------------------------------------------------------------------------------------------

    def _start(self, id: int) -> None:
        self._to_start -= 1
        program = self._pieces.program(id, self._vectors.enter(id))
        worker = self._workers[id] = SimulatedWorker(id, program, self._model.compute_times(id))
        life_seconds = self._model.life_seconds(id)
        if life_seconds < float("inf"):
            self._agenda.after(life_seconds, self._lose, worker)
        self._go_on(worker, None)

    def _lose(self, worker: SimulatedWorker) -> None:
        """A worker's process is gone; what it sent before still arrives."""
        if worker.id not in self._workers:
            return
        worker.program.close()
        if worker in self._line:
            self._line.remove(worker)
        elif worker.computing:
            self._end_turn()
        chosen = self._model.settings
        self._agenda.after(chosen.detection_seconds, self._deliver, (self._ledger, WorkerLost(worker.id)))
        if chosen.rejoin_seconds:
            self._to_start += 1
            self._agenda.after(chosen.rejoin_seconds, self._start, self._next_worker)
            self._next_worker += 1
        self._leave(worker)

    def _leave(self, worker: SimulatedWorker) -> None:
        """The run is over when nobody is at work and nobody will come."""
        del self._workers[worker.id]
        self._vectors.leave(worker.id)
        if not self._workers and not self._to_start:
            self._everybody_left()

    def _everybody_left(self) -> None:
        self._agenda.stop()

    def _answered(self, letter: tuple[int, Actor, Message]) -> None:
        """An answer reaches a worker, which goes on when it has all that it asked for."""
        id, sender, message = letter
        worker = self._workers.get(id)
        if worker is None:
            return
        worker.answers[sender.key] = message
        worker.missing -= 1
        if worker.missing:
            return
        if not worker.waiting:
            worker.hidden_seconds += self._agenda.now - worker.sent
            return
        seconds = self._agenda.now - worker.asked
        if sender is self._ledger:
            worker.lease_seconds += seconds
        else:
            worker.exchange_seconds += seconds
            worker.hidden_seconds += worker.asked - worker.sent
            if worker.pushing is not None:
                self._timed(worker, worker.pushing)
        self._go_on(worker, self._collected(worker))

    @staticmethod
    def _collected(worker: SimulatedWorker) -> tuple[Message, ...]:
        worker.waiting = False
        return cast("tuple[Message, ...]", tuple(worker.answers))

    def _go_on(self, worker: SimulatedWorker, answer: Answer) -> None:
        """Tell a worker's program what it waited for, and do what it wants next."""
        while True:
            try:
                effect = worker.program.send(answer)
            except StopIteration:
                self._leave(worker)
                return
            match effect:
                case Ask():
                    worker.waiting = True
                    self._ask(worker, effect)
                    return
                case Note():
                    self._host.write(effect.records(self._agenda.now))
                    answer = None
                case Compute():
                    self._take_turn(worker, effect)
                    return
                case Send():
                    self._ask(worker, effect)
                    if worker.id not in self._workers:
                        return  # lost with it
                    answer = None
                case Collect():
                    worker.asked = self._agenda.now
                    worker.waiting = worker.missing > 0
                    if worker.waiting:
                        return
                    answer = self._collected(worker)

    def _ask(self, worker: SimulatedWorker, effect: Ask | Send) -> None:
        self._expect(worker, effect)
        for to, message in effect.requests:
            self._send(to, message)

    def _expect(self, worker: SimulatedWorker, effect: Ask | Send) -> None:
        """A worker asks, and will need all answers."""
        worker.asked = worker.sent = self._agenda.now
        worker.missing = len(effect.requests)
        worker.answers = [None] * worker.missing
        first = effect.requests[0][1]
        worker.pushing = first.push.lease if isinstance(first, Exchange) and first.push else None

    def _take_turn(self, worker: SimulatedWorker, effect: Compute) -> None:
        worker.asked = self._agenda.now
        worker.at = effect
        if self._model.settings.turns and not self._free_turns:
            self._line.append(worker)
            return
        self._free_turns -= 1
        self._compute(worker)

    def _compute(self, worker: SimulatedWorker) -> None:
        worker.turn_seconds += self._agenda.now - worker.asked
        worker.asked = self._agenda.now
        worker.computing = True
        self._agenda.after(worker.next_compute_seconds(), self._computed, worker)

    def _computed(self, worker: SimulatedWorker) -> None:
        if worker.id not in self._workers:
            return
        worker.computing = False
        worker.compute_seconds += self._agenda.now - worker.asked
        self._end_turn()
        assert worker.at is not None
        self._go_on(worker, self._vectors.compute(worker.id, worker.at.lease, worker.at.weights_N))

    def _end_turn(self) -> None:
        self._free_turns += 1
        if self._line:
            self._free_turns -= 1
            self._compute(self._line.popleft())

    def _timed(self, w: SimulatedWorker, lease: int) -> None:
        seconds = w.lease_seconds, w.turn_seconds, 0.0, w.compute_seconds, w.exchange_seconds, w.hidden_seconds
        w.lease_seconds = w.turn_seconds = w.compute_seconds = w.exchange_seconds = w.hidden_seconds = 0.0
        self._host.write((WorkerTimed(self._agenda.now, w.id, lease, *seconds),))


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Without Python's search for cycles: events make none, and it would look through all workers again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def shard_address(index: int) -> Address:
    return Address(Role.SHARD, index)
