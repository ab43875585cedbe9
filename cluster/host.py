"""Worker host: many logical workers in one process, as threads with compute turns, on the live clock.

Each thread runs one worker program and does what it asks for: it sends messages (all shards at once), takes a compute
turn, appends to the journal. What the program wants and why is not this module's business. Knows no Ray: an actor, a
test or a process outside any cluster may run it.

Shape suffix: N = parameters of the model.
"""

from __future__ import annotations

import math
import threading
import time  # noqa: TID251 -- the live clock
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from cluster.asking import Asking
from cluster.machines import Computation
from cluster.turns import Turns, TurnsClosed
from ps.journal import Record, WorkerTimed
from ps.messages import LEDGER, Address, Exchange, Lease, Message, Wire, WorkerLost
from ps.wire.client import Loop, Peer
from ps.wire.files import JournalWriter
from ps.wire.mailbox import Pin, SharedVectors
from ps.wire.server import Interference
from ps.wire.tls import Identity
from workers.program import Answer, Ask, Collect, Compute, Effect, Gradient, Note, Program, Send

Write = Callable[[Sequence[Record]], None]


class Reading(Protocol):
    """What reads batches while their workers wait for a compute turn."""

    def granted(self, worker: int, lease: Lease) -> None:
        """A worker has this lease; its computation will ask for the batch."""

    def close(self) -> None:
        """No batch is asked for any more."""


@dataclass(frozen=True, slots=True)
class Connections:
    """Where the actors are, what lets one in, and how vectors travel (see Peer)."""

    targets: Mapping[Address, str]
    token: str
    wire: Wire = Wire.FLOAT32
    seed: int = 0
    identity: Identity | None = None
    memory: bool = True  # exchange through memory where both ends are on one host


@dataclass(slots=True)
class _Spent:
    """Seconds that one worker spent on one lease so far. `hidden`: that exchanges took while it did something else."""

    lease: float = 0.0
    turn: float = 0.0
    decode: float = 0.0
    compute: float = 0.0
    exchange: float = 0.0
    hidden: float = 0.0


class WorkerHost:
    """Runs logical workers until each has ended.

    Args:
        workers: Their ids.
        program: Makes the worker program of one worker: (worker, buffers for its weights) -> Program.
        elements: N.
        pulls: Such buffers per worker.
        computations: One for each compute turn that may be taken at once.
        reading: Told of every lease before its worker queues for a turn; closed here.
        connections: The actors.
        journal: The host's journal; written and closed here.
        interference: Makes what the workers' messages pass, given where it records what it does.
        pace: Makes what says how long each gradient of a worker shall take, in seconds; None: as long as it takes.
        pin: Done to the memory of vectors; see SharedVectors.
    """

    def __init__(
        self,
        workers: Sequence[int],
        program: Callable[[int, tuple[Tensor, ...]], Program],
        elements: int,
        pulls: int,
        computations: Sequence[Computation],
        reading: Reading,
        connections: Connections,
        journal: JournalWriter,
        interference: Callable[[Write], Interference | None] = lambda _: None,
        pace: Callable[[int], Callable[[], float]] | None = None,
        pin: Pin | None = None,
    ) -> None:
        self._workers = tuple(workers)
        self._program = program
        self._elements = elements
        self._pulls = pulls
        self._turns = Turns(computations)
        self.reading = reading
        # More buffers than turns: a turn goes on while earlier gradients are still on their way to the shards, or wait.
        self._vectors = SharedVectors(pin)
        buffers = 2 * len(computations) + 1 if pace is None else len(workers)
        self._buffers = Turns([self._vectors.vector(elements) for _ in range(buffers)])
        self.pace = pace
        self._journal = journal
        self._journal_lock = threading.Lock()
        self._loop = Loop("distbelief-host")
        self._connections = connections
        self._peers: dict[Address, Peer] = {}
        self._left: list[Peer] = []  # connections to where an actor is not any more
        self.connect(connections.targets)
        self._stopping = threading.Event()
        self._asking = Asking(self._peers, self._vectors, self._stopping, interference(self.note))
        self._leaving: set[int] = set()
        self._failure: BaseException | None = None
        self.alive = 0

    def connect(self, targets: Mapping[Address, str]) -> None:
        """Say where the actors are, or where one of them is by now."""
        given = self._connections
        shared = self._vectors if given.memory else None

        def connect() -> None:
            for to, target in targets.items():
                if to in self._peers:
                    self._left.append(self._peers[to])
                self._peers[to] = Peer(target, given.token, shared, given.wire, given.seed, given.identity, str(to))

        self._loop.call(connect)

    def run(self) -> None:
        """Run all workers to their end. Raises what the first failing worker raised, after the others have ended."""
        threads = [
            threading.Thread(target=self._worker, args=(worker,), name=f"worker-{worker}") for worker in self._workers
        ]
        self.alive = len(threads)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.reading.close()
        for peer in [*self._peers.values(), *self._left]:
            self._loop.run(peer.close())
        self._loop.close()
        self._journal.close()
        if self._failure is not None:
            raise self._failure

    def leave(self, workers: Collection[int]) -> None:
        """Let these workers end where they would ask for their next lease; the ledger is told by them."""
        self._leaving |= set(workers)

    def stop(self) -> None:
        """End every worker after what it is doing now; leases in hand are left unfinished."""
        self._stopping.set()
        self._asking.stop_waiting()
        self._turns.close()
        self._buffers.close()

    # --- one worker, on its thread -----------------------------------------------------------------------------------

    def _worker(self, worker: int) -> None:
        buffers = tuple(self._vectors.vector(self._elements) for _ in range(self._pulls))
        driver = _Driver(self, worker)
        try:
            program = self._program(worker, buffers)
            answer: Answer = None
            while not self._stopping.is_set():
                effect = program.send(answer)
                if worker in self._leaving and isinstance(effect, Ask) and effect.requests[0][0] == LEDGER:
                    self._loop.run(self._asking.tell(LEDGER, WorkerLost(worker)))
                    return
                answer = driver.do(effect)
        except (StopIteration, TurnsClosed):
            pass
        except BaseException as error:  # noqa: BLE001 -- a thread's failure must reach the caller of run
            if not self._stopping.is_set():
                self._failure = error
            self.stop()
        finally:
            driver.release()
            self.alive -= 1

    def note(self, records: Sequence[Record]) -> None:
        with self._journal_lock:
            self._journal.write(records)

    def send(self, requests: Sequence[tuple[Address, Message]]) -> Future[tuple[Message, ...]]:
        return self._loop.begin(self._asking.all(requests))

    def pause(self, until: float) -> None:
        """Wait until then, by the monotonic clock, or until the host stops."""
        self._stopping.wait(until - time.monotonic())

    def take_turn(self) -> Computation:
        return self._turns.take()

    def end_turn(self, computation: Computation) -> None:
        self._turns.give_back(computation)

    def take_buffer(self) -> Tensor:
        return self._buffers.take()

    def end_buffer(self, gradient_N: Tensor) -> None:
        self._buffers.give_back(gradient_N)


class _Sent:
    """What was sent and not collected yet. `began`, `answered`: when."""

    def __init__(self, answers: Future[tuple[Message, ...]]) -> None:
        self.answers = answers
        self.began, self.answered = time.monotonic(), math.inf
        answers.add_done_callback(self._done)

    def _done(self, _: object) -> None:
        self.answered = time.monotonic()


class _Driver:
    """Carries out one program's effects and keeps the time."""

    def __init__(self, host: WorkerHost, worker: int) -> None:
        self._host = host
        self._worker = worker
        self._gradient_N: Tensor | None = None
        self._sent: _Sent | None = None  # not collected yet
        self._spent = _Spent()
        self._pace = None if host.pace is None else host.pace(worker)

    def do(self, effect: Effect) -> Answer:
        match effect:
            case Ask():
                return self._ask(effect)
            case Send():
                self._sent = _Sent(self._host.send(effect.requests))
                return None
            case Collect():
                return self._collect()
            case Compute():
                return self._compute(effect)
            case Note():
                self._host.note(effect.records(time.time()))
                return None

    def release(self) -> None:
        """Return the gradient buffer, if one is held; wait for nothing any more."""
        if self._sent is not None:
            self._sent.answers.cancel()
        self._give_back()

    def _give_back(self) -> None:
        if self._gradient_N is not None:
            self._host.end_buffer(self._gradient_N)
            self._gradient_N = None

    def _ask(self, effect: Ask) -> tuple[Message, ...]:
        began = time.monotonic()
        answers = self._host.send(effect.requests).result()
        seconds = time.monotonic() - began
        if isinstance(effect.requests[0][1], Exchange):
            self._spent.exchange += seconds
            push = effect.requests[0][1].push
            if push is not None:
                self._finish(push.lease)
        else:
            self._spent.lease += seconds
        self._give_back()
        return answers

    def _collect(self) -> tuple[Message, ...]:
        sent, self._sent = self._sent, None
        assert sent is not None, "a program collects what it sent"
        began = time.monotonic()
        answers = sent.answers.result()
        self._spent.exchange += time.monotonic() - began
        self._spent.hidden += min(began, sent.answered) - sent.began
        return answers

    def _compute(self, effect: Compute) -> Gradient:
        self._give_back()
        self._host.reading.granted(self._worker, effect.lease)
        asked = time.monotonic()
        computation = self._host.take_turn()
        try:
            self._gradient_N = self._host.take_buffer()
            began = time.monotonic()
            gradient, decode = computation(effect.lease, effect.weights_N, self._gradient_N)
        finally:
            self._host.end_turn(computation)
        if self._pace is not None:
            self._host.pause(asked + self._pace())
            began = asked  # as on a machine of its own, where nobody waits for a turn
        self._spent.turn += began - asked
        self._spent.decode += decode
        self._spent.compute += time.monotonic() - began - decode
        return gradient

    def _finish(self, lease: int) -> None:
        spent, self._spent = self._spent, _Spent()
        record = WorkerTimed(
            time.time(),
            self._worker,
            lease,
            spent.lease,
            spent.turn,
            spent.decode,
            spent.compute,
            spent.exchange,
            spent.hidden,
        )
        self._host.note([record])


def host_journal(folder: Path, run: str, host: int) -> JournalWriter:
    """The journal of one worker host. One that joined has its first worker's number, which no other host has."""
    return JournalWriter(folder / f"host-{host}.journal", run, f"host-{host}")
