"""Membership: a guest's side of a gateway (ps.wire.gateway): it is part of the run while this is open."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from ps.errors import PeerLost, PeerRefused
from ps.wire import gateway_pb2 as pb
from ps.wire.client import OPTIONS, TOKEN, Loop
from ps.wire.gateway import GATEWAY, KEEPALIVE, Invitation
from ps.wire.tls import Identity

JOIN_SECONDS = 20.0
LEAVE_SECONDS = 5.0


def resize(target: str, token: str, door: Identity, add: int) -> int:
    """Let a run have so many more workers of its own, or fewer; return how many it has then. Arguments as of
    Membership.

    Raises:
        PeerRefused: Wrong token, or it cannot have so many.
        PeerLost: Nobody answers.
    """
    loop = Loop("distbelief-resize")

    async def ask() -> int:
        async with door.channel(target, OPTIONS) as channel:
            method: Any = channel.unary_unary(f"/{GATEWAY}/Resize", None, None)
            request = pb.ResizeRequest(add=add).SerializeToString()
            reply = await method(request, metadata=((TOKEN, token),), timeout=JOIN_SECONDS)
            return int(pb.ResizeReply.FromString(reply).workers)

    try:
        return loop.run(ask())
    except grpc.aio.AioRpcError as error:
        refused = error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.INVALID_ARGUMENT)
        raise (PeerRefused if refused else PeerLost)(str(error.details() or error.code().name)) from error
    finally:
        loop.close()


class Membership:
    """One process's membership. `join`, `send` its journal as it grows, `leave`.

    Args:
        target: The gateway's "host:port".
        token: The run's token.
        door: What the gateway must prove itself with.
    """

    def __init__(self, target: str, token: str, door: Identity) -> None:
        self._target = target
        self._loop = Loop("distbelief-membership")
        self._channel = self._loop.call(lambda: door.channel(target, [*OPTIONS, *KEEPALIVE]))
        self._metadata = ((TOKEN, token),)
        self._stream: Any = None

    def join(self, workers: int, version: str) -> tuple[Invitation, int]:
        """Become a member with so many workers; return what the run tells, and the first worker's id (the others
        follow it).

        Raises:
            PeerRefused: Wrong token or version.
            PeerLost: Nobody answers, or not with the gateway's certificate.
        """
        return self._loop.run(self._join(workers, version))

    async def _join(self, workers: int, version: str) -> tuple[Invitation, int]:
        method: Any = self._channel.stream_stream(f"/{GATEWAY}/Join", None, None)
        self._stream = method(metadata=self._metadata)
        hello = pb.Guest(hello=pb.Hello(workers=workers, version=version))
        try:
            async with asyncio.timeout(JOIN_SECONDS):
                await self._stream.write(hello.SerializeToString())
                reply = await self._stream.read()
                if not isinstance(reply, bytes):
                    raise PeerLost(f"{self._target}: closed the connection without an answer")
        except TimeoutError:
            raise PeerLost(f"{self._target}: no answer within {JOIN_SECONDS:g} s") from None
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise await self._why(error) from error
        welcome = pb.Welcome.FromString(reply)
        told = Invitation(welcome.run, welcome.config, version, welcome.parameters, welcome.data)
        return told, welcome.first_worker

    async def _why(self, error: Exception) -> PeerLost | PeerRefused:
        code, details = await self._stream.code(), await self._stream.details()
        if code is grpc.StatusCode.UNAVAILABLE:
            return PeerLost(f"{self._target}: {details}")
        return PeerRefused(str(details or error))

    @property
    def ended(self) -> bool:
        """Whether the gateway has ended it."""
        return self._stream is None or self._stream.done()

    def send(self, journal: bytes) -> None:
        """Hand in the next piece of the journal. Raises PeerLost if the gateway is gone."""
        self._loop.run(self._send(journal))

    async def _send(self, journal: bytes) -> None:
        try:
            await self._stream.write(pb.Guest(journal=journal).SerializeToString())
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise PeerLost(f"{self._target}: the run's gateway is gone") from error

    def leave(self) -> None:
        """End the membership; return when the gateway has everything that was sent, or is gone."""
        self._loop.run(self._leave())
        self._loop.close()

    async def _leave(self) -> None:
        if self._stream is not None and not self._stream.done():
            try:
                async with asyncio.timeout(LEAVE_SECONDS):
                    await self._stream.done_writing()
                    await self._stream.read()
            except (TimeoutError, grpc.aio.AioRpcError, asyncio.InvalidStateError):
                self._stream.cancel()
        await self._channel.close(None)
