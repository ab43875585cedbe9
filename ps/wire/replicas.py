"""Replicas: the server of a shard that has a standby, or is one (see ps.standby), and the way from one to the other.

Forwards leave in their order, and several are under way at once. They are sent until they are answered, or until the
standby is given up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from hashlib import sha256
from typing import TypeVar

from ps.errors import PeerLost, PeerRefused, RunFailed
from ps.journal import Record
from ps.messages import JOURNAL, Forward, Message, Role
from ps.shard import Outbox
from ps.snapshot import encode
from ps.standby import Replica, Seed, Standing
from ps.states import ShardState, State
from ps.wire.client import Peer
from ps.wire.files import JournalWriter
from ps.wire.server import Gate, Interference, MachineServer

FORWARD_SECONDS = 30.0
TICK_SECONDS = 1.0
RETRY_SECONDS = 0.1
UNDER_WAY = 4  # Forwards; fewer than the calls that the other end lets in at once, or they might wait for each other
LOOK_SECONDS = 0.002

log = logging.getLogger("distbelief.wire")

T = TypeVar("T")


class NoJournal:
    """In the place of a journal, for a standby: another writes it."""

    def write(self, records: object) -> None:
        """Raises RunFailed."""
        raise RunFailed("a standby has something to record before it took over")

    def sync(self) -> None:
        """There is nothing."""

    def close(self) -> None:
        """Likewise."""


class Forwarding:
    """Sends Forwards to a standby. Use it on one event loop.

    Args:
        deliver: Takes the answers.
    """

    def __init__(self, deliver: Callable[[Message], None]) -> None:
        self._deliver = deliver
        self._waiting: asyncio.Queue[Forward] = asyncio.Queue()
        self._peer: Peer | None = None
        self._senders: list[asyncio.Task[None]] = []

    def send(self, forward: Forward) -> None:
        """As soon as it may be."""
        self._waiting.put_nowait(forward)

    def begin(self, peer: Peer) -> None:
        """Send them there from here on."""
        self._peer = peer
        self._senders = [asyncio.get_running_loop().create_task(self._run(peer)) for _ in range(UNDER_WAY)]

    async def end(self) -> None:
        """Give up the standby, and what is on its way there."""
        senders, self._senders = self._senders, []
        peer, self._peer, self._waiting = self._peer, None, asyncio.Queue()
        for sender in senders:
            sender.cancel()
        await asyncio.gather(*senders, return_exceptions=True)
        if peer is not None:
            await peer.close()

    async def _run(self, peer: Peer) -> None:
        waiting = self._waiting
        while True:
            forward = await waiting.get()
            while True:
                try:
                    answer = await peer.exchange(forward, FORWARD_SECONDS)
                except PeerLost:
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
                except PeerRefused as error:  # it has taken over: nobody will hear of what is held back
                    log.error("the standby refused what it was forwarded: %s", error)
                    return
                break
            try:
                self._deliver(answer)
            except (RunFailed, ValueError) as error:
                log.error("%s", error)
                return


class ReplicaServer(MachineServer):
    """Serves a replica.

    Args:
        machine, gate, journal, clock, interference, says: As of MachineServer; `journal` is None for a standby.
    """

    def __init__(
        self,
        machine: Replica,
        gate: Gate,
        journal: JournalWriter | None,
        clock: Callable[[], float],
        interference: Interference | None = None,
        says: Outbox | None = None,
    ) -> None:
        super().__init__(machine, gate, journal or NoJournal(), clock, TICK_SECONDS, interference, says)
        self._replica = machine
        self._clock = clock
        self._forwarding = Forwarding(self._actor.deliver)
        self._actor.route(Role.STANDBY, self._forwarding.send)

    def seed(self, target: str) -> Seed:
        """Begin to forward to a standby at "host:port"; return what it begins with. One that it has is gone: this waits
        for the ledger to say so.

        Raises:
            ValueError: The ledger says that the other one went on.
        """
        return self._loop.run(self._seed(target))

    async def _seed(self, target: str) -> Seed:
        self._part()
        while self._replica.standing is not Standing.ALONE:
            if self._replica.granted is False:
                raise ValueError("its standby went on in its place")
            await asyncio.sleep(LOOK_SECONDS)
        await self._forwarding.end()
        seed, outbox = self._replica.seed(self._clock())
        self._forwarding.begin(Peer(target, self._gate.token, identity=self._gate.identity))
        self._actor.take(outbox)
        return seed

    def follow(self, seed: Seed) -> None:
        """Begin with this."""
        self._loop.call(lambda: self._actor.take(self._replica.follow(seed)))

    def part(self) -> None:
        """The standby is gone: go on alone, as soon as the ledger grants it."""
        self._loop.call(self._part)

    def _part(self) -> None:
        self._actor.take(self._replica.claim())

    def claim(self) -> None:
        """The one that leads is gone: have the ledger's word that this one goes on.

        Raises:
            ValueError: It does not. Nothing was changed.
        """
        self._loop.run(self._claim())

    async def _claim(self) -> None:
        self._actor.take(self._replica.claim())
        while self._replica.granted is None:
            await asyncio.sleep(LOOK_SECONDS)
        if not self._replica.granted:
            raise ValueError("the ledger let that one go on alone before")

    def standing(self) -> Standing:
        """How it and its standby stand."""
        return self._loop.call(lambda: self._replica.standing)

    def succeed(
        self,
        journal: JournalWriter,
        recorded: int,
        first: Record,
        interference: Interference | None = None,
        cut: int = 0,
    ) -> None:
        """Lead in the place of the one that is gone; the ledger has granted the claim.

        Args:
            journal: Goes on where that one's ended.
            recorded, cut: As of Replica.succeed.
            first: What is recorded before anything else.
            interference: As of MachineServer.

        Raises:
            ValueError: As of Replica.succeed. Nothing was changed.
        """

        def succeed() -> None:
            outbox = self._replica.succeed(self._clock(), recorded, cut)
            self._interference = interference
            self._actor.take([(JOURNAL, first), *outbox], journal)

        self._loop.call(succeed)

    def save(self, snapshot: int, write: Callable[[State], T]) -> T:
        """As of MachineServer; a state is written when the standby holds it too."""
        state = self._loop.run(self._save(snapshot))
        self._actor.sync_journal()
        return write(state)

    async def _save(self, snapshot: int) -> State:
        if (failure := self._actor.failure) is not None:
            raise failure
        state, number = self._replica.state(), self._replica.number
        self._actor.take(self._replica.in_order([(JOURNAL, self._replica.saved(self._clock(), snapshot))]))
        while self._replica.holds_back(number):
            await asyncio.sleep(LOOK_SECONDS)
        return state

    def digest(self) -> tuple[int, str]:
        """Version, and SHA-256 (hexadecimal) of all that it remembers."""
        state: ShardState = self._loop.call(self._replica.state)
        return state.version, sha256(b"".join(encode(state))).hexdigest()

    async def _stop(self) -> None:
        await self._forwarding.end()
        await super()._stop()
