"""Actor: a state machine with its journal, on an event loop.

Everything that reaches the machine does so on this one loop, one message at a time; so the machine needs no lock. What
`handle` returns goes out in this order: records to the journal, in one write, then the answers. An answer goes to
whoever asked with that number, at once or when the machine gets to it. Messages to other actors are sent until they are
answered, and the answer is handled like any message.

Exchanges that arrive while another is being made are handled right after it, one after the other, but their updates go
through the shard's memory together: the more workers wait, the less each costs. Nobody is answered before all are made.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, runtime_checkable

from ps.errors import PeerLost, PeerRefused, RunFailed
from ps.journal import Record
from ps.messages import (
    JOURNAL,
    LEDGER,
    Address,
    Claim,
    CloseRound,
    Exchange,
    Exchanged,
    Forward,
    Forwarded,
    Granted,
    Has,
    Inventory,
    Message,
    NextLease,
    NoMoreLeases,
    Read,
    ReadDone,
    Refused,
    Role,
    RoundClosed,
    Ruling,
    Sample,
    SampleTaken,
    TakeInventory,
    Tick,
    WhoHas,
)
from ps.shard import Outbox
from ps.states import State
from ps.wire.client import Peer
from ps.wire.codec import Status

SEND_SECONDS = 30.0
RETRY_SECONDS = 0.5

log = logging.getLogger("distbelief.wire")

_Together = Callable[[], AbstractContextManager[None]]


class Machine(Protocol):
    """What shard, ledger and averager have in common. `handle` raises TypeError or ValueError for a message that it
    does not take, before it changes anything; after any other exception the machine cannot be trusted any more."""

    def handle(self, now: float, message: Message) -> Outbox: ...
    def status(self) -> Status: ...


@runtime_checkable
class Lasting(Protocol):
    """A machine whose state can be saved."""

    def state(self) -> State: ...
    def saved(self, now: float, snapshot: int) -> Record: ...


class Journal(Protocol):
    """Where an actor's records go. `write` returns when they survive the process."""

    def write(self, records: Iterable[Record]) -> None: ...
    def sync(self) -> None: ...
    def close(self) -> None: ...


class Superseded(Exception):  # noqa: N818 -- it says what happened, to whom it matters
    """The same question was asked again, on another call, which gets the answer."""


class Actor:
    """Use it on one event loop.

    Args:
        machine: The state machine; only this object calls it from here on. A shard's `together` is used if it has one.
        journal: Its journal; written and closed here.
        clock: Seconds; the `now` of every message.
        says: What the machine has to say as soon as it knows where the others are.
    """

    def __init__(
        self, machine: Machine, journal: Journal, clock: Callable[[], float], says: Outbox | None = None
    ) -> None:
        self._says = says or []
        self._machine = machine
        self._together: _Together = getattr(machine, "together", nullcontext)
        self._journal = journal
        self._clock = clock
        self._asked: dict[tuple[Address, int], asyncio.Future[Message]] = {}
        self._arrived: list[tuple[Exchange | Forward, asyncio.Future[Message]]] = []  # exchanges, not handled yet
        self._routes: dict[Role, Callable[[Any], None]] = {}
        self._peers: dict[Address, Peer] = {}
        self._left: list[Peer] = []  # connections to where an actor is not any more
        self._sampling = asyncio.Lock()
        self._errands: set[asyncio.Task[None]] = set()
        self._failure: RunFailed | None = None  # set once: from then on every message is refused

    @property
    def failure(self) -> RunFailed | None:
        """Why nothing is handled any more, if so."""
        return self._failure

    def connect(self, peers: Mapping[Address, Peer]) -> None:
        """Say where the actors are that the machine sends messages to, or where one of them is by now."""
        self._left += [self._peers[to] for to in peers if to in self._peers]
        self._peers |= peers
        says, self._says = self._says, []
        self._dispatch(says)

    def route(self, role: Role, send: Callable[[Any], None]) -> None:
        """Let messages to this role go this way."""
        self._routes[role] = send

    def take(self, outbox: Outbox, journal: Journal | None = None) -> None:
        """Record and send what the machine has to say without being asked.

        Args:
            journal: Its journal from here on.
        """
        self._journal = journal or self._journal
        self._dispatch(self._recorded(outbox))

    def save(self, snapshot: int) -> State:
        """The machine's state as of now, which its journal says became this snapshot.

        Raises:
            TypeError: Not of a machine whose state can be saved.
            RunFailed: The journal is broken.
        """
        if self._failure is not None:
            raise self._failure
        if not isinstance(self._machine, Lasting):
            raise TypeError(f"{type(self._machine).__name__}: got a call to save it, expected a shard or the averager")
        self._recorded([(JOURNAL, self._machine.saved(self._clock(), snapshot))])
        return self._machine.state()

    def sync_journal(self) -> None:
        """Make durable what was recorded; from any thread."""
        self._journal.sync()

    def status(self) -> Status:
        return self._machine.status()

    async def close(self) -> None:
        """Give up what is on its way and hang up. The journal stays open until `close_journal`."""
        for errand in self._errands:
            errand.cancel()
        for peer in [*self._peers.values(), *self._left]:
            await peer.close()

    def close_journal(self) -> None:
        self._journal.close()

    async def answer(self, message: Message) -> Message | None:
        """Let the machine handle a message; return its answer once there is one, or None if its kind has none.

        Raises:
            TypeError, ValueError: The machine does not take it; nothing happened.
            RunFailed: The machine or its journal is broken.
            Superseded: Somebody else gets the answer.
        """
        if (key := _asker(message)) is None:
            self.deliver(message)
            return None
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        if (earlier := self._asked.get(key)) is not None and not earlier.done():
            earlier.set_exception(Superseded(f"{type(message).__name__} was sent again on another call"))
        self._asked[key] = future
        try:
            if isinstance(message, Exchange | Forward):
                self._queue(message, future)
            else:
                self.deliver(message)
            return await future
        finally:
            if self._asked.get(key) is future:
                del self._asked[key]

    def deliver(self, message: Message) -> None:
        """Let the machine handle a message at once. Raises as `answer`."""
        self._dispatch(self._recorded(self._handled(message)))

    # --- exchanges, as many as there are ------------------------------------------------------------------------------

    def _queue(self, message: Exchange | Forward, future: asyncio.Future[Message]) -> None:
        if not self._arrived:
            asyncio.get_running_loop().call_soon(self._exchange)
        asker = _asker(message)  # a retry takes the place of the first call, whose answer would be taken for its own
        self._arrived = [each for each in self._arrived if _asker(each[0]) != asker]
        self._arrived.append((message, future))

    def _exchange(self) -> None:
        """Handle the exchanges that have arrived."""
        arrived, self._arrived = self._arrived, []
        outbox: Outbox = []
        try:
            with self._together():
                for message, future in arrived:
                    try:
                        outbox += self._handled(message)
                    except (TypeError, ValueError, RunFailed) as error:
                        if not future.done():
                            future.set_exception(error)
            self._dispatch(self._recorded(outbox))
        except Exception as error:  # noqa: BLE001  whatever it is, updates are half made
            self._failure = self._failure or RunFailed(f"could not make the updates: {error!r}")
            for _, future in arrived:
                if not future.done():
                    future.set_exception(self._failure)

    # --- the machine --------------------------------------------------------------------------------------------------

    def _handled(self, message: Message) -> Outbox:
        if self._failure is not None:
            raise self._failure
        try:
            return self._machine.handle(self._clock(), message)
        except (TypeError, ValueError):
            raise
        except Exception as error:
            self._failure = RunFailed(f"could not handle {type(message).__name__}: {error!r}")
            raise self._failure from error

    def _recorded(self, outbox: Outbox) -> Outbox:
        try:
            if records := [item for to, item in outbox if to == JOURNAL]:
                self._journal.write(records)  # type: ignore[arg-type]  # what goes to JOURNAL is a record
        except Exception as error:
            self._failure = RunFailed(f"could not write the journal: {error}")
            raise self._failure from error
        return outbox

    def _dispatch(self, outbox: Outbox) -> None:
        """Send what the machine has to say, but for its records."""
        for to, item in outbox:
            if to == JOURNAL:
                continue
            asker = to, _number(item)
            future = self._asked.get(asker)
            if self._routes and any(_asker(message) == asker for message, _ in self._arrived):
                continue  # it was asked for again, and this answer, which was held back, is of the first time
            if future is not None and not future.done():
                future.set_result(item)  # type: ignore[arg-type]  # what goes to anyone else is a message
            elif to.role in self._routes:
                self._routes[to.role](item)
            elif to in self._peers:
                self.run_errand(self._send(to, item))

    # --- other actors -------------------------------------------------------------------------------------------------

    async def _send(self, to: Address, message: Any) -> None:
        """Send a message to another actor until it is answered; handle the answer. Samples go one after the other: the
        average has no place for one that comes after a later one.
        """
        async with self._sampling if isinstance(message, Sample) else nullcontext():
            await self._until_answered(to, message)

    async def _until_answered(self, to: Address, message: Any) -> None:
        while True:
            peer = self._peers[to]  # it may be elsewhere by now
            try:
                if isinstance(message, Exchange | Sample | Read):
                    answer: Message | None = await peer.exchange(message, SEND_SECONDS)
                else:
                    answer = await peer.ask(message, SEND_SECONDS)
            except PeerLost:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            except PeerRefused as error:
                log.error("%s refused %s: %s", to, type(message).__name__, error)
                if isinstance(message, Sample):  # else its buffer would wait for ever, and two of them end all samples
                    self.deliver(SampleTaken(message.shard, message.incarnation, message.version))
                return
            if answer is not None:
                self.deliver(answer)
            return

    async def tick(self, seconds: float) -> None:
        """Deliver a Tick every so often."""
        while True:
            await asyncio.sleep(seconds)
            try:
                self.deliver(Tick())
            except (TypeError, ValueError) as error:  # it changed nothing, and the next one is due all the same
                log.error("could not handle a Tick: %r", error)

    def run_errand(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run this beside everything else, until `close`."""
        errand = asyncio.get_running_loop().create_task(coroutine)
        self._errands.add(errand)
        errand.add_done_callback(self._ended)

    def _ended(self, errand: asyncio.Task[None]) -> None:
        self._errands.discard(errand)
        if not errand.cancelled() and (error := errand.exception()) is not None:
            log.error("%s", error)


def _asker(message: Message) -> tuple[Address, int] | None:
    """Who waits for the answer to this message, and under which number."""
    match message:
        case NextLease() | Exchange():
            return Address(Role.WORKER, message.worker), message.number
        case WhoHas() | CloseRound() | TakeInventory():
            return LEDGER, message.number
        case Sample():
            return Address(Role.SHARD, message.shard), message.version
        case Read():
            return message.reader, message.number
        case Forward():
            return Address(Role.SHARD, message.shard), message.number
        case Claim():
            return Address(Role.SHARD if message.leads else Role.STANDBY, message.shard), message.pair
        case _:
            return None


def _number(answer: Any) -> int:
    """The number of the request that this answers; -1 for a message that answers nothing."""
    match answer:
        case Granted() | NoMoreLeases() | Exchanged() | Refused() | Has() | RoundClosed() | ReadDone() | Inventory():
            return answer.number
        case Forwarded():
            return answer.number
        case SampleTaken():
            return answer.version
        case Ruling():
            return answer.pair
        case _:
            return -1
