"""Mishaps: planned faults in virtual time. The simulated run, with messages that get lost, late, doubled or damaged,
and actors that stand still or are killed.

What is lost is sent again, as on the live clock: a call that fails a moment later, one that hangs after its deadline.
Every exchange has vectors of its own, as a mailbox that was renewed has: what arrives
late is what was sent, and fills what nobody looks at.

Shape suffix: N = parameters held by one shard.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import torch
from msgspec.structs import replace
from torch import Tensor

from cluster.faults import Fault, FaultPlan, Schedule, corrupted
from cluster.model import ClusterModel
from cluster.pieces import Pieces, Recorder
from cluster.simulated import LEDGER_KEY, Actor, SimulatedWorker, Simulation
from ps.journal import FaultFired
from ps.messages import (
    Address,
    CloseRound,
    Exchange,
    Exchanged,
    Granted,
    Has,
    Inventory,
    Message,
    NextLease,
    NoMoreLeases,
    Refused,
    RoundClosed,
    Sample,
    SampleTaken,
    TakeInventory,
    Tick,
    WhoHas,
)
from workers.program import Ask, Send

RETRY_SECONDS = 0.25
CALL_SECONDS = 120.0

Letter = tuple[Actor, Message]
Errand = tuple[str, int, int, int]


@dataclass(slots=True, eq=False)
class _Asked:
    """What one worker waits for. Invariant: `open` has what is not answered, by the actor's key.

    Attributes:
        next_call: Which call is made next, by the actor's key: whatever made an earlier one due has come to nothing.
        unheard: Actors whose answer will be lost once it has come.
        dying: Those whose answer the worker does not live to hear.
    """

    open: dict[int, tuple[Address, Message]]
    next_call: dict[int, int] = field(default_factory=dict)
    unheard: set[int] = field(default_factory=set)
    dying: set[int] = field(default_factory=set)


class FaultySimulation(Simulation):
    """One simulated run in which things go wrong as planned.

    Args:
        pieces, model, workers, max_seconds: As of Simulation. The pieces' vectors are each worker's own.
        plan: What goes wrong.
        call_seconds: Deadline of one call.
    """

    def __init__(
        self,
        pieces: Pieces,
        model: ClusterModel,
        workers: int,
        plan: FaultPlan,
        max_seconds: float = 0.0,
        call_seconds: float = CALL_SECONDS,
    ) -> None:
        super().__init__(pieces, model, workers, max_seconds)
        self._plan = plan
        self._call_seconds = call_seconds
        self._schedules: dict[str, Schedule] = {}
        self._still: dict[str, float] = {}  # until when an actor stands still
        self._asked: dict[int, _Asked] = {}  # by worker
        self._errands: dict[Errand, tuple[Address, Message]] = {}  # messages between actors that are not answered
        self._next_sending: dict[Errand, int] = {}  # of each: whatever made an earlier one due has come to nothing
        self._muted = False  # the answer to the message in hand is lost

    def _due(self, name: str, message: Message, recorder: Recorder) -> tuple[Fault, ...]:
        """Count one event of this actor; record and return what strikes it."""
        if (schedule := self._schedules.get(name)) is None:
            schedule = self._schedules[name] = self._plan.of(name)
        if faults := schedule.due(message):
            kind = type(message).__name__
            recorder.write([FaultFired(self.now, name, schedule.event, fault.do, kind) for fault in faults])
        return faults

    # --- messages that reach shards, ledger and averager -------------------------------------------------------------

    def _deliver(self, letter: Letter) -> None:
        actor, message = letter
        name = str(actor.address)
        if (until := self._still.get(name, 0.0)) > self.now:
            self._agenda.after(until - self.now, self._deliver, letter)
            return
        if isinstance(message, Tick):
            super()._deliver(letter)
            return
        seconds = 0.0
        faults = self._due(name, message, actor.recorder)
        for fault in faults:
            match fault.do:
                case "delay":
                    seconds += fault.seconds
                case "stop":
                    seconds += fault.seconds
                    self._still[name] = self.now + seconds
                case "corrupt":
                    letter = actor, corrupted(message)
        if seconds > 0:
            self._agenda.after(seconds, self._arrive, (letter, faults))
        else:
            self._arrive((letter, faults))

    def _arrive(self, arriving: tuple[Letter, tuple[Fault, ...]]) -> None:
        """Let a message in, or lose it, or its answer, or let it in twice."""
        letter, faults = arriving
        if any(fault.do == "drop" and fault.when == "before" for fault in faults):
            self._lost(*letter)
            return
        self._muted = any(fault.do == "drop" for fault in faults)
        self._let_in(letter)
        self._muted = False
        if any(fault.do == "duplicate" for fault in faults):
            self._let_in(letter)

    def _let_in(self, letter: Letter) -> None:
        if (errand := _answered_errand(letter[1])) is not None:
            self._errands.pop(errand, None)
        super()._deliver(letter)

    def _lost(self, actor: Actor, message: Message) -> None:
        """A message did not reach this actor, or its answer not the one who asked: that one sends it again."""
        if isinstance(message, Exchange | NextLease):
            if (asked := self._asked.get(message.worker)) is not None:
                self._call_later(RETRY_SECONDS, message.worker, asked, actor.key)
        elif (errand := _errand(message, actor.address) or _answered_errand(message)) is not None:
            self._send_later(RETRY_SECONDS, errand)
        else:  # the driver's own, or what a shard says that came back
            self._agenda.after(RETRY_SECONDS, self._deliver, (actor, message))

    def _send(self, to: Address, message: Message) -> None:
        if (errand := _errand(message, to)) is not None:
            self._errands[errand] = to, message
            self._send_later(self._call_seconds, errand)
        elif self._muted and (answered := _answered_errand(message)) is not None:
            self._send_later(RETRY_SECONDS, answered)
            return
        super()._send(to, message)

    def _send_later(self, seconds: float, errand: Errand) -> None:
        """Send it again in so many seconds, and not when it was to be sent again so far."""
        self._next_sending[errand] = sending = self._next_sending.get(errand, 0) + 1
        self._agenda.after(seconds, self._send_again, (errand, sending))

    def _send_again(self, what: tuple[Errand, int]) -> None:
        errand, sending = what
        if errand in self._errands and self._next_sending[errand] == sending:
            self._send(*self._errands[errand])

    # --- workers -----------------------------------------------------------------------------------------------------

    def _ask(self, worker: SimulatedWorker, effect: Ask | Send) -> None:
        self._expect(worker, effect)
        asked = self._asked[worker.id] = _Asked({_key(message): (to, message) for to, message in effect.requests})
        for key in list(asked.open):
            self._request((worker.id, asked, key, 0))

    def _call_later(self, seconds: float, id: int, asked: _Asked, key: int) -> None:
        """Make a call again in so many seconds, and not when it was to be made again so far."""
        asked.next_call[key] = call = asked.next_call.get(key, 0) + 1
        self._agenda.after(seconds, self._request, (id, asked, key, call))

    def _request(self, what: tuple[int, _Asked, int, int]) -> None:
        """Send what a worker asks, unless it has the answer, or has gone on, or is gone; again after the deadline."""
        id, asked, key, call = what
        if self._asked.get(id) is asked and key in asked.open and asked.next_call.get(key, 0) == call:
            to, message = asked.open[key]
            self._call_later(self._call_seconds, id, asked, key)
            self._strike(self._workers[id], asked, key, to, _in_a_mailbox(message))

    def _strike(self, worker: SimulatedWorker, asked: _Asked, key: int, to: Address, message: Message) -> None:
        name = f"worker-{worker.id}"
        faults = self._due(name, message, self._host)
        seconds = max(0.0, self._still.get(name, 0.0) - self.now)
        copies = 1
        for fault in faults:
            match fault.do, fault.when:
                case "kill", "before":
                    self._lose(worker)
                    return
                case "kill", _:
                    asked.dying.add(key)
                case "drop", "before":
                    copies = 0
                    self._call_later(RETRY_SECONDS, worker.id, asked, key)
                case "drop", _:
                    asked.unheard.add(key)
                case "duplicate", _:
                    copies *= 2
                case "corrupt", _:
                    message = corrupted(message)
                case "delay", _:
                    seconds += fault.seconds
                case _:
                    self._still[name] = self.now + fault.seconds
                    seconds += fault.seconds
        for _ in range(copies):
            self._agenda.after(seconds, self._posted, (to, message)) if seconds else self._send(to, message)

    def _posted(self, what: tuple[Address, Message]) -> None:
        self._send(*what)

    def _answer(self, sender: Actor, request: Message, worker: int, answer: Message) -> None:
        if self._muted and isinstance(request, Exchange | NextLease) and request.worker == worker:
            self._lost(sender, request)
            return
        weights_N = None
        seconds = self._latency_seconds
        if isinstance(answer, Exchanged) and isinstance(request, Exchange) and request.weights_N is not None:
            seconds, weights_N = sender.vector_seconds, request.weights_N
        self._agenda.after(seconds, self._heard, (worker, sender, answer, weights_N))

    def _heard(self, what: tuple[int, Actor, Message, Tensor | None]) -> None:
        """An answer reaches a worker, which may have it already, or wait for another."""
        id, sender, answer, weights_N = what
        if (until := self._still.get(f"worker-{id}", 0.0)) > self.now:
            self._agenda.after(until - self.now, self._heard, what)
            return
        asked = self._asked.get(id)
        if asked is None or sender.key not in asked.open:
            return
        _, request = asked.open[sender.key]
        assert isinstance(answer, Exchanged | Refused | Granted | NoMoreLeases)
        if answer.number != getattr(request, "number"):  # noqa: B009 -- every request of a worker has one
            return
        if sender.key in asked.unheard:
            asked.unheard.discard(sender.key)
            self._lost(sender, request)
            return
        if sender.key in asked.dying:
            self._lose(self._workers[id])
            return
        del asked.open[sender.key]
        if weights_N is not None:
            cast("Tensor", cast("Exchange", request).weights_N).copy_(weights_N)
        self._answered((id, sender, answer))

    def _computed(self, worker: SimulatedWorker) -> None:
        if (until := self._still.get(f"worker-{worker.id}", 0.0)) > self.now:
            self._agenda.after(until - self.now, self._computed, worker)
            return
        super()._computed(worker)

    def _leave(self, worker: SimulatedWorker) -> None:
        self._asked.pop(worker.id, None)
        super()._leave(worker)


def _in_a_mailbox(message: Message) -> Message:
    """An exchange with vectors of its own; any other message as it is."""
    if not isinstance(message, Exchange):
        return message
    push = message.push and replace(message.push, gradient_N=message.push.gradient_N.clone())
    weights_N = None if message.weights_N is None else torch.empty_like(message.weights_N)
    return replace(message, push=push, weights_N=weights_N)


def _key(message: Message) -> int:
    """The key of the actor that a worker's message is for."""
    return message.shard if isinstance(message, Exchange) else LEDGER_KEY


def _errand(message: Message, to: Address) -> Errand | None:
    """The name of a message between actors that is sent until it is answered; None for any other."""
    match message:
        case WhoHas() | CloseRound() | TakeInventory():
            return "question", to.index, message.number, 0
        case Sample():
            return "sample", message.shard, message.version, message.incarnation
        case _:
            return None


def _answered_errand(message: Message) -> Errand | None:
    """The name of what this message answers."""
    match message:
        case Has() | RoundClosed() | Inventory() if message.number:
            return "question", message.shard, message.number, 0
        case SampleTaken():
            return "sample", message.shard, message.version, message.incarnation
        case _:
            return None
