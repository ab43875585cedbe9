"""Asking: one worker's messages to several actors at once, sent until all are answered.

If one call is lost, those that are still under way are given up with it: what they carry lies in the same memory. Then
that memory is renewed, so that a late actor can do no harm, and whoever has not answered is asked again under the same
number. An actor that has already done what it was asked says so.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time  # noqa: TID251 -- the live clock
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress

from ps.errors import PeerLost
from ps.messages import Address, Exchange, Message, Read, Sample
from ps.wire.client import Peer
from ps.wire.mailbox import SharedVectors
from ps.wire.server import Interference

log = logging.getLogger("distbelief.asking")

EXCHANGE_SECONDS = 120.0  # deadline of one call; the same call is made again after it
PATIENCE_SECONDS = 120.0  # how long an actor may be out of reach before its workers give up
RETRY_SECONDS = 0.25


class Asking:
    """Asks for all workers of a host.

    Args:
        peers: The actors.
        vectors: Where the workers' vectors were made.
        stopping: Once it is set, a lost call is not made again.
        interference: What messages pass before they are sent.
    """

    def __init__(
        self,
        peers: Mapping[Address, Peer],
        vectors: SharedVectors,
        stopping: threading.Event,
        interference: Interference | None = None,
    ) -> None:
        self._peers = peers
        self._vectors = vectors
        self._stopping = stopping
        self._interference = interference
        self._waiting: set[asyncio.Task[Message | None]] = set()  # for a lease: that may take as long as the run

    def stop_waiting(self) -> None:
        """Give up every wait for a lease. `stopping` is set before; safe from any thread."""
        for task in tuple(self._waiting):
            with suppress(RuntimeError):  # its loop was closed meanwhile: nobody waits any more
                task.get_loop().call_soon_threadsafe(task.cancel)

    async def all(self, requests: Sequence[tuple[Address, Message]]) -> tuple[Message, ...]:
        """The answers, in the order of the requests.

        Raises:
            PeerLost: An actor was out of reach for PATIENCE_SECONDS.
            PeerRefused: An actor refused.
        """
        answers: dict[int, Message] = {}
        lost_since: float | None = None
        while True:
            began = time.monotonic()
            try:
                await self._ask(requests, answers)
                return tuple(answers[index] for index in range(len(requests)))
            except PeerLost as error:
                log.warning("asking again: %s", error)
                if self._stopping.is_set():
                    raise
                self._vectors.renew(message for index, (_, message) in enumerate(requests) if index not in answers)
                if time.monotonic() - began >= EXCHANGE_SECONDS:
                    lost_since = None  # it was there and let us wait: a place in line
                    continue
                lost_since = lost_since or began
                if time.monotonic() - lost_since > PATIENCE_SECONDS:
                    raise
                await asyncio.sleep(RETRY_SECONDS)

    async def tell(self, to: Address, message: Message) -> None:
        """Send a message that has no answer, until it is heard. Raises PeerLost after PATIENCE_SECONDS."""
        began = time.monotonic()
        while True:
            try:
                await self._peers[to].ask(message, EXCHANGE_SECONDS)
                return
            except PeerLost:
                if self._stopping.is_set() or time.monotonic() - began > PATIENCE_SECONDS:
                    raise
                await asyncio.sleep(RETRY_SECONDS)

    async def _ask(self, requests: Sequence[tuple[Address, Message]], answers: dict[int, Message]) -> None:
        """Ask whoever has not answered, all at once; raise what the first failing call raised, after all have ended."""
        if len(requests) == 1:
            answers[0] = await self._once(*requests[0])
            return
        calls = {
            index: asyncio.ensure_future(self._once(to, message))
            for index, (to, message) in enumerate(requests)
            if index not in answers
        }
        try:
            await asyncio.wait(calls.values(), return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for call in calls.values():
                call.cancel()
            ended = await asyncio.gather(*calls.values(), return_exceptions=True)
        failed = [end for end in ended if isinstance(end, BaseException)]
        answers |= {index: end for index, end in zip(calls, ended, strict=True) if not isinstance(end, BaseException)}
        for error in failed:
            if not isinstance(error, asyncio.CancelledError):
                raise error

    async def _once(self, to: Address, message: Message) -> Message:
        async def carry(message: Message) -> Message | None:
            if isinstance(message, Exchange | Sample | Read):
                return await self._peers[to].exchange(message, EXCHANGE_SECONDS)
            return await self._wait(self._peers[to].ask(message, EXCHANGE_SECONDS))

        interference = self._interference
        answer = await (carry(message) if interference is None else interference.passes(message, carry))
        assert answer is not None, f"{type(message).__name__} was not answered"
        return answer

    async def _wait(self, asking: Coroutine[None, None, Message | None]) -> Message | None:
        """The answer to a call that `stop_waiting` gives up."""
        waiting = asyncio.ensure_future(asking)
        self._waiting.add(waiting)
        try:
            if self._stopping.is_set():
                raise PeerLost("stopping")
            return await waiting
        finally:
            waiting.cancel()
            self._waiting.discard(waiting)
