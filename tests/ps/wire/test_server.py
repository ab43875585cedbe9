"""The three machines behind real gRPC on loopback: what goes over the wire is what `handle` says; nothing breaks it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from torch import Tensor

from ps import kernel
from ps.averager import Averager, AveragerStatus, AverageSettings
from ps.errors import PeerLost, PeerRefused, RunFailed
from ps.journal import LeaseGranted, PullHandled, PushHandled, Record, SampleAveraged
from ps.layout import Segment
from ps.leases import LeasePlan
from ps.ledger import Ledger, LedgerSettings, LedgerStatus
from ps.messages import (
    AVERAGER,
    JOURNAL,
    LEDGER,
    Address,
    Exchange,
    Exchanged,
    Finished,
    Granted,
    Has,
    Message,
    NextLease,
    NoMoreLeases,
    Outcome,
    Push,
    Read,
    ReadDone,
    Reading,
    Refusal,
    Refused,
    Role,
    Sample,
    SampleTaken,
    Stop,
    Tick,
    WhoHas,
    Wire,
    WorkerLost,
)
from ps.rounding import nearest, stochastic
from ps.rules import Momentum
from ps.schedule import ScheduleSettings
from ps.shard import Outbox, Shard, ShardStatus
from ps.streams import torch_stream
from ps.wire import parameter_server_pb2 as pb
from ps.wire.actor import Machine
from ps.wire.client import SERVICE, TOKEN, Loop, Peer
from ps.wire.codec import FRAME_BYTES, Status, to_envelope
from ps.wire.files import SUFFIX, JournalWriter, read_journal
from ps.wire.server import CALLS_AT_ONCE, Gate, MachineServer

N = FRAME_BYTES // 4 * 2 + 5  # three frames
SECONDS = 20.0
TOKEN_HERE = "the run's token"
PLAN = LeasePlan(examples=6, batch_size=2, epochs=1, seed=0)
SHARD = Address(Role.SHARD, 0)


def draw(name: str) -> Tensor:
    return torch.randn(N, generator=torch_stream(0, name))


def shard() -> Shard:
    schedule = ScheduleSettings(rate=0.1).build(PLAN.examples, PLAN.samples)
    return Shard(0, 1, draw("weights"), (Segment(0, N, 1.0, 1.0),), Momentum(0.9), 0.0, schedule, sample_every=2)


class World:
    """Servers in this process, and a client of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loop = Loop("test-client")
        self.servers: dict[Address, MachineServer] = {}
        self.targets: dict[Address, str] = {}
        self.peers: dict[Address, Peer] = {}
        self.ticks = count()
        self.stopped = False

    def serve(self, address: Address, machine: Machine, elements: dict[int, int], host: str = "127.0.0.1") -> None:
        journal = JournalWriter(self.folder / f"{address}{SUFFIX}", "run", str(address))
        server = MachineServer(machine, Gate(TOKEN_HERE, elements), journal, lambda: float(next(self.ticks)))
        self.servers[address] = server
        self.targets[address] = server.start(host)
        self.peers[address] = self.peer(address)

    def peer(self, address: Address, token: str = TOKEN_HERE) -> Peer:
        return self.loop.call(lambda: Peer(self.targets[address], token))

    def ask(self, address: Address, message: Message) -> Message | None:
        return self.loop.run(self.peers[address].ask(message, SECONDS))

    def exchange(self, message: Exchange | Sample | Read, address: Address = SHARD) -> Message:
        return self.loop.run(self.peers[address].exchange(message, SECONDS))

    def status(self, address: Address) -> Any:
        return self.loop.run(self.peers[address].status(SECONDS))

    def until(self, address: Address, satisfied: Callable[[Any], bool]) -> Any:
        """Ask for a status until it is so: messages between servers are nobody's to wait for."""
        for _ in range(2000):
            if satisfied(status := self.status(address)):
                return status
        raise AssertionError(status)

    def raw(self, method: str, *frames: bytes, address: Address = SHARD, token: str = TOKEN_HERE) -> grpc.StatusCode:
        """Send bytes as they are, with the synchronous client; return the status that comes back."""
        path = f"/{SERVICE}/{method}"
        options: dict[str, Any] = {"metadata": ((TOKEN, token),), "timeout": SECONDS}
        with grpc.insecure_channel(self.targets[address]) as channel:
            try:
                if method == "Exchange":
                    list(channel.stream_stream(path, None, None)(iter(frames), **options))
                else:
                    channel.unary_unary(path, None, None)(b"".join(frames), **options)
            except grpc.RpcError as error:
                code: grpc.StatusCode = error.code()
                return code
        return grpc.StatusCode.OK

    def stop(self) -> dict[Address, list[Record]]:
        """Stop everything; return the journals."""
        for peer in self.peers.values():
            self.loop.run(peer.close())
        for server in self.servers.values():
            server.stop()
        self.loop.close()
        self.stopped = True
        return {to: list(read_journal(self.folder / f"{to}{SUFFIX}")) for to in self.servers}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A world to serve machines in. At its end all servers stop, their journals can be read, and no thread is left."""
    before = set(threading.enumerate())
    made = World(tmp_path)
    yield made
    if not made.stopped:
        made.stop()
    ours = [thread for thread in set(threading.enumerate()) - before if thread.name.startswith(("distbelief", "test"))]
    assert ours == []


@pytest.fixture
def served(world: World) -> tuple[World, Shard]:
    """One shard behind gRPC, and the same shard's machine beside it, untouched, to compare with."""
    world.serve(SHARD, shard(), {0: N})
    return world, shard()


def exchange(number: int, lease: int | None = None, version: int = 0) -> Exchange:
    push = None if lease is None else Push(lease, 0, 2, (Reading(0, version),), draw(f"gradient/{lease}"))
    return Exchange(3, number, 0, push, torch.full((N,), torch.nan))


def answer_of(machine: Machine, message: Message) -> Any:
    return next(item for to, item in machine.handle(0.0, message) if to not in (JOURNAL, AVERAGER))


# --- exchanges -------------------------------------------------------------------------------------------------------


def test_exchanges_over_the_wire_are_what_the_machine_says_to_the_bit(served: tuple[World, Shard]) -> None:
    world, direct = served
    for number, (lease, version) in enumerate([(None, 0), (0, 0), (1, 0), (1, 0), (2, 9), (2, 2)]):
        over_wire, beside = exchange(number, lease, version), exchange(number, lease, version)
        assert world.exchange(over_wire) == answer_of(direct, beside)
        assert over_wire.weights_N is not None
        assert beside.weights_N is not None
        assert torch.equal(over_wire.weights_N.nan_to_num(7.0), beside.weights_N.nan_to_num(7.0))
        if over_wire.push is not None:
            assert torch.equal(over_wire.push.gradient_N, draw(f"gradient/{lease}")), "the caller's own is left alone"
    assert world.status(SHARD) == direct.status()
    kinds = [type(record).__name__ for record in world.stop()[SHARD]]
    assert kinds == [
        "PullHandled",
        "PushHandled",
        "PushHandled",
        "SampleSent",
        "PushHandled",
        "ExchangeRefused",
        "PushHandled",
    ]


def test_a_push_without_a_pull_and_a_call_with_neither(served: tuple[World, Shard]) -> None:
    world, _ = served
    push = exchange(1, 0).push
    assert world.exchange(Exchange(3, 1, 0, push, None)) == Exchanged(1, 0, Outcome.APPLIED, Reading(0, 1), 2, 0)
    assert world.exchange(Exchange(3, 2, 0, None, None)) == Exchanged(2, 0, Outcome.NONE, Reading(0, 1), 2, None)


def test_a_retried_push_is_applied_once_and_both_calls_are_answered(served: tuple[World, Shard]) -> None:
    world, _ = served
    first, again = exchange(1, 0), exchange(1, 0)
    assert world.exchange(first) == Exchanged(1, 0, Outcome.APPLIED, Reading(0, 1), 2, 0)
    assert world.exchange(again) == Exchanged(1, 0, Outcome.DUPLICATE, Reading(0, 1), 2, None)
    assert first.weights_N is not None
    assert again.weights_N is not None
    assert torch.equal(first.weights_N, again.weights_N)


def test_many_workers_at_once(served: tuple[World, Shard]) -> None:
    world, _ = served
    calls = 3 * CALLS_AT_ONCE

    async def all_at_once() -> list[Message]:
        peer = world.peers[SHARD]
        pushes = [exchange(1, lease).push for lease in range(calls)]
        return await asyncio.gather(
            *(peer.exchange(Exchange(i, 1, 0, push, None), SECONDS) for i, push in enumerate(pushes))
        )

    answers = world.loop.run(all_at_once())
    readings = [answer.reading.version for answer in answers if isinstance(answer, Exchanged)]
    assert sorted(readings) == list(range(1, calls + 1))


def test_anyone_may_read_a_shard(served: tuple[World, Shard]) -> None:
    world, _ = served
    out_N = torch.zeros(N)
    assert world.exchange(Read(Address(Role.WORKER, -1), 5, 0, out_N)) == ReadDone(5, 0, 0, 1)
    assert torch.equal(out_N, draw("weights"))
    assert world.stop()[SHARD] == []


# --- what is not let in ----------------------------------------------------------------------------------------------


def unchanged(world: World, direct: Shard) -> None:
    """The shard is as if nothing had happened, and goes on."""
    assert world.status(SHARD) == direct.status()
    out_N = torch.zeros(N)
    world.exchange(Read(LEDGER, 1, 0, out_N))
    assert torch.equal(out_N, direct._w_N)
    message = exchange(1, 0)
    assert world.exchange(message) == Exchanged(1, 0, Outcome.APPLIED, Reading(0, 1), 2, 0)
    assert [type(record) for record in world.stop()[SHARD]] == [PushHandled]


@pytest.mark.parametrize("token", ["", "another run's token", TOKEN_HERE + " "])
def test_without_the_token_no_method_answers(served: tuple[World, Shard], token: str) -> None:
    world, direct = served
    stranger = world.peer(SHARD, token)
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: stranger.ask(WhoHas(1, (0,)), SECONDS),
        lambda: stranger.exchange(exchange(1), SECONDS),
        lambda: stranger.exchange(exchange(1, 0), SECONDS),
        lambda: stranger.status(SECONDS),
    ]

    async def refused() -> None:
        for call in calls:
            with pytest.raises(PeerRefused, match=r"wrong or missing run token \(UNAUTHENTICATED\)"):
                await call()
        await stranger.close()

    world.loop.run(refused())
    assert world.raw("Exchange", PUSHING, HALF, HALF, token=token) is grpc.StatusCode.UNAUTHENTICATED
    assert world.servers[SHARD]._traffic.unauthenticated == 5
    unchanged(world, direct)


def test_a_stranger_is_named_once_and_counted_every_time(
    served: tuple[World, Shard], caplog: pytest.LogCaptureFixture
) -> None:
    world, _ = served
    for number in range(3):
        assert world.raw("Status", b"", token="x") is grpc.StatusCode.UNAUTHENTICATED
        assert world.servers[SHARD]._traffic.unauthenticated == number + 1
    (record,) = [record for record in caplog.records if record.name == "distbelief.wire"]
    assert "from ipv4:127.0.0.1;" in record.getMessage()


def test_a_call_without_any_metadata_is_refused(served: tuple[World, Shard]) -> None:
    world, direct = served

    async def call() -> None:
        async with grpc.aio.insecure_channel(world.targets[SHARD]) as channel:
            made: Any = channel.unary_unary(f"/{SERVICE}/Status", None, None)
            with pytest.raises(grpc.aio.AioRpcError, match="wrong or missing run token"):
                await made(b"")

    world.loop.run(call())
    unchanged(world, direct)


@pytest.mark.parametrize("elements", [0, 1, N - 1, N + 1, 1 << 62, -1])
@pytest.mark.parametrize("kind", ["push", "pull", "read"])
def test_a_wrong_length_is_refused_before_anything_is_allocated(
    served: tuple[World, Shard], monkeypatch: pytest.MonkeyPatch, elements: int, kind: str
) -> None:
    world, direct = served

    def forbidden(*_: object) -> Tensor:
        raise MemoryError("allocated")

    monkeypatch.setattr("ps.wire.server.torch.empty", forbidden)
    if kind == "read":
        envelope = pb.Envelope(read=pb.Read(reader=pb.Address(role=pb.ROLE_LEDGER), elements=elements))
    else:
        push = pb.Push(samples=1, read=[pb.Reading()]) if kind == "push" else None
        envelope = pb.Envelope(exchange=pb.Exchange(push=push, pull=kind == "pull", elements=elements))
    assert world.raw("Exchange", envelope.SerializeToString()) is grpc.StatusCode.INVALID_ARGUMENT
    monkeypatch.undo()
    unchanged(world, direct)


PUSHING = to_envelope(exchange(1, 0)).SerializeToString()
HALF = bytes(4 * N // 2)


@pytest.mark.parametrize(
    "frames",
    [
        (),
        (b"",),
        (b"\xff\xff garbage",),
        (PUSHING,),  # no gradient at all
        (PUSHING, HALF),  # cut short
        (PUSHING, HALF, HALF, HALF),  # too long
        (to_envelope(exchange(1)).SerializeToString(), HALF),  # a pull with a vector
        (to_envelope(exchange(1)).SerializeToString()[:-2],),
        (to_envelope(Tick()).SerializeToString(),),
        (to_envelope(NextLease(0, 1, None)).SerializeToString(),),
        (to_envelope(Exchanged(1, 0, Outcome.NONE, Reading(0, 0), 0, None)).SerializeToString(),),
        (to_envelope(Read(JOURNAL, 1, 0, torch.empty(N))).SerializeToString(),),
        (to_envelope(Sample(0, 0, 2, torch.empty(N))).SerializeToString(), bytes(4 * N)),  # the averager's
        (to_envelope(Sample(7, 0, 2, torch.empty(N))).SerializeToString(), bytes(4 * N)),  # no such shard
    ],
)
def test_an_exchange_that_is_none_is_refused_and_changes_nothing(
    served: tuple[World, Shard], frames: tuple[bytes, ...]
) -> None:
    world, direct = served
    assert world.raw("Exchange", *frames) is grpc.StatusCode.INVALID_ARGUMENT
    unchanged(world, direct)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xff garbage",
        PUSHING,
        to_envelope(Tick()).SerializeToString(),
        to_envelope(NextLease(0, 1, None)).SerializeToString(),
        to_envelope(Has(1, 0, ())).SerializeToString(),
        pb.Envelope(granted=pb.Granted()).SerializeToString(),
    ],
)
def test_a_question_that_is_none_is_refused_and_changes_nothing(served: tuple[World, Shard], data: bytes) -> None:
    world, direct = served
    assert world.raw("Ask", data) is grpc.StatusCode.INVALID_ARGUMENT
    unchanged(world, direct)


def test_another_method_is_refused(served: tuple[World, Shard]) -> None:
    world, direct = served
    assert world.raw("Shutdown", b"") is grpc.StatusCode.UNIMPLEMENTED
    unchanged(world, direct)


def test_a_message_too_large_is_refused(served: tuple[World, Shard]) -> None:
    world, direct = served
    assert world.raw("Ask", bytes(5 << 20)) is grpc.StatusCode.RESOURCE_EXHAUSTED
    unchanged(world, direct)


def test_what_the_machine_refuses_is_an_answer(served: tuple[World, Shard]) -> None:
    world, _ = served
    answer = world.exchange(exchange(1, 0, version=4))
    assert answer == Refused(1, 0, Refusal.FUTURE, "read version 4, expected 0 to 0")
    answer = world.exchange(exchange(2, -5))
    assert isinstance(answer, Refused)
    assert answer.refusal is Refusal.LEASE


def test_callers_that_vanish_in_mid_stream_leave_their_places_to_others(served: tuple[World, Shard]) -> None:
    world, direct = served

    async def vanish() -> None:
        async with grpc.aio.insecure_channel(world.targets[SHARD]) as channel:
            calls = []
            for _ in range(2 * CALLS_AT_ONCE):
                made: Any = channel.stream_stream(f"/{SERVICE}/Exchange", None, None)
                call = made(metadata=((TOKEN, TOKEN_HERE),))
                await call.write(PUSHING)
                await call.write(HALF[:100])
                calls.append(call)
            for call in calls:
                call.cancel()

    world.loop.run(vanish())
    unchanged(world, direct)


# --- the ledger: answers that wait -----------------------------------------------------------------------------------


def ledger(world: World, shards: int = 0, seconds: float = 60.0) -> None:
    world.serve(LEDGER, Ledger(PLAN, shards, LedgerSettings(lease_seconds=seconds), 2), {})


def begin(world: World, message: Message, address: Address = LEDGER) -> asyncio.Task[Message | None]:
    """A call that will have to wait."""
    return world.loop.call(lambda: world.loop.loop.create_task(world.peers[address].ask(message, SECONDS)))


def result(world: World, task: asyncio.Task[Message | None]) -> Message | None:
    async def wait() -> Message | None:
        return await task

    return world.loop.run(wait())


def granted(answer: Message | None) -> tuple[int, int, int]:
    assert isinstance(answer, Granted)
    return answer.number, answer.lease.id, answer.lease.attempt


def all_held(world: World) -> None:
    for index in range(3):
        assert granted(world.ask(LEDGER, NextLease(index, 1, None))) == (1, index, 0)


def waiting(world: World, *numbers: int) -> None:
    """Until the calls of worker 9 under these numbers stand in line at the ledger."""
    server = world.servers[LEDGER]
    world.until(LEDGER, lambda _: all((Address(Role.WORKER, 9), number) in server._actor._asked for number in numbers))


def test_an_earlier_asker_is_answered_when_the_machine_gets_to_it(world: World) -> None:
    ledger(world)
    all_held(world)
    task = begin(world, NextLease(9, 1, None))
    waiting(world, 1)
    assert not task.done()
    for index in range(2):
        begin(world, NextLease(index, 2, Finished(index, 0, 0.5, 0, 0)))
    world.until(LEDGER, lambda status: status.finished == 2)
    assert world.ask(LEDGER, NextLease(2, 2, Finished(2, 0, 0.5, 0, 0))) == NoMoreLeases(2, "completed")
    assert result(world, task) == NoMoreLeases(1, "completed")


def test_a_retried_number_gets_the_same_answer(world: World) -> None:
    ledger(world)
    first = world.ask(LEDGER, NextLease(0, 1, None))
    assert world.ask(LEDGER, NextLease(0, 1, None)) == first
    assert world.status(LEDGER).granted == 1
    assert [type(record) for record in world.stop()[LEDGER]] == [LeaseGranted]


def test_a_retry_on_another_call_keeps_the_place_and_ends_the_first_call(world: World) -> None:
    ledger(world)
    all_held(world)
    first = begin(world, NextLease(9, 1, None))
    waiting(world, 1)
    again = begin(world, NextLease(9, 1, None))
    with pytest.raises(PeerLost, match=r"NextLease was sent again on another call \(ABORTED\)"):
        result(world, first)
    assert world.ask(LEDGER, Stop("time")) is None
    assert result(world, again) == NoMoreLeases(1, "time")


def test_a_call_given_up_loses_nothing_the_next_one_gets_the_answer(world: World) -> None:
    ledger(world)
    all_held(world)
    task = begin(world, NextLease(9, 1, None))
    waiting(world, 1)
    world.loop.call(task.cancel)
    server = world.servers[LEDGER]
    world.until(LEDGER, lambda _: (Address(Role.WORKER, 9), 1) not in server._actor._asked)
    world.ask(LEDGER, Stop("signal"))
    assert world.ask(LEDGER, NextLease(9, 1, None)) == NoMoreLeases(1, "signal")


def test_what_the_driver_says_is_received(world: World) -> None:
    ledger(world)
    for message in (WorkerLost(4), Tick(), Stop("target")):
        assert world.ask(LEDGER, message) is None
    with pytest.raises(PeerRefused, match=r"'whim' is not a valid Ending \(INVALID_ARGUMENT\)"):
        world.ask(LEDGER, Stop("whim"))
    assert world.status(LEDGER).ending == "target"


def test_a_vector_is_refused_where_there_is_none(world: World) -> None:
    ledger(world)
    with pytest.raises(PeerRefused, match=f"vector of {N} elements for shard 0, expected None"):
        world.exchange(exchange(1), LEDGER)


def test_ticks_come_by_themselves(world: World) -> None:
    journal = JournalWriter(world.folder / f"ledger{SUFFIX}", "run", "ledger")
    ticked = threading.Event()
    machine = Ledger(PLAN, 1, LedgerSettings(), 1)

    class Listening:
        def status(self) -> Status:
            return machine.status()

        def handle(self, now: float, message: Message) -> Outbox:
            if message == Tick():
                ticked.set()
            return machine.handle(now, message)

    server = MachineServer(Listening(), Gate(TOKEN_HERE, {}), journal, lambda: 0.0, tick_seconds=0.001)
    server.start("127.0.0.1")
    assert ticked.wait(SECONDS)
    server.stop()


# --- between servers -------------------------------------------------------------------------------------------------


def test_samples_flow_from_shard_to_averager_and_their_buffers_back(world: World) -> None:
    world.serve(SHARD, shard(), {0: N})
    world.serve(AVERAGER, Averager((N,), AverageSettings(kind="uniform", start=0.0), 6), {0: N})
    world.servers[SHARD].connect({AVERAGER: world.targets[AVERAGER]})
    weights = []
    for lease in range(4):
        message = exchange(lease, lease)
        world.exchange(message)
        assert message.weights_N is not None
        weights.append(message.weights_N)
        world.until(SHARD, lambda status: status.waiting_samples == 0)
    out_N = torch.zeros(N)
    assert world.status(AVERAGER) == AveragerStatus((4,), (2,))
    assert world.exchange(Read(LEDGER, 1, 0, out_N), AVERAGER) == ReadDone(1, 0, 4, 2)
    torch.testing.assert_close(out_N, (weights[1] + weights[3]) / 2)
    averaged = world.stop()[AVERAGER]
    assert [(r.version, r.counted) for r in averaged if isinstance(r, SampleAveraged)] == [(2, True), (4, True)]


@pytest.mark.parametrize("elements", [0, 1, N - 1])
@pytest.mark.parametrize("index", [0, -1, 1])
def test_a_sample_of_a_wrong_length_does_not_reach_the_average(world: World, elements: int, index: int) -> None:
    world.serve(AVERAGER, Averager((N,), AverageSettings(), 6), {0: N})
    envelope = pb.Envelope(sample=pb.Sample(shard=index, version=2, elements=elements))
    code = world.raw("Exchange", envelope.SerializeToString(), bytes(4 * elements), address=AVERAGER)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert world.status(AVERAGER) == AveragerStatus((0,), (0,))


def test_a_question_flows_from_ledger_to_shard_and_the_answer_back(world: World) -> None:
    world.serve(SHARD, shard(), {0: N})
    ledger(world, shards=1)
    world.servers[LEDGER].connect({SHARD: world.targets[SHARD]})
    all_held(world)
    world.exchange(exchange(1, 1))
    world.ask(LEDGER, WorkerLost(0))
    world.ask(LEDGER, WorkerLost(1))
    status = world.until(LEDGER, lambda status: status.finished == 1)
    assert status.outstanding == 2
    assert granted(world.ask(LEDGER, NextLease(5, 1, None))) == (1, 0, 1), "the shard lacked lease 0"


def test_a_question_to_a_shard_that_is_not_there_is_asked_until_it_is(world: World) -> None:
    world.serve(SHARD, shard(), {0: N})
    target = world.targets[SHARD]
    world.loop.run(world.peers.pop(SHARD).close())
    world.servers.pop(SHARD).stop()
    ledger(world, shards=1)
    world.servers[LEDGER].connect({SHARD: target})
    all_held(world)
    world.ask(LEDGER, WorkerLost(0))
    assert world.status(LEDGER).outstanding == 3
    # Stopping now must not wait for the errand: the fixture looks for threads that are left.


# --- what goes wrong inside ------------------------------------------------------------------------------------------


class Faulty:
    """A machine that counts what it handles and fails at WorkerLost, in the middle of its work."""

    def __init__(self) -> None:
        self.handled = 0

    def status(self) -> Status:
        nan = float("nan")
        return LedgerStatus(0, self.handled, 0, 0, 0, 0, 0, 0, nan, nan, nan, "", "")

    def handle(self, now: float, message: Message) -> Outbox:
        self.handled += 1
        if isinstance(message, WorkerLost):
            raise KeyError("lost its way")
        return [(JOURNAL, PullHandled(now, 0, 0, 0))]


def test_a_machine_that_failed_in_mid_work_handles_nothing_more(world: World) -> None:
    machine = Faulty()
    world.serve(LEDGER, machine, {})
    assert world.ask(LEDGER, Tick()) is None
    with pytest.raises(PeerLost, match=r"could not handle WorkerLost: KeyError\('lost its way'\) \(INTERNAL\)"):
        world.ask(LEDGER, WorkerLost(0))
    for _ in range(2):
        with pytest.raises(PeerRefused, match=r"could not handle WorkerLost.*FAILED_PRECONDITION"):
            world.ask(LEDGER, Tick())
    with pytest.raises(RunFailed, match="could not handle WorkerLost"):
        world.servers[LEDGER].deliver(Tick())
    assert machine.handled == 2
    assert world.status(LEDGER).granted == 2
    assert len(world.stop()[LEDGER]) == 1


def test_when_the_journal_cannot_be_written_no_answer_leaves_and_nothing_more_is_handled(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Faulty()
    world.serve(LEDGER, machine, {})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(JournalWriter, "_write", full)
    with pytest.raises(PeerLost, match=r"could not write the journal: .*No space left on device \(INTERNAL\)"):
        world.ask(LEDGER, Tick())
    monkeypatch.undo()
    with pytest.raises(PeerRefused, match="could not write the journal"):
        world.ask(LEDGER, Tick())
    assert machine.handled == 1
    assert world.stop()[LEDGER] == []


# --- beginning and end -----------------------------------------------------------------------------------------------


def test_a_message_from_within_the_process_is_handled_and_journaled(world: World) -> None:
    world.serve(LEDGER, Faulty(), {})
    world.servers[LEDGER].deliver(Tick())
    assert world.stop()[LEDGER] == [PullHandled(0.0, 0, 0, 0)]


def test_stopping_ends_waiting_calls_and_closes_the_journal(world: World) -> None:
    ledger(world)
    all_held(world)
    task = begin(world, NextLease(9, 1, None))
    waiting(world, 1)
    server = world.servers.pop(LEDGER)
    server.stop()
    with pytest.raises(PeerLost):
        result(world, task)
    with pytest.raises(PeerLost, match="UNAVAILABLE"):
        world.ask(LEDGER, Tick())
    assert len(list(read_journal(world.folder / f"ledger{SUFFIX}"))) == 3
    with pytest.raises(OSError, match="Bad file descriptor"):
        server._actor._journal.write([PullHandled(0.0, 0, 0, 0)])


def test_a_call_to_a_loop_that_is_closing_comes_back() -> None:
    """Whoever calls while another closes it is answered or told; nobody waits for ever."""
    for _ in range(100):
        loop, ended = Loop("test-loop"), threading.Event()

        def call(loop: Loop = loop, ended: threading.Event = ended) -> None:
            with suppress(RuntimeError, CancelledError):
                while True:
                    loop.call(lambda: None)
            ended.set()

        thread = threading.Thread(target=call, name="test-caller", daemon=True)
        thread.start()
        loop.close()
        assert ended.wait(SECONDS)
        thread.join()
    with pytest.raises(RuntimeError, match="a loop that is closed"):
        loop.call(lambda: None)


def test_a_server_that_never_listened_stops_too(world: World) -> None:
    journal = JournalWriter(world.folder / f"x{SUFFIX}", "run", "x")
    MachineServer(Faulty(), Gate(TOKEN_HERE, {}), journal, lambda: 0.0).stop()
    assert list(read_journal(world.folder / f"x{SUFFIX}")) == []


# --- the client ------------------------------------------------------------------------------------------------------


def test_nobody_there_is_lost_and_not_refused(world: World) -> None:
    ledger(world)
    world.servers.pop(LEDGER).stop()
    with pytest.raises(PeerLost, match="UNAVAILABLE"):
        world.ask(LEDGER, Tick())
    with pytest.raises(PeerLost, match="UNAVAILABLE"):
        world.exchange(exchange(1), LEDGER)
    with pytest.raises(PeerLost, match="UNAVAILABLE"):
        world.status(LEDGER)


def test_a_deadline_is_lost_and_not_refused(world: World) -> None:
    ledger(world)
    all_held(world)
    with pytest.raises(PeerLost, match="DEADLINE_EXCEEDED"):
        world.loop.run(world.peers[LEDGER].ask(NextLease(9, 1, None), 0.05))


@pytest.mark.parametrize(
    ("answers", "text"),
    [
        ((), "closed the stream without an answer"),
        ((b"\xff garbage",), "bytes that are no envelope"),
        ((b"",), "empty envelope"),
        ((to_envelope(ReadDone(1, 0, 0, 1)).SerializeToString(),), "got 0: the stream was cut short"),
        ((to_envelope(ReadDone(1, 0, 0, 1)).SerializeToString(), bytes(4 * N + 4)), f"got at least {4 * N + 4}"),
    ],
)
def test_an_answer_that_is_none_is_lost_for_the_message_may_have_been_handled(
    world: World, answers: tuple[bytes, ...], text: str
) -> None:
    async def exchange(requests: AsyncIterator[bytes], context: Any) -> None:
        async for _ in requests:
            pass
        for answer in answers:
            await context.write(answer[:FRAME_BYTES])
            if answer[FRAME_BYTES:]:
                for start in range(FRAME_BYTES, len(answer), FRAME_BYTES):
                    await context.write(answer[start : start + FRAME_BYTES])

    async def serve() -> tuple[grpc.aio.Server, str]:
        server = grpc.aio.server()
        handlers = {"Exchange": grpc.stream_stream_rpc_method_handler(exchange)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return server, f"127.0.0.1:{port}"

    server, world.targets[SHARD] = world.loop.run(serve())
    world.peers[SHARD] = world.peer(SHARD)
    with pytest.raises(PeerLost, match=text):
        world.exchange(Read(LEDGER, 1, 0, torch.zeros(N)))
    world.loop.run(server.stop(None))


def test_status_of_a_shard_has_every_number(served: tuple[World, Shard]) -> None:
    world, _ = served
    world.exchange(exchange(1, 0))
    assert world.status(SHARD) == ShardStatus(0, 0, 1, 2, 0.1, 0, 0, 0, 0, {0: 1}, kernel=kernel.in_use())
    assert world.ask(SHARD, WhoHas(4, (0, 1))) == Has(4, 0, (0,))
    assert world.ask(SHARD, SampleTaken(0, 0, 9)) is None


# --- vectors of another type on their way ----------------------------------------------------------------------------


@pytest.mark.parametrize("elements", [N, 100])
@pytest.mark.parametrize("wire", [Wire.BFLOAT16, Wire.FLOAT16])
def test_narrow_vectors_are_what_rounding_says_they_are(world: World, wire: Wire, elements: int) -> None:
    def some(name: str) -> Tensor:
        return draw(name)[:elements]

    def made() -> Shard:
        schedule = ScheduleSettings(rate=0.1).build(PLAN.examples, PLAN.samples)
        segments = (Segment(0, elements, 1.0, 1.0),)
        return Shard(0, 1, some("weights").clone(), segments, Momentum(0.9), 0.0, schedule, sample_every=0)

    def exchanged(number: int, gradient_N: Tensor | None, wire: Wire = Wire.FLOAT32) -> Exchange:
        push = None if gradient_N is None else Push(0, 0, 2, (Reading(0, 0),), gradient_N)
        return Exchange(3, number, 0, push, torch.full((elements,), torch.nan), wire)

    world.serve(SHARD, made(), {0: elements})
    peer = world.loop.call(lambda: Peer(world.targets[SHARD], TOKEN_HERE, None, wire, 9))
    world.loop.run(world.peers[SHARD].close())
    world.peers[SHARD] = peer
    direct = made()
    for number, gradient_N in enumerate([None, some("gradient/0")]):
        over_wire = exchanged(number, gradient_N)
        received_N = None if gradient_N is None else stochastic(gradient_N, wire, 9, 0, 0).float()
        beside = exchanged(number, received_N, wire)
        assert world.exchange(over_wire) == answer_of(direct, beside)
        assert over_wire.weights_N is not None
        assert beside.weights_N is not None
        assert torch.equal(over_wire.weights_N, nearest(beside.weights_N, wire).float())
    journal = world.stop()[SHARD]
    assert [record.wire for record in journal if isinstance(record, PullHandled | PushHandled)] == [wire, wire]


def test_a_type_that_is_none_is_refused(served: tuple[World, Shard]) -> None:
    world, direct = served
    envelope = pb.Envelope(exchange=pb.Exchange(pull=True, elements=N))
    envelope.exchange.wire = 7  # type: ignore[assignment]
    assert world.raw("Exchange", envelope.SerializeToString()) is grpc.StatusCode.INVALID_ARGUMENT
    assert world.raw("Whole", envelope.SerializeToString()) is grpc.StatusCode.INVALID_ARGUMENT
    unchanged(world, direct)
