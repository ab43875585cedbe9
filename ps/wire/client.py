"""Client: one actor's end of a connection to another, and the event loop that such connections live on.

An exchange goes through memory (see ps.wire.mailbox) if its vectors can be shared and the other end can open them, and
over the network if not: in one piece if it is small, else on a stream beside gRPC (see ps.wire.line), or in frames
if none can be opened. Which of these works is found out by trying, once per connection.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import torch
from msgspec.structs import replace

from ps.errors import PeerLost, PeerRefused, WireError
from ps.messages import Exchange, Exchanged, Forward, Message, Read, ReadDone, Sample, Wire
from ps.rounding import DTYPES, stochastic
from ps.wire import parameter_server_pb2 as pb
from ps.wire.codec import (
    WHOLE_BYTES,
    FrameSink,
    Status,
    Traffic,
    decode_status,
    decode_traffic,
    frames,
    from_envelope,
    pack,
    parse_envelope,
    to_envelope,
    unpack,
)
from ps.wire.line import CallFailed, Carrying
from ps.wire.mailbox import SharedVectors
from ps.wire.stream_pool import StreamPool
from ps.wire.tls import Identity

if TYPE_CHECKING:
    from torch import Tensor

SERVICE = "distbelief.v1.ParameterServer"
TOKEN = "x-distbelief-token"
ACTOR = "x-distbelief-actor"  # whom a call is for; a gateway passes it on to that one
CONNECT_SECONDS = 10.0
OPTIONS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_send_message_length", 4 << 20),
    ("grpc.max_receive_message_length", 4 << 20),
    ("grpc.http2.max_frame_size", 1 << 20),
    ("grpc.experimental.tcp_read_chunk_size", 1 << 20),  # few large reads: a tenth less work per byte
    ("grpc.experimental.tcp_min_read_chunk_size", 256 << 10),
    ("grpc.experimental.tcp_max_read_chunk_size", 4 << 20),
]
_DEFINITE = {
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}

T = TypeVar("T")


class Peer:
    """A connection to one actor. Create and use it on one event loop.

    Args:
        target: "host:port".
        token: The run's token.
        vectors: Where the vectors of its exchanges were made, if they may be shared.
        wire: The type that they have on their way over the network.
        seed: The run's root seed, which rounding draws from.
        identity: What the other end must prove itself with; None: it speaks without TLS.
        actor: Whom it wants to reach, for example "shard-0", where the other end may be a gateway (ps.wire.gateway).
    """

    def __init__(
        self,
        target: str,
        token: str,
        vectors: SharedVectors | None = None,
        wire: Wire = Wire.FLOAT32,
        seed: int = 0,
        identity: Identity | None = None,
        actor: str = "",
    ) -> None:
        self.target = target
        self._metadata: tuple[tuple[str, str], ...] = ((TOKEN, token),)
        if actor:
            self._metadata += ((ACTOR, actor),)
        if identity is None:
            self._channel = grpc.aio.insecure_channel(target, options=OPTIONS)
        else:
            self._channel = identity.channel(target, OPTIONS)
        self._ask: Any = self._channel.unary_unary(f"/{SERVICE}/Ask", None, None)
        self._exchange: Any = self._channel.stream_stream(f"/{SERVICE}/Exchange", None, None)
        self._whole: Any = self._channel.unary_unary(f"/{SERVICE}/Whole", None, None)
        self._mailbox: Any = self._channel.stream_stream(f"/{SERVICE}/Mailbox", None, None)
        self._stream: Any = self._channel.unary_unary(f"/{SERVICE}/Stream", None, None)
        self._status: Any = self._channel.unary_unary(f"/{SERVICE}/Status", None, None)
        self._wire, self._seed = wire, seed
        self._vectors = vectors  # None: nothing is shared, or the other end cannot open it
        self._mailboxes: dict[int, Any] = {}  # by worker: idle calls
        self._streams = StreamPool(target, token, seed, identity, self._stream_port)

    async def ask(self, message: Message, timeout_seconds: float) -> Message | None:
        """Send a message without a vector; return its answer, or None where it has none.

        Raises:
            PeerRefused: Definite: nothing happened.
            PeerLost: Indefinite: it may have happened. Ask again with the same number.
        """
        return await self._call(self._unary(message, timeout_seconds))

    async def _unary(self, message: Message, timeout_seconds: float) -> Message | None:
        request = to_envelope(message).SerializeToString()
        envelope = parse_envelope(await self._ask(request, metadata=self._metadata, timeout=timeout_seconds))
        return None if envelope.WhichOneof("message") == "received" else from_envelope(envelope)

    async def exchange(self, message: Carrying, timeout_seconds: float) -> Message:
        """Send a message with its vector, and fill the buffer that its answer's vector belongs in.

        Raises as `ask`. After PeerLost the other end may still read or write vectors that are shared: renew them.
        """
        if self._vectors and isinstance(message, Exchange) and (mail := self._vectors.mail(message)):
            answer = await self._call(self._through_memory(message.worker, mail, timeout_seconds))
            if answer is not None:
                return answer
        wire = self._wire if isinstance(message, Exchange) else _wire(message)
        outgoing_N, incoming_N = _vectors(message)
        elements = max(0 if vector_N is None else vector_N.numel() for vector_N in (outgoing_N, incoming_N))
        if elements * DTYPES[wire].itemsize > WHOLE_BYTES:
            answer = await self._call(self._streams.exchange(message, wire, timeout_seconds))
            if answer is not None:
                return answer
        if isinstance(message, Exchange) and wire is not Wire.FLOAT32:
            return await self._narrowed(message, timeout_seconds)
        if outgoing_N is not None and wire is not Wire.FLOAT32:
            outgoing_N = outgoing_N.to(DTYPES[wire])
        return await self._travel(message, outgoing_N, incoming_N, timeout_seconds)

    async def _stream_port(self) -> int:
        """Where the other end's streams are; 0: nowhere."""
        request = pb.StreamRequest().SerializeToString()
        try:
            reply = await self._stream(request, metadata=self._metadata, timeout=CONNECT_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return 0
            raise
        return int(pb.StreamReply.FromString(reply).port)

    async def _narrowed(self, message: Exchange, timeout_seconds: float) -> Message:
        """An exchange whose vectors have another type on their way."""
        gradient_N, weights_N = None, message.weights_N
        if push := message.push:
            gradient_N = stochastic(push.gradient_N, self._wire, self._seed, push.lease, message.shard)
        incoming_N = None if weights_N is None else torch.empty(weights_N.shape, dtype=DTYPES[self._wire])
        answer = await self._travel(replace(message, wire=self._wire), gradient_N, incoming_N, timeout_seconds)
        if weights_N is not None and incoming_N is not None and isinstance(answer, Exchanged):
            weights_N.copy_(incoming_N)
        return answer

    async def _travel(
        self, message: Message, outgoing_N: Tensor | None, incoming_N: Tensor | None, timeout_seconds: float
    ) -> Message:
        largest = max(0 if vector_N is None else vector_N.nbytes for vector_N in (outgoing_N, incoming_N))
        travels = self._in_one_piece if largest <= WHOLE_BYTES else self._in_frames
        return await self._call(travels(message, outgoing_N, incoming_N, timeout_seconds))

    async def _through_memory(self, worker: int, mail: bytes, timeout_seconds: float) -> Message | None:
        """The answer, or None if the other end cannot open the vectors: nothing happened, nor will if tried again."""
        call = self._mailboxes.pop(worker, None) or self._mailbox(metadata=self._metadata)
        try:
            async with asyncio.timeout(timeout_seconds):
                with suppress(asyncio.InvalidStateError):  # it has ended: reading says why
                    await call.write(mail)
                reply = await call.read()
            if not isinstance(reply, bytes):
                raise PeerLost(f"{self.target}: closed the stream without an answer")
        except TimeoutError:
            call.cancel()
            raise PeerLost(f"{self.target}: no answer within {timeout_seconds:g} s (DEADLINE_EXCEEDED)") from None
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            self._vectors = None
            return None
        except BaseException:
            call.cancel()
            raise
        self._mailboxes[worker] = call
        return from_envelope(parse_envelope(reply))

    async def _in_one_piece(
        self, message: Message, outgoing_N: Tensor | None, incoming_N: Tensor | None, timeout_seconds: float
    ) -> Message:
        request = pack(to_envelope(message), outgoing_N)
        envelope, body = unpack(await self._whole(request, metadata=self._metadata, timeout=timeout_seconds))
        answer = from_envelope(envelope)
        if incoming_N is not None and isinstance(answer, Exchanged | ReadDone):
            sink = FrameSink(incoming_N)
            sink.add(body)
            sink.close()
        return answer

    async def _in_frames(
        self, message: Message, outgoing_N: Tensor | None, incoming_N: Tensor | None, timeout_seconds: float
    ) -> Message:
        call = self._exchange(_requests(message, outgoing_N), metadata=self._metadata, timeout=timeout_seconds)
        replies = aiter(call)
        answer = from_envelope(parse_envelope(await anext(replies)))
        if incoming_N is not None and isinstance(answer, Exchanged | ReadDone):
            sink = FrameSink(incoming_N)
            async for frame in replies:
                sink.add(frame)
            sink.close()
        return answer

    async def status(self, timeout_seconds: float) -> Status:
        """What the actor tells about itself. Raises as `ask` does."""
        return (await self.report(timeout_seconds))[0]

    async def report(self, timeout_seconds: float) -> tuple[Status, Traffic]:
        """What the actor tells about itself, and about what its server has let in and kept out. Raises as `ask`."""
        request = pb.StatusRequest().SerializeToString()
        reply = await self._call(self._status(request, metadata=self._metadata, timeout=timeout_seconds))
        told = pb.StatusReply.FromString(reply)
        return decode_status(told), decode_traffic(told)

    async def close(self) -> None:
        for call in self._mailboxes.values():
            call.cancel()
        await self._streams.close()
        await self._channel.close(None)

    async def _call(self, call: Awaitable[T]) -> T:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            text = f"{self.target}: {error.details()} ({error.code().name})"
            raise (PeerRefused if error.code() in _DEFINITE else PeerLost)(text) from error
        except CallFailed as error:
            text = f"{self.target}: {error.text} ({error.code.name})"
            raise (PeerRefused if error.code in _DEFINITE else PeerLost)(text) from error
        except StopAsyncIteration:
            raise PeerLost(f"{self.target}: closed the stream without an answer") from None
        except WireError as error:  # whatever it answered, it may have done what was asked
            raise PeerLost(f"{self.target}: {error}") from error


def _wire(message: Carrying) -> Wire:
    """The type that the vector of a message that is no exchange has on its way; it is exact in it."""
    return (
        message.message.wire if isinstance(message, Forward) and isinstance(message.message, Exchange) else Wire.FLOAT32
    )


def _vectors(message: Carrying) -> tuple[Tensor | None, Tensor | None]:
    """The vector that goes out with a message, and the buffer that its answer's vector belongs in."""
    match message:
        case Exchange():
            return (message.push.gradient_N if message.push else None), message.weights_N
        case Sample():
            return message.weights_N, None
        case Read():
            return None, message.out_N
        case Forward(message=Exchange(push=push)) if push is not None:
            return push.gradient_N, None
    return None, None


async def _requests(message: Message, outgoing_N: Tensor | None) -> AsyncIterator[bytes]:
    yield to_envelope(message).SerializeToString()
    if outgoing_N is not None:
        for frame in frames(outgoing_N):
            yield frame


class Loop:
    """An event loop on a thread of its own, for callers that are not asynchronous."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name=name, daemon=True)
        self._thread.start()
        self._lock = threading.Lock()  # of whether it takes anything more
        self._closed = False

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run on the loop, wait for the result. Raises RuntimeError if it is closed."""
        return self.begin(coroutine).result()

    def begin(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run on the loop, without waiting. Raises RuntimeError if it is closed."""
        with self._lock:
            if self._closed:
                coroutine.close()
                raise RuntimeError("got a call to a loop that is closed")
            return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def call(self, function: Callable[[], T]) -> T:
        """Call a plain function on the loop's thread."""

        async def wrapped() -> T:
            return function()

        return self.run(wrapped())

    def close(self) -> None:
        """Cancel what still runs, stop the loop and end its thread."""

        async def cancel() -> None:
            rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)
            await asyncio.get_running_loop().shutdown_asyncgens()
            await asyncio.get_running_loop().shutdown_default_executor()

        with self._lock:
            self._closed = True  # so all that was taken is there to be cancelled
        asyncio.run_coroutine_threadsafe(cancel(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
