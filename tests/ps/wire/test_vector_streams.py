"""Streams beside gRPC: the same answers and bits, nothing for strangers, and no hostile byte that changes a weight."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn, cast

import pytest
import torch
from torch import Tensor

from ps.errors import PeerLost, PeerRefused
from ps.messages import LEDGER, Exchange, Exchanged, Outcome, Push, Read, ReadDone, Reading, Refused, Sample, Tick, Wire
from ps.shard import Shard
from ps.streams import numpy_stream
from ps.wire import parameter_server_pb2 as pb
from ps.wire import tls
from ps.wire.client import Peer
from ps.wire.codec import to_envelope
from ps.wire.files import SUFFIX, JournalWriter
from ps.wire.line import HEAD_BYTES, SEND_BYTES, Line, headed, proof
from ps.wire.server import Gate, MachineServer
from ps.wire.stream_pool import StreamClient, StreamPool
from ps.wire.streams import STRANGERS_AT_ONCE
from tests.ps.wire.test_server import SECONDS, SHARD, TOKEN_HERE, N, World, draw, exchange, shard, unchanged, world

__all__ = ["world"]  # a fixture

INVALID = 3  # gRPC's number


@pytest.fixture
def served(world: World) -> tuple[World, Shard]:
    world.serve(SHARD, shard(), {0: N})
    return world, shard()


def peer(world: World, wire: Wire = Wire.FLOAT32, streams: bool = True) -> Peer:
    made = world.loop.call(lambda: Peer(world.targets[SHARD], TOKEN_HERE, wire=wire))
    if not streams:
        made._streams._port = 0
    return made


def connect(world: World) -> socket.socket:
    port = world.servers[SHARD]._stream_port
    return socket.create_connection(("127.0.0.1", port), SECONDS)


def heard(connection: socket.socket) -> bytes:
    """All that the other end says until it hangs up."""
    data = b""
    with suppress(ConnectionResetError):
        while got := connection.recv(1 << 16):
            data += got
    return data


def say(world: World, *parts: bytes) -> bytes:
    """Send bytes as one who has the token; return what comes back."""
    with connect(world) as connection:
        with suppress(OSError):  # it may not want to hear all of it
            connection.sendall(proof(TOKEN_HERE))
            for part in parts:
                connection.sendall(part)
            connection.shutdown(socket.SHUT_WR)
        return heard(connection)


# --- the same as over gRPC --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", list(Wire))
def test_streams_and_frames_give_the_same_answers_and_bits(world: World, wire: Wire) -> None:
    results: list[tuple[object, Tensor | None]] = []
    for streams in (True, False):
        world.serve(SHARD, shard(), {0: N})
        with_wire = peer(world, wire, streams)
        for number, (lease, version) in enumerate([(None, 0), (0, 0), (0, 0), (1, 9), (1, 1)]):
            message = exchange(number, lease, version)
            answer = world.loop.run(with_wire.exchange(message, SECONDS))
            assert message.weights_N is not None
            results.append((answer, message.weights_N.nan_to_num(7.0)))
        out_N = torch.zeros(N)
        results.append((world.loop.run(with_wire.exchange(Read(LEDGER, 1, 0, out_N), SECONDS)), out_N))
        assert len(with_wire._streams._idle) == streams
        assert world.servers[SHARD]._traffic.by_network == 5
        world.loop.run(with_wire.close())
        world.loop.run(world.peers.pop(SHARD).close())
        world.servers.pop(SHARD).stop()
        (world.folder / f"{SHARD}{SUFFIX}").unlink()
    by_stream, by_frame = results[:6], results[6:]
    for (answer, one_N), (other, other_N) in zip(by_stream, by_frame, strict=True):
        assert answer == other
        assert one_N is not None
        assert other_N is not None
        assert torch.equal(one_N, other_N)


def test_where_no_stream_can_be_opened_frames_do(served: tuple[World, Shard]) -> None:
    world, _ = served
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = listener.getsockname()[1]
    world.servers[SHARD]._stream_port, ours = closed, world.servers[SHARD]._stream_port
    there = peer(world)
    assert isinstance(world.loop.run(there.exchange(exchange(1, 0), SECONDS)), Exchanged)
    assert there._streams._port == 0
    world.servers[SHARD]._stream_port = ours
    world.loop.run(there.close())


def test_a_stream_that_could_not_be_opened_once_is_tried_again(
    served: tuple[World, Shard], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world, _ = served
    there = peer(world)
    connections = socket.create_connection

    def slow(*_: object) -> NoReturn:
        raise TimeoutError("slow just once")

    def streams(number: int) -> int:
        assert isinstance(world.loop.run(there.exchange(exchange(number), SECONDS)), Exchanged)
        return len(there._streams._idle)

    monkeypatch.setattr("ps.wire.stream_pool.socket.create_connection", slow)
    assert streams(1) == 0
    monkeypatch.setattr("ps.wire.stream_pool.socket.create_connection", connections)
    there._streams._closed_until += 1000.0
    assert streams(2) == 0, "not at once: it would cost every exchange a wait"
    there._streams._closed_until = 0.0
    assert streams(3) == 1
    said = [record.message for record in caplog.records]
    assert len(said) == 2
    assert "opens no stream (TimeoutError('slow just once'))" in said[0]
    assert "opens streams again" in said[1]
    world.loop.run(there.close())


def test_the_loop_goes_on_while_a_pool_that_opens_a_stream_is_closed() -> None:
    goes_on, opening = threading.Event(), threading.Event()

    async def nowhere() -> int:
        return 1

    async def close_meanwhile() -> None:
        pool = StreamPool("127.0.0.1:1", TOKEN_HERE, 0, None, nowhere)

        def connect() -> None:
            opening.set()
            assert goes_on.wait(SECONDS), "the loop waited for it"

        connecting = asyncio.get_running_loop().run_in_executor(pool._threads, connect)
        await asyncio.to_thread(opening.wait, SECONDS)
        asyncio.get_running_loop().call_soon(goes_on.set)
        await pool.close()
        await connecting

    asyncio.run(close_meanwhile())


def test_a_stream_that_broke_is_lost_and_the_next_is_another(served: tuple[World, Shard]) -> None:
    world, _ = served
    there = peer(world)
    world.loop.run(there.exchange(exchange(1), SECONDS))
    (stream,) = there._streams._idle
    stream.break_off()
    with pytest.raises(PeerLost, match="the stream broke"):
        world.loop.run(there.exchange(exchange(2, 0), SECONDS))
    assert isinstance(world.loop.run(there.exchange(exchange(3, 0), SECONDS)), Exchanged)
    world.loop.run(there.close())


def test_a_peer_that_says_nothing_is_lost_at_the_deadline(served: tuple[World, Shard]) -> None:
    world, _ = served
    with socket.create_server(("127.0.0.1", 0)) as silent:
        world.servers[SHARD]._stream_port, ours = silent.getsockname()[1], world.servers[SHARD]._stream_port
        there = peer(world)
        with pytest.raises(PeerLost, match=r"no answer within 0.5 s \(DEADLINE_EXCEEDED\)"):
            world.loop.run(there.exchange(exchange(1, 0), 0.5))
        assert not there._streams._busy
        world.servers[SHARD]._stream_port = ours
        world.loop.run(there.close())


def test_what_is_refused_says_why(served: tuple[World, Shard]) -> None:
    world, _ = served
    there = peer(world)
    wrong = Exchange(3, 1, 0, None, torch.empty(N + 1))
    with pytest.raises(
        PeerRefused, match=rf"vector of {N + 1} elements for shard 0, expected {N} \(INVALID_ARGUMENT\)"
    ):
        world.loop.run(there.exchange(wrong, SECONDS))
    push = Push(0, 0, 2, (Reading(0, 0),), draw("g").fill_(torch.nan))
    assert isinstance(world.loop.run(there.exchange(Exchange(3, 2, 0, push, None), SECONDS)), Refused)
    answer = world.loop.run(there.exchange(exchange(3, 0), SECONDS))
    assert answer == Exchanged(3, 0, Outcome.APPLIED, Reading(0, 1), 2, 0)
    world.loop.run(there.close())


# --- what is not let in -----------------------------------------------------------------------------------------------


def test_silent_strangers_keep_nobody_out(served: tuple[World, Shard]) -> None:
    world, _ = served
    strangers = [connect(world) for _ in range(STRANGERS_AT_ONCE)]
    there = peer(world)
    assert isinstance(world.loop.run(there.exchange(exchange(1, 0), SECONDS)), Exchanged)
    assert len(there._streams._idle) == 1, "it went by a stream"
    assert heard(strangers[0]) == b"", "who has been silent longest had to go"
    world.loop.run(there.close())
    for stranger in strangers:
        stranger.close()


class Scripted:
    """A connection that takes and gives only so many bytes at a time, and waits a second for each."""

    def __init__(self, most: int, said: bytes = b"") -> None:
        self.most, self.left, self.taken = most, said, b""
        self.seconds = 0.0
        self.patience: list[float | None] = []
        self.sent: list[int] = []

    def setsockopt(self, *_: int) -> None:
        """It has none."""

    def settimeout(self, seconds: float | None) -> None:
        self.patience.append(seconds)

    def send(self, view: memoryview) -> int:
        self.sent.append(len(view))
        self.taken += view[: self.most]
        return min(self.most, len(view))

    def recv(self, count: int) -> bytes:
        self.seconds += 1.0
        got, self.left = self.left[: min(count, self.most)], self.left[min(count, self.most) :]
        return got


def test_a_slow_link_has_time_for_every_part_of_a_message() -> None:
    """A deadline is for one call of send, so no call is given the whole."""
    connection = Scripted(1000)
    data = bytes(range(256)) * (SEND_BYTES // 256 + 2)
    Line(cast(socket.socket, connection)).send(data, b"", b"the end")
    assert connection.taken == data + b"the end"
    assert max(connection.sent) == SEND_BYTES


def test_who_proves_itself_byte_by_byte_has_one_deadline_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = Scripted(1, bytes(32))
    monkeypatch.setattr("ps.wire.line.monotonic", lambda: connection.seconds)
    line = Line(cast(socket.socket, connection))
    with pytest.raises(TimeoutError, match="got 10 of 32 bytes within 10 s"):
        line.opening(32, 10.0, None)
    assert connection.patience == [10.0, *(float(left) for left in range(10, 0, -1))]
    connection.seconds, connection.most = 0.0, 8
    connection.left = b"12345678" * 4
    assert line.opening(32, 10.0, None) == b"12345678" * 4


@pytest.mark.parametrize("hello", [b"", proof("another run's token"), proof(TOKEN_HERE)[:-1], bytes(32), b"GET / HTTP"])
def test_a_stranger_gets_no_byte(served: tuple[World, Shard], hello: bytes) -> None:
    world, direct = served
    with connect(world) as connection:
        connection.sendall(hello)
        if len(hello) < 32:
            connection.shutdown(socket.SHUT_WR)
        assert heard(connection) == b""
    if len(hello) == 32:
        world.until(SHARD, lambda _: world.servers[SHARD]._traffic.unauthenticated == 1)
    unchanged(world, direct)


PUSHING = to_envelope(exchange(1, 0)).SerializeToString()
BODY = bytes(4 * N)


def pushing(**changes: int) -> bytes:
    envelope = pb.Envelope.FromString(PUSHING)
    for name, value in changes.items():
        setattr(envelope.exchange, name, value)
    return headed(envelope.SerializeToString())


@pytest.mark.parametrize(
    "parts",
    [
        ((HEAD_BYTES + 1).to_bytes(4, "little"),),
        (b"\xff\xff\xff\xff", BODY),
        (headed(b""),),
        (headed(b"\xff\xff garbage"), BODY),
        (headed(to_envelope(Tick()).SerializeToString()),),
        (pushing(elements=1 << 40), BODY),
        (pushing(elements=-1), BODY),
        (pushing(elements=N - 1), BODY),
        (pushing(shard=7), BODY),
        (pushing(wire=9), BODY),
    ],
)
def test_a_request_that_is_none_is_refused(served: tuple[World, Shard], parts: tuple[bytes, ...]) -> None:
    world, direct = served
    said = say(world, *parts)
    assert said[0] == INVALID, said
    unchanged(world, direct)


@pytest.mark.parametrize("parts", [(), (b"\x01",), (PUSHING[:9],), (headed(PUSHING),), (headed(PUSHING), BODY[:-1])])
def test_a_request_that_is_cut_short_is_none(served: tuple[World, Shard], parts: tuple[bytes, ...]) -> None:
    world, direct = served
    said = say(world, *parts)
    assert said == b"" or said[0] == INVALID
    unchanged(world, direct)


def test_a_message_for_another_machine_is_refused_and_the_stream_goes_on(served: tuple[World, Shard]) -> None:
    world, direct = served
    sample = headed(to_envelope(Sample(0, 0, 2, torch.empty(N))).SerializeToString())
    said = say(world, sample, BODY, sample, BODY)
    text = said[5 : 5 + int.from_bytes(said[1:5], "little")]
    assert said[0] == INVALID
    assert text.startswith(b"shard 0 got Sample")
    assert said == said[: len(said) // 2] * 2
    unchanged(world, direct)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))])
def test_random_and_mutated_requests_change_nothing(served: tuple[World, Shard], seed: int) -> None:
    """Every gradient among them is NaN from end to end."""
    world, direct = served
    bits = numpy_stream(seed, "stream requests")
    nan = draw("g").fill_(torch.nan).numpy().tobytes()
    for _ in range(60):
        head = bytearray(headed(PUSHING))
        for _ in range(int(bits.integers(1, 5))):
            head[int(bits.integers(0, len(head)))] = int(bits.integers(0, 256))
        said = (
            say(world, bytes(head), nan) if bits.random() < 0.7 else say(world, bits.bytes(int(bits.integers(1, 400))))
        )
        assert said == b"" or said[0] in (0, INVALID)
    world.until(SHARD, lambda _: not world.servers[SHARD]._streams._lines)
    status = world.status(SHARD)
    assert (status.version, status.samples) == (0, 0)
    out_N = torch.zeros(N)
    assert world.exchange(Read(LEDGER, 1, 0, out_N)) == ReadDone(1, 0, 0, 1)
    assert torch.equal(out_N, direct._w_N)


# --- TLS --------------------------------------------------------------------------------------------------------------


def test_a_stream_of_a_run_with_tls_is_tls(world: World) -> None:
    ours = tls.made()
    journal = JournalWriter(world.folder / f"shard-0{SUFFIX}", "run", "shard-0")
    server = MachineServer(shard(), Gate(TOKEN_HERE, {0: N}, ours), journal, lambda: 0.0)
    world.servers[SHARD], world.targets[SHARD] = server, server.start("127.0.0.1")
    there = world.loop.call(lambda: Peer(world.targets[SHARD], TOKEN_HERE, identity=ours))
    message = exchange(1, 0)
    assert world.loop.run(there.exchange(message, SECONDS)) == Exchanged(1, 0, Outcome.APPLIED, Reading(0, 1), 2, 0)
    assert len(there._streams._idle) == 1
    world.loop.run(there.close())
    port = server._stream_port
    strangers: list[Callable[[], object]] = [
        lambda: StreamClient("127.0.0.1", port, TOKEN_HERE, 0, tls.made()),
        lambda: StreamClient("127.0.0.1", port, TOKEN_HERE, 0, tls.Identity(ours.certificate, name="elsewhere")),
    ]
    for stranger in strangers:
        with pytest.raises(OSError, match="certificate verify failed"):
            stranger()
    with connect(world) as connection:
        connection.sendall(proof(TOKEN_HERE) + headed(PUSHING))
        with suppress(OSError):  # it has hung up already
            connection.shutdown(socket.SHUT_WR)
        assert INVALID not in heard(connection)[:1]
    assert server._actor.status().version == 1  # type: ignore[union-attr]
