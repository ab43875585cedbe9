"""Gateway: the one port by which processes outside a run's cluster take part in it.

It speaks TLS, whatever the run's actors speak among themselves, and lets in whoever has the run's token. A call of the
parameter server is passed on, unread, to the actor that it names. A membership (Join) lasts as long as its stream: when
that ends, by leave or by death, the ledger is told that those workers are lost, and grants their leases again.

A guest's journal comes over the same stream and is written here, beside the others; a guest that dies takes the end of
it along, which no replay needs: what it pushed stands in the shards' journals.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import grpc
from google.protobuf.message import DecodeError

from ps.errors import BadInput, PeerLost, PeerRefused
from ps.messages import LEDGER, Address, WorkerLost
from ps.wire import gateway_pb2 as pb
from ps.wire.admission import Admission, hear_out
from ps.wire.client import ACTOR, OPTIONS, SERVICE, TOKEN, Loop, Peer
from ps.wire.codec import Traffic
from ps.wire.files import SUFFIX
from ps.wire.tls import Identity

GATEWAY = "distbelief.v1.Gateway"
WORKERS_AT_ONCE = 10_000  # that one guest may bring
FAREWELL_SECONDS = 3.0  # that guests get at the end of a run to hand in the rest of their journals
TELL_SECONDS = 5.0
RETRY_SECONDS = 0.5
# A guest whose machine or link vanished says nothing: it is asked now and then whether it is there.
KEEPALIVE = [
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 2_000),
]

log = logging.getLogger("distbelief.wire")


@dataclass(frozen=True, slots=True)
class Invitation:
    """What a guest is told, so that it computes what the run's own workers would.

    Attributes:
        run: The run's id.
        config: Its config.toml.
        version: Of this program; a guest must be of the same.
        parameters: Of the model.
        data: Fingerprint of the training set.
    """

    run: str
    config: str
    version: str
    parameters: int
    data: str


class Gateway:
    """Serves until it is closed.

    Args:
        invitation: What guests are told.
        token: The run's token.
        door: What this port proves itself with.
        inside: What the run's actors prove themselves with; None: they speak without TLS.
        workers: Ids for the workers that guests bring; shared with whoever else lets workers join.
        journals: Folder of the run's journals.
        resize: Lets the run have so many more workers of its own (fewer, if negative); gives how many it has then, or
            BadInput.
    """

    def __init__(
        self,
        invitation: Invitation,
        token: str,
        door: Identity,
        inside: Identity | None,
        workers: Iterator[int],
        journals: Path,
        resize: Callable[[int], Future[int]],
    ) -> None:
        self._invitation = invitation
        self._token = token
        self._door = door
        self._inside = inside
        self._workers = workers
        self._journals = journals
        self._resize_by = resize
        self._traffic = Traffic()
        self._admission = Admission(token, self._traffic)
        self._targets: dict[str, str] = {}
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._members: set[asyncio.Task[Any]] = set()
        self._errands: set[asyncio.Task[None]] = set()
        self._server: grpc.aio.Server | None = None
        self._loop = Loop("distbelief-gateway")

    def start(self, host: str, port: int = 0) -> str:
        """Listen; return "host:port".

        Raises:
            OSError: The port cannot be had.
        """
        return self._loop.run(self._start(host, port))

    async def _start(self, host: str, port: int) -> str:
        server = self._server = grpc.aio.server(options=[*OPTIONS, *KEEPALIVE, ("grpc.so_reuseport", 0)])
        unary = {name: self._passing_one(f"/{SERVICE}/{name}") for name in ("Ask", "Whole", "Status")}
        handlers = {name: grpc.unary_unary_rpc_method_handler(handler) for name, handler in unary.items()}
        handlers["Exchange"] = grpc.stream_stream_rpc_method_handler(self._exchange)
        handlers["Mailbox"] = grpc.stream_stream_rpc_method_handler(self._mailbox)
        join = {
            "Join": grpc.stream_stream_rpc_method_handler(self._join),
            "Resize": grpc.unary_unary_rpc_method_handler(self._resize),
        }
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(SERVICE, handlers),
                grpc.method_handlers_generic_handler(GATEWAY, join),
            )
        )
        try:
            port = server.add_secure_port(f"{host}:{port}", self._door.server_credentials())
        except RuntimeError as error:
            raise OSError(f"cannot listen on {host}:{port}") from error
        await server.start()
        return f"{host}:{port}"

    def connect(self, targets: Mapping[Address, str]) -> None:
        """Say where the run's actors are, at first and whenever one has moved."""
        self._loop.call(lambda: self._targets.update({str(actor): target for actor, target in targets.items()}))

    def close(self) -> None:
        """Let the guests hand in what they have, then stop listening."""
        self._loop.run(self._close())
        self._loop.close()

    async def _close(self) -> None:
        if self._members:
            await asyncio.wait(self._members, timeout=FAREWELL_SECONDS)
        if self._server is not None:
            await self._server.stop(grace=0.2)
        for errand in self._errands:
            errand.cancel()
        for channel in self._channels.values():
            await channel.close(None)

    # --- calls that are passed on ------------------------------------------------------------------------------------

    async def _channel(self, context: Any, requests: AsyncIterator[bytes] | None = None) -> grpc.aio.Channel:
        """To the actor that a call is for; the call is ended if there is none. `requests`: as in Admission.admit."""
        actor = str(dict(context.invocation_metadata() or ()).get(ACTOR, ""))
        target = self._targets.get(actor)
        if target is None:
            if requests is not None:
                await hear_out(requests)
            expected = f"expected {ACTOR} to be one of {', '.join(self._targets)}"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"a call for {actor or 'nobody'}: {expected}")
        assert target is not None
        if target not in self._channels:
            inside = self._inside
            self._channels[target] = (
                grpc.aio.insecure_channel(target, OPTIONS) if inside is None else inside.channel(target, OPTIONS)
            )
        return self._channels[target]

    def _passing_one(self, method: str) -> Any:
        async def pass_on(request: bytes, context: Any) -> bytes:
            await self._admission.admit(context)
            call: Any = (await self._channel(context)).unary_unary(method, None, None)
            try:
                answer: bytes = await call(request, metadata=self._metadata, timeout=context.time_remaining())
                return answer
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), error.details() or "")
                raise  # not reached: abort raises

        return pass_on

    async def _exchange(self, requests: AsyncIterator[bytes], context: Any) -> None:
        """Frame by frame: no more of a vector is here at once than the two connections have under way."""
        await self._admission.admit(context, requests)
        channel: Any = await self._channel(context, requests)
        call = channel.stream_stream(f"/{SERVICE}/Exchange", None, None)(
            requests, metadata=self._metadata, timeout=context.time_remaining()
        )
        try:
            async for frame in call:
                await context.write(frame)
        except grpc.aio.AioRpcError as error:
            await hear_out(requests)
            await context.abort(error.code(), error.details() or "")
        finally:
            call.cancel()

    async def _mailbox(self, requests: AsyncIterator[bytes], context: Any) -> None:
        await self._admission.admit(context, requests)
        await context.abort(grpc.StatusCode.NOT_FOUND, "no memory is shared through a gateway")

    @property
    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return ((TOKEN, self._token),)

    # --- members -----------------------------------------------------------------------------------------------------

    async def _join(self, requests: AsyncIterator[bytes], context: Any) -> None:
        await self._admission.admit(context, requests)
        hello = _guest(await anext(aiter(requests), b"")).hello
        ours = self._invitation
        if hello.version != ours.version:
            text = f"version: got distbelief {hello.version}, expected {ours.version}, as the run's"
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, text)
        if not 1 <= hello.workers <= WORKERS_AT_ONCE:
            text = f"workers: got {hello.workers}, expected 1 to {WORKERS_AT_ONCE:,}"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, text)
        workers = [next(self._workers) for _ in range(hello.workers)]
        task = asyncio.current_task()
        assert task is not None
        self._members.add(task)
        try:
            with (self._journals / f"host-{workers[0]}{SUFFIX}").open("xb", buffering=0) as journal:
                await context.write(
                    pb.Welcome(
                        run=ours.run, config=ours.config, first_worker=workers[0],
                        parameters=ours.parameters, data=ours.data,
                    ).SerializeToString()
                )  # fmt: skip
                await self._take_down(requests, journal)
        finally:
            self._members.discard(task)
            self._run_errand(self._tell_lost(workers))

    async def _resize(self, request: bytes, context: Any) -> bytes:
        await self._admission.admit(context)
        try:
            add = pb.ResizeRequest.FromString(request).add
            workers = await asyncio.wrap_future(self._resize_by(add))
        except (DecodeError, BadInput) as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return pb.ResizeReply(workers=workers).SerializeToString()

    async def _take_down(self, requests: AsyncIterator[bytes], journal: BinaryIO) -> None:
        async for request in requests:
            piece = memoryview(_guest(request).journal)
            while piece:  # without a buffer, a part may be written
                piece = piece[journal.write(piece) :]

    async def _tell_lost(self, workers: list[int]) -> None:
        """Tell the ledger until it has heard."""
        peer: Peer | None = None
        for worker in workers:
            while True:
                target = self._targets[str(LEDGER)]
                if peer is None or peer.target != target:  # it has moved
                    if peer is not None:
                        await peer.close()
                    peer = Peer(target, self._token, identity=self._inside)
                try:
                    await peer.ask(WorkerLost(worker), TELL_SECONDS)
                    break
                except PeerLost:
                    await asyncio.sleep(RETRY_SECONDS)
                except PeerRefused as error:
                    log.error("the ledger refused to hear that worker %d left: %s", worker, error)
                    break
        if peer is not None:
            await peer.close()

    def _run_errand(self, coroutine: Any) -> None:
        errand = asyncio.get_running_loop().create_task(coroutine)
        self._errands.add(errand)
        errand.add_done_callback(self._ended)

    def _ended(self, errand: asyncio.Task[None]) -> None:
        self._errands.discard(errand)
        if not errand.cancelled() and (error := errand.exception()) is not None:
            log.error("%r", error)


def _guest(request: bytes) -> pb.Guest:
    """What a guest said; nothing, if it is not to be understood."""
    with suppress(Exception):
        return pb.Guest.FromString(request)
    return pb.Guest()
