"""Server: one state machine behind gRPC.

Says who is let in, and carries messages between calls and the actor (see ps.wire.actor); what a refusal or a failure
looks like to a caller is decided here.

A vector is received into, and sent from, buffers that belong to one call, or it lies in a mailbox, memory that the
worker shares with this process; a call that was given up can write into nothing that anyone still looks at.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar
from weakref import WeakValueDictionary

import grpc
import torch

from ps.errors import PeerLost, RunFailed, WireError
from ps.messages import (
    Address,
    Exchange,
    Exchanged,
    Forward,
    Message,
    Read,
    ReadDone,
    Sample,
)
from ps.rounding import DTYPES, nearest
from ps.shard import Outbox
from ps.states import State
from ps.wire import parameter_server_pb2 as pb
from ps.wire.actor import Actor, Journal, Machine, Superseded
from ps.wire.admission import Admission, hear_out
from ps.wire.client import OPTIONS, SERVICE, Loop, Peer
from ps.wire.codec import (
    FrameSink,
    Payload,
    Traffic,
    encode_status,
    frames,
    from_envelope,
    pack,
    parse_envelope,
    payload,
    to_envelope,
    unpack,
)
from ps.wire.line import CallFailed
from ps.wire.mailbox import Memory, MemoryElsewhere, OpenMemories
from ps.wire.streams import StreamServer
from ps.wire.tls import Identity

CALLS_AT_ONCE = 8  # calls that hold buffers; others wait unread, and flow control holds their senders
_CODES: dict[type[Exception], grpc.StatusCode] = {  # what a message that is not answered looks like to its sender
    TypeError: grpc.StatusCode.INVALID_ARGUMENT,
    ValueError: grpc.StatusCode.INVALID_ARGUMENT,
    RunFailed: grpc.StatusCode.INTERNAL,
    PeerLost: grpc.StatusCode.UNAVAILABLE,
    Superseded: grpc.StatusCode.ABORTED,
}

log = logging.getLogger("distbelief.wire")


T = TypeVar("T")
Carry = Callable[[Message], Awaitable[Message | None]]


class Interference(Protocol):
    """What stands between an actor and the messages that reach it, so that things can go wrong on purpose."""

    async def passes(self, message: Message, carry: Carry) -> Message | None:
        """Let a message through, by `carry`, once, or not, or changed, or more often; return its answer.

        Raises:
            PeerLost: The message, or its answer, is lost.
        """


@dataclass(frozen=True, slots=True)
class Gate:
    """What a server lets in: calls with the token, and vectors of exactly the length of the shard they name.

    `identity`: what it proves itself with; None: it speaks without TLS.
    """

    token: str
    elements: Mapping[int, int]
    identity: Identity | None = None


class MachineServer:
    """Serves a state machine until it is stopped.

    Args:
        machine: The state machine; only this server calls it from here on.
        gate: What is let in.
        journal: The actor's journal; the server writes and closes it.
        clock: Seconds; the `now` of every message.
        tick_seconds: Period of Tick messages; 0 for none.
        interference: What calls pass on their way to the machine.
        says: What the machine has to say as soon as it knows where the others are.
    """

    def __init__(
        self,
        machine: Machine,
        gate: Gate,
        journal: Journal,
        clock: Callable[[], float],
        tick_seconds: float = 0.0,
        interference: Interference | None = None,
        says: Outbox | None = None,
    ) -> None:
        self._actor = Actor(machine, journal, clock, says)
        self._gate = gate
        self._tick_seconds = tick_seconds
        self._interference = interference
        self._traffic = Traffic()
        self._admission = Admission(gate.token, self._traffic)
        self._server: grpc.aio.Server | None = None
        self._loop = Loop("distbelief-server")
        self._buffers = asyncio.Semaphore(CALLS_AT_ONCE)
        self._streams = StreamServer(gate.token, self._checked, self._carry, self._stranger, gate.identity)
        self._stream_port = 0
        self._carrying: set[Future[Message]] = set()  # what streams wait for
        self._memories: WeakValueDictionary[tuple[Memory, int], torch.Tensor] = WeakValueDictionary()

    def start(self, host: str) -> str:
        """Listen on a free port of this address; return "host:port"."""
        return self._loop.run(self._start(host))

    async def _start(self, host: str) -> str:
        server = self._server = grpc.aio.server(options=[*OPTIONS, ("grpc.so_reuseport", 0)])
        handlers = {
            "Ask": grpc.unary_unary_rpc_method_handler(self._ask),
            "Exchange": grpc.stream_stream_rpc_method_handler(self._exchange),
            "Whole": grpc.unary_unary_rpc_method_handler(self._whole),
            "Mailbox": grpc.stream_stream_rpc_method_handler(self._mailbox),
            "Stream": grpc.unary_unary_rpc_method_handler(self._stream),
            "Status": grpc.unary_unary_rpc_method_handler(self._status),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        if (identity := self._gate.identity) is None:
            port = server.add_insecure_port(f"{host}:0")
        else:
            port = server.add_secure_port(f"{host}:0", identity.server_credentials())
        if self._gate.elements:
            self._stream_port = self._streams.start(host)
        await server.start()
        if self._tick_seconds:
            self._actor.run_errand(self._actor.tick(self._tick_seconds))
        return f"{host}:{port}"

    def connect(self, targets: Mapping[Address, str]) -> None:
        """Say where the actors are that this machine sends messages to, or where one of them is by now."""

        def connect() -> None:
            token, identity = self._gate.token, self._gate.identity
            self._actor.connect({to: Peer(target, token, identity=identity) for to, target in targets.items()})

        self._loop.call(connect)

    def deliver(self, message: Message) -> None:
        """Hand the machine a message from within this process."""
        self._loop.call(lambda: self._actor.deliver(message))

    def save(self, snapshot: int, write: Callable[[State], T]) -> T:
        """Let `write` have the machine's state as of one moment; exchanges wait for the copy and not for `write`.

        Raises:
            RunFailed: The machine or its journal is broken.
            OSError: The journal cannot be made durable; or what `write` raises.
        """
        state = self._loop.call(lambda: self._actor.save(snapshot))
        self._actor.sync_journal()
        return write(state)

    def stop(self) -> None:
        """End all calls, close the journal, stop listening."""
        self._loop.run(self._stop())
        if self._stream_port:
            for future in tuple(self._carrying):
                future.cancel()
            self._streams.stop()
        self._loop.close()
        self._actor.close_journal()

    async def _stop(self) -> None:
        if self._server is not None:
            await self._server.stop(grace=0.2)
        await self._actor.close()

    # --- calls -------------------------------------------------------------------------------------------------------

    async def _ask(self, request: bytes, context: Any) -> bytes:
        await self._admission.admit(context)
        try:
            message = from_envelope(parse_envelope(request))
            if isinstance(message, Exchange | Sample | Read | Forward):
                raise WireError(f"{type(message).__name__} carries a vector: call Exchange, not Ask")
        except Exception as error:  # noqa: BLE001  whatever a peer sent, it gets a clear status and this server goes on
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"{type(error).__name__}: {error}")
        answer = await self._answered(message, context)
        reply = pb.Envelope(received=pb.Received()) if answer is None else to_envelope(answer)
        return reply.SerializeToString()

    async def _exchange(self, requests: AsyncIterator[bytes], context: Any) -> None:
        await self._admission.admit(context, requests)
        async with self._buffers:
            try:
                message, buffers = await self._receive(requests)
            except Exception as error:  # noqa: BLE001  as in _ask
                refusal = f"{type(error).__name__}: {error}"
            else:
                await self._carry_out(message, buffers, context)
                return
        await hear_out(requests)
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, refusal)

    async def _carry_out(self, message: Message, buffers: _Buffers, context: Any) -> None:
        answer = await self._answered(message, context)
        assert answer is not None, f"{type(message).__name__} was not answered"
        self._traffic.by_network += isinstance(message, Exchange)
        await context.write(to_envelope(answer).SerializeToString())
        if (outgoing_N := buffers.sent(answer)) is not None:
            for frame in frames(outgoing_N):
                await context.write(frame)

    async def _receive(self, requests: AsyncIterator[bytes]) -> tuple[Message, _Buffers]:
        """Read one request to its end, into a buffer of its own. Lengths are checked before anything is allocated."""
        stream = aiter(requests)
        envelope = parse_envelope(await anext(stream, b""))
        buffers = _Buffers(self._checked(envelope))
        sink = FrameSink(buffers.incoming_N)
        async for frame in stream:
            sink.add(frame)
        sink.close()
        return buffers.message(envelope), buffers

    async def _whole(self, request: bytes, context: Any) -> bytes:
        await self._admission.admit(context)
        try:
            envelope, body = unpack(request)
            buffers = _Buffers(self._checked(envelope))
            sink = FrameSink(buffers.incoming_N)
            sink.add(body)
            sink.close()
            message = buffers.message(envelope)
        except Exception as error:  # noqa: BLE001  as in _ask
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"{type(error).__name__}: {error}")
        answer = await self._answered(message, context)
        assert answer is not None, f"{type(message).__name__} was not answered"
        self._traffic.by_network += isinstance(message, Exchange)
        return pack(to_envelope(answer), buffers.sent(answer))

    async def _mailbox(self, requests: AsyncIterator[bytes], context: Any) -> None:
        """One worker's exchanges through memory, one after the other, until it hangs up."""
        await self._admission.admit(context, requests)
        opened = OpenMemories(self._gate.elements, self._memories)
        async for request in requests:
            try:
                message = opened.message(request)
            except MemoryElsewhere as error:
                await context.abort(grpc.StatusCode.NOT_FOUND, str(error))
            except Exception as error:  # noqa: BLE001  as in _ask
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"{type(error).__name__}: {error}")
            answer = await self._answered(message, context)
            assert answer is not None, f"{type(message).__name__} was not answered"
            self._traffic.by_memory += 1
            await context.write(to_envelope(answer).SerializeToString())

    def _checked(self, envelope: pb.Envelope) -> Payload:
        """What comes with a request and goes back. Raises WireError if a length is not that of the shard, or if the
        message carries no vector.
        """
        vectors = payload(envelope)
        expected = self._gate.elements.get(vectors.shard)
        for got in (vectors.incoming, vectors.outgoing):
            if got is not None and got != expected:
                raise WireError(f"vector of {got} elements for shard {vectors.shard}, expected {expected}")
        return vectors

    async def _status(self, request: bytes, context: Any) -> bytes:
        await self._admission.admit(context)
        return encode_status(self._actor.status(), self._traffic).SerializeToString()

    # --- streams, on threads of their own ----------------------------------------------------------------------------

    async def _stream(self, request: bytes, context: Any) -> bytes:
        await self._admission.admit(context)
        return pb.StreamReply(port=self._stream_port).SerializeToString()

    def _stranger(self, address: str) -> None:
        self._loop.loop.call_soon_threadsafe(self._admission.turn_away, address)

    def _carry(self, message: Message) -> Message:
        """Have a message answered; blocks. Raises CallFailed."""
        future = asyncio.run_coroutine_threadsafe(self._streamed(message), self._loop.loop)
        self._carrying.add(future)
        try:
            return future.result()
        except CancelledError:
            raise CallFailed(grpc.StatusCode.UNAVAILABLE, "stopping") from None
        finally:
            self._carrying.discard(future)

    async def _streamed(self, message: Message) -> Message:
        answer = await self._carried(message)
        assert answer is not None, f"{type(message).__name__} was not answered"
        self._traffic.by_network += isinstance(message, Exchange)
        return answer

    # --- the machine -------------------------------------------------------------------------------------------------

    async def _answered(self, message: Message, context: Any) -> Message | None:
        """The machine's answer, or the status that says why there is none."""
        answer = None
        try:
            answer = await self._carried(message)
        except CallFailed as error:
            await context.abort(error.code, error.text)
        return answer

    async def _carried(self, message: Message) -> Message | None:
        """The machine's answer. Raises CallFailed."""
        if (failure := self._actor.failure) is not None:
            raise CallFailed(grpc.StatusCode.FAILED_PRECONDITION, str(failure))
        try:
            if self._interference is None:
                return await self._actor.answer(message)
            return await self._interference.passes(message, self._actor.answer)
        except tuple(_CODES) as error:
            code = next(code for kind, code in _CODES.items() if isinstance(error, kind))
            raise CallFailed(code, str(error)) from error


class _Buffers:
    """The vectors of one call, of the type that they have on their way and as the machine sees them."""

    def __init__(self, vectors: Payload) -> None:
        self._vectors = vectors
        self.incoming_N = torch.empty(vectors.incoming or 0, dtype=DTYPES[vectors.wire])
        self._outgoing_N = None if vectors.outgoing is None else torch.empty(vectors.outgoing)

    def message(self, envelope: pb.Envelope) -> Message:
        """The message, once its vector is here. Raises WireError if there is none in the envelope."""
        incoming_N = None if self._vectors.incoming is None else self.incoming_N.float()
        return from_envelope(envelope, incoming_N, self._outgoing_N)

    def sent(self, answer: Message) -> torch.Tensor | None:
        """The vector that goes with this answer."""
        if self._outgoing_N is None or not isinstance(answer, Exchanged | ReadDone):
            return None
        return nearest(self._outgoing_N, self._vectors.wire)
