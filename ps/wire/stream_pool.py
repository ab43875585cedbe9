"""Stream pool: the worker's end of the connections that vectors go on (see ps.wire.line), for an event loop.

A stream is opened when all others are busy and kept for the next exchange. If none can be opened the caller goes
another way: for good if the other end has none, else until it is tried again, since something in between may let only
gRPC through, or it may have been slow just once. The longer it does not go, the more seldom it is tried.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import grpc
from msgspec.structs import replace

from ps.errors import PeerLost
from ps.messages import Exchange, Exchanged, Forward, Message, Read, ReadDone, Sample, Wire
from ps.rounding import DTYPES, Stochastic
from ps.wire.codec import from_envelope, parse_envelope, to_envelope
from ps.wire.line import HELLO_SECONDS, LENGTH_BYTES, CallFailed, Carrying, Line, headed, proof

if TYPE_CHECKING:
    from ps.wire.tls import Identity

MOST_STREAMS = 256  # under way at once to one peer; further exchanges wait
RETRY_SECONDS = 5.0  # after the first failure to open one; four times as long after each that follows

log = logging.getLogger("distbelief.wire")

T = TypeVar("T")


class StreamClient(Line):
    """A connection to one actor. Its calls block.

    Args:
        seed: The run's root seed, which rounding draws from.
    """

    def __init__(self, host: str, port: int, token: str, seed: int, identity: Identity | None) -> None:
        super().__init__(socket.create_connection((host, port), HELLO_SECONDS))
        try:
            if identity is not None:
                self.secure(identity.client_context(), identity.name)
            self.send(proof(token))
        except BaseException:
            self.close()
            raise
        self.patient(None)
        self._seed = seed

    def exchange(self, message: Carrying, wire: Wire) -> Message:
        """Send a message with its vector, and fill the buffer that its answer's vector belongs in.

        Raises:
            CallFailed: The other end does not do it.
            OSError, EOFError, WireError: Whether it does is not known.
        """
        if isinstance(message, Exchange):
            message = replace(message, wire=wire)
        try:
            self.send(headed(to_envelope(message).SerializeToString()))
            match message:
                case Exchange(push=push) if push is not None:
                    self.send_vector(push.gradient_N, self._rounding(push.lease, message.shard, wire))
                case Sample():
                    self.send_vector(message.weights_N, None)
                case Forward(message=Exchange(push=push)) if push is not None:
                    self.send_vector(push.gradient_N, None if wire is Wire.FLOAT32 else lambda g: g.to(DTYPES[wire]))
        except OSError:  # perhaps it was refused meanwhile
            with suppress(OSError, EOFError):
                self._answer()
            raise
        answer = self._answer()
        if isinstance(answer, Exchanged | ReadDone):
            received_N = message.weights_N if isinstance(message, Exchange) else None
            received_N = message.out_N if isinstance(message, Read) else received_N
            if received_N is not None:
                self.fill_vector(received_N, wire)
        return answer

    def _rounding(self, lease: int, shard: int, wire: Wire) -> Stochastic | None:
        return None if wire is Wire.FLOAT32 else Stochastic(wire, self._seed, lease, shard)

    def _answer(self) -> Message:
        (status,) = self.exactly(1)
        head = self.head(self.exactly(LENGTH_BYTES))
        if status:
            code = next((code for code in grpc.StatusCode if code.value[0] == status), grpc.StatusCode.UNKNOWN)
            raise CallFailed(code, head.decode(errors="replace"))
        return from_envelope(parse_envelope(head))


class StreamPool:
    """Use it on one event loop. Arguments as of Peer.

    `port`: asks the peer where its streams are; 0: nowhere.
    """

    def __init__(
        self, target: str, token: str, seed: int, identity: Identity | None, port: Callable[[], Awaitable[int]]
    ) -> None:
        self._target, self._token, self._seed, self._identity = target, token, seed, identity
        self._ask_port = port
        self._port: int | None = None  # None: not known yet
        self._failures = 0  # to open one, since one was opened
        self._closed_until = 0.0  # by the loop's clock
        self._idle: list[StreamClient] = []
        self._busy: set[StreamClient] = set()
        self._threads = ThreadPoolExecutor(MOST_STREAMS, "distbelief-stream")

    async def exchange(self, message: Carrying, wire: Wire, timeout_seconds: float) -> Message | None:
        """The answer, or None if there is no way now: nothing happened.

        Raises:
            CallFailed: The peer does not do it.
            PeerLost: Whether it does is not known.
        """
        stream = answer = None
        try:
            async with asyncio.timeout(timeout_seconds):
                stream = self._idle.pop() if self._idle else await self._open()
                if stream is None:
                    return None
                self._busy.add(stream)
                answer = await self._in_thread(stream.exchange, message, wire, broken_off_by=stream.break_off)
        except TimeoutError:
            raise PeerLost(f"{self._target}: no answer within {timeout_seconds:g} s (DEADLINE_EXCEEDED)") from None
        except (OSError, EOFError) as error:
            raise PeerLost(f"{self._target}: the stream broke: {error!r}") from error
        finally:
            if stream is not None:
                self._busy.discard(stream)
                if answer is None:
                    stream.close()
                else:
                    self._idle.append(stream)
        return answer

    async def _open(self) -> StreamClient | None:
        if self._port is None:
            self._port = await self._ask_port()
        now = asyncio.get_running_loop().time
        if not self._port or now() < self._closed_until:
            return None
        host = self._target.rpartition(":")[0].strip("[]")
        opening = (StreamClient, host, self._port, self._token, self._seed, self._identity)
        try:
            stream = await self._in_thread(*opening)
        except OSError as error:
            if isinstance(error, ConnectionRefusedError):
                self._port = 0
            if not self._failures:
                log.warning("%s opens no stream (%r): vectors go through gRPC, and slower", self._target, error)
            self._closed_until = now() + RETRY_SECONDS * 4.0**self._failures
            self._failures += 1
            return None
        if self._failures:
            log.warning("%s opens streams again", self._target)
        self._failures = 0
        return stream

    async def _in_thread(
        self, function: Callable[..., T], *arguments: object, broken_off_by: Callable[[], None] = lambda: None
    ) -> T:
        """A blocking call's result. If it is not waited for any more it is broken off, and has ended on return."""
        call = asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            while not call.done():
                broken_off_by()
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([call])
            if not call.cancelled() and call.exception() is None and isinstance(made := call.result(), StreamClient):
                made.close()
            raise

    async def close(self) -> None:
        """Hang up."""
        for stream in self._busy:
            stream.break_off()
        for stream in self._idle:
            stream.close()
        await asyncio.to_thread(self._threads.shutdown)  # one may be opened still
