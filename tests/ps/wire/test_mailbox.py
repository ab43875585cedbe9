"""Mailboxes: vectors of one process opened by another, and everything that a hostile process might say of its own."""

from __future__ import annotations

import fcntl
import gc
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import grpc
import pytest
import torch
from torch import Tensor

from ps.errors import PeerLost, WireError
from ps.messages import Exchange, Exchanged, Outcome, Push, Reading, Refused
from ps.wire import parameter_server_pb2 as pb
from ps.wire.client import SERVICE, TOKEN, Peer
from ps.wire.codec import Traffic
from ps.wire.mailbox import HUGE_BYTES, MEMORIES, MemoryElsewhere, OpenMemories, SharedVectors
from tests.ps.wire.test_server import (
    SECONDS,
    SHARD,
    TOKEN_HERE,
    N,
    World,
    answer_of,
    draw,
    exchange,
    served,
    shard,
    unchanged,
    world,
)

__all__ = ["served", "world"]  # fixtures

TAIL = 16 * 7  # where a shard's part begins in a worker's vector: a line, but no page


def mail_of(vectors: SharedVectors, message: Exchange) -> bytes:
    mail = vectors.mail(message)
    assert mail is not None
    return mail


def opened(elements: int = N) -> OpenMemories:
    return OpenMemories({0: elements}, WeakValueDictionary())


class Worker:
    """Vectors that can be shared, and exchanges that carry them."""

    def __init__(self, elements: int = N) -> None:
        self.vectors = SharedVectors()
        self.gradient_N = self.vectors.vector(TAIL + elements)[TAIL:]
        self.weights_N = self.vectors.vector(TAIL + elements)[TAIL:]

    def exchange(self, number: int, lease: int | None = None, version: int = 0) -> Exchange:
        push = None
        if lease is not None:
            self.gradient_N.copy_(draw(f"gradient/{lease}"))
            push = Push(lease, 0, 2, (Reading(0, version),), self.gradient_N)
        return Exchange(3, number, 0, push, self.weights_N.fill_(torch.nan))

    def connect(self, world: World) -> None:
        """Let the world's client go through memory."""
        target = world.targets[SHARD]
        old = world.peers[SHARD]
        world.peers[SHARD] = world.loop.call(lambda: Peer(target, TOKEN_HERE, self.vectors))
        world.loop.run(old.close())


def traffic(world: World) -> Traffic:
    return world.loop.run(world.peers[SHARD].report(SECONDS))[1]


# --- vectors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("elements", [1, 1000, HUGE_BYTES // 4 + 5])
def test_what_one_end_writes_the_other_reads(elements: int) -> None:
    worker = Worker(elements)
    message = Exchange(0, 1, 0, Push(0, 0, 1, (), worker.gradient_N), worker.weights_N)
    there = opened(elements).message(mail_of(worker.vectors, message))
    assert isinstance(there, Exchange)
    assert there.push is not None
    assert there.weights_N is not None
    worker.gradient_N.fill_(3.0)
    there.weights_N.fill_(5.0)
    assert torch.equal(there.push.gradient_N, torch.full((elements,), 3.0))
    assert torch.equal(worker.weights_N, torch.full((elements,), 5.0))


def test_a_vector_is_aligned_zero_and_only_its_owners() -> None:
    vectors = SharedVectors()
    vector_N = vectors.vector(1000)
    assert vector_N.data_ptr() % mmap.PAGESIZE == 0
    assert not vector_N.any()
    memory = vectors.locate(vector_N)
    assert memory is not None
    status = os.fstat(memory.descriptor)
    assert (status.st_mode & 0o777, status.st_nlink) == (0o600, 0)
    assert not os.get_inheritable(memory.descriptor)


def test_memory_of_others_cannot_be_shared() -> None:
    vectors = SharedVectors()
    assert vectors.locate(torch.zeros(5)) is None
    assert vectors.mail(Exchange(0, 1, 0, None, torch.zeros(5))) is None


def test_pinned_memory_is_let_go_of_before_it_is_renewed() -> None:
    steps: list[str] = []

    def pin(vector_N: torch.Tensor) -> Callable[[], None]:
        steps.append(f"pinned {vector_N.tolist()}")
        return lambda: steps.append(f"let go of {vector_N.tolist()}")

    vectors = SharedVectors(pin)
    vector_N = vectors.vector(2)
    vector_N.fill_(3.0)
    vectors.renew([Exchange(0, 1, 0, None, vector_N)])
    assert steps == ["pinned [0.0, 0.0]", "let go of [3.0, 3.0]", "pinned [3.0, 3.0]"]


def test_renewed_vectors_keep_place_and_content_and_late_hands_reach_neither() -> None:
    worker = Worker()
    late = opened().message(mail_of(worker.vectors, worker.exchange(1, 0)))
    assert isinstance(late, Exchange)
    assert late.push is not None
    assert late.weights_N is not None
    worker.weights_N.fill_(7.0)
    places = worker.gradient_N.data_ptr(), worker.weights_N.data_ptr()
    worker.vectors.renew([Exchange(3, 1, 0, Push(0, 0, 2, (), worker.gradient_N), worker.weights_N)])
    assert (worker.gradient_N.data_ptr(), worker.weights_N.data_ptr()) == places
    assert torch.equal(worker.gradient_N, draw("gradient/0"))
    worker.gradient_N.fill_(torch.nan)  # the next lease's
    late.weights_N.fill_(-1.0)
    assert torch.equal(late.push.gradient_N, draw("gradient/0"))
    assert torch.equal(worker.weights_N, torch.full((N,), 7.0))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def mappings() -> int:
    return Path("/proc/self/maps").read_text().count("/memfd:distbelief-")


def test_everything_is_given_back() -> None:
    gc.collect()
    before = descriptors(), mappings()
    worker, there = Worker(), opened()
    for number in range(3):
        there.message(mail_of(worker.vectors, worker.exchange(number, number)))
        worker.vectors.renew([worker.exchange(number, number)])
    assert descriptors() == before[0] + 2, "the shard's end keeps no descriptor"
    assert mappings() == before[1] + 2 + 2, "the shard's end has let go of all but the last"
    del worker, there
    gc.collect()
    assert (descriptors(), mappings()) == before


# --- what a hostile process might say --------------------------------------------------------------------------------


def forged(vectors: SharedVectors, message: Exchange, **changes: Any) -> bytes:
    mail = pb.Mail.FromString(mail_of(vectors, message))
    for name, value in changes.items():
        setattr(mail.weights, name, value)
    return mail.SerializeToString()


@pytest.mark.parametrize("process", [-1, 0, 1 << 40, (1 << 63) - 1])
def test_no_such_process(process: int) -> None:
    worker = Worker()
    with pytest.raises(MemoryElsewhere):
        opened().message(forged(worker.vectors, worker.exchange(1), process=process))


@pytest.mark.parametrize("descriptor", [-1, 0, 1, 1 << 20, (1 << 63) - 1])
def test_no_such_descriptor_or_another_file(descriptor: int) -> None:
    worker = Worker()
    with pytest.raises(MemoryElsewhere):
        opened().message(forged(worker.vectors, worker.exchange(1), descriptor=descriptor))


def test_memory_under_another_name_is_not_opened() -> None:
    worker = Worker()
    for name in ("", "distbelief-0", "../../etc/passwd", "x" * 10_000):
        with pytest.raises(MemoryElsewhere, match="got another file than the one named"):
            opened().message(forged(worker.vectors, worker.exchange(1), name=name))


@pytest.mark.parametrize("offset", [-64, -1, 1, 63, 4 * TAIL + 64, 1 << 40, (1 << 63) - 1, -(1 << 63)])
def test_a_vector_outside_its_memory_or_between_lines_is_refused(offset: int) -> None:
    worker = Worker()
    with pytest.raises(WireError, match="expected them to lie within"):
        opened().message(forged(worker.vectors, worker.exchange(1), offset=offset))


@pytest.mark.parametrize("elements", [0, 1, N + 1, -1, 1 << 62])
def test_another_length_than_the_shards_is_refused_before_anything_is_opened(elements: int) -> None:
    worker = Worker()
    mail = pb.Mail.FromString(mail_of(worker.vectors, worker.exchange(1, 0)))
    mail.exchange.elements = elements
    mail.weights.process = mail.gradient.process = -1
    with pytest.raises(WireError, match=f"vector of {elements} elements for shard 0, expected {N}"):
        opened().message(mail.SerializeToString())


def test_a_wire_type_is_refused_where_nothing_travels() -> None:
    """Else the journal would say that a gradient was rounded that was not."""
    worker = Worker()
    mail = pb.Mail.FromString(mail_of(worker.vectors, worker.exchange(1, 0)))
    mail.exchange.wire = pb.WIRE_BFLOAT16
    with pytest.raises(WireError, match="expected float32"):
        opened().message(mail.SerializeToString())


@pytest.mark.parametrize("data", [b"\xff\xff garbage", b"", b"\x0a\x02\x18\x07"])
def test_bytes_that_are_no_mail_are_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        opened().message(data)


@contextmanager
def memory(size: int, seals: int) -> Iterator[tuple[int, pb.Memory]]:
    descriptor = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    yield descriptor, pb.Memory(process=os.getpid(), descriptor=descriptor, name="unsealed")
    os.close(descriptor)


@pytest.mark.parametrize("seals", [0, fcntl.F_SEAL_GROW, fcntl.F_SEAL_SEAL])
def test_memory_that_could_shrink_under_the_shards_hands_is_refused(seals: int) -> None:
    with memory(4 * N, seals) as (_, place):
        mail = pb.Mail(exchange=pb.Exchange(pull=True, elements=N), weights=place)
        with pytest.raises(WireError, match="expected it sealed against shrinking"):
            opened().message(mail.SerializeToString())


def test_memory_that_was_opened_cannot_be_cut() -> None:
    worker = Worker()
    there = opened().message(mail_of(worker.vectors, worker.exchange(1)))
    place = worker.vectors.locate(worker.weights_N)
    assert place is not None
    for size in (0, 4 * (TAIL + N) - 1, 4 * (TAIL + N) + 1):
        with pytest.raises(PermissionError):
            os.ftruncate(place.descriptor, size)
    assert isinstance(there, Exchange)
    assert there.weights_N is not None
    there.weights_N.fill_(1.0)


def test_memories_that_a_worker_gave_up_are_let_go() -> None:
    there = opened(16)
    worker = Worker(16)
    for number in range(MEMORIES + 5):
        message = Exchange(0, number, 0, None, worker.weights_N)
        there.message(mail_of(worker.vectors, message))
        assert len(there._vectors) == 1
        worker.vectors.renew([message])


def test_of_too_many_memories_the_one_used_least_recently_is_closed() -> None:
    there = opened(16)
    vectors = SharedVectors()
    mails = [mail_of(vectors, Exchange(0, 1, 0, None, vectors.vector(16))) for _ in range(MEMORIES + 1)]
    for mail in [*mails[:MEMORIES], mails[0]]:
        there.message(mail)
    second, third, *_ = there._vectors
    there.message(mails[MEMORIES])
    assert len(there._vectors) == MEMORIES
    assert second not in there._vectors
    assert third in there._vectors
    assert there.message(mails[1]) is not None, "it opens again"


# --- through a server ------------------------------------------------------------------------------------------------


def test_exchanges_through_memory_are_what_the_machine_says_to_the_bit(served: tuple[World, Any]) -> None:
    world, direct = served
    worker = Worker()
    worker.connect(world)
    for number, (lease, version) in enumerate([(None, 0), (0, 0), (1, 0), (1, 0), (2, 9), (2, 2)]):
        over_wire, beside = worker.exchange(number, lease, version), exchange(number, lease, version)
        assert world.exchange(over_wire) == answer_of(direct, beside)
        assert beside.weights_N is not None
        assert torch.equal(worker.weights_N.nan_to_num(7.0), beside.weights_N.nan_to_num(7.0))
        if lease is not None:
            assert torch.equal(worker.gradient_N, draw(f"gradient/{lease}")), "the worker may have to push it again"
    assert world.status(SHARD) == direct.status()
    assert traffic(world) == Traffic(0, 6, 0)


def test_what_cannot_be_opened_goes_over_the_network_from_then_on(
    served: tuple[World, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    world, _ = served
    worker = Worker()
    worker.connect(world)
    monkeypatch.setattr("ps.wire.mailbox.os.getpid", lambda: 1 << 30)  # as another host's processes look from here
    for number in range(2):
        assert isinstance(world.exchange(worker.exchange(number, number)), Exchanged)
    monkeypatch.undo()
    assert isinstance(world.exchange(worker.exchange(2)), Exchanged)
    assert traffic(world) == Traffic(0, 0, 3)
    assert torch.equal(worker.weights_N, weights(world))


def weights(world: World) -> Tensor:
    message = exchange(99)
    world.exchange(message)
    assert message.weights_N is not None
    return message.weights_N


def test_vectors_of_ones_own_go_over_the_network(served: tuple[World, Any]) -> None:
    world, _ = served
    Worker().connect(world)
    assert isinstance(world.exchange(exchange(1, 0)), Exchanged)
    assert traffic(world) == Traffic(0, 0, 1)


def test_a_refusal_leaves_the_mailbox_open(served: tuple[World, Any]) -> None:
    world, _ = served
    worker = Worker()
    worker.connect(world)
    assert isinstance(world.exchange(worker.exchange(1, 0, version=4)), Refused)
    assert isinstance(world.exchange(worker.exchange(2, 0)), Exchanged)
    assert traffic(world) == Traffic(0, 2, 0)


def hostile(world: World, *mails: bytes, token: str = TOKEN_HERE) -> grpc.StatusCode:
    with grpc.insecure_channel(world.targets[SHARD]) as channel:
        call = channel.stream_stream(f"/{SERVICE}/Mailbox", None, None)
        try:
            list(call(iter(mails), metadata=((TOKEN, token),), timeout=SECONDS))
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
    return grpc.StatusCode.OK


def test_hostile_mail_gets_a_clear_status_and_changes_nothing(served: tuple[World, Any]) -> None:
    world, direct = served
    worker = Worker()
    message = worker.exchange(1, 0)
    assert hostile(world, mail_of(worker.vectors, message), token="x") is grpc.StatusCode.UNAUTHENTICATED
    assert hostile(world, b"\xff garbage") is grpc.StatusCode.INVALID_ARGUMENT
    assert hostile(world, forged(worker.vectors, message, process=-1)) is grpc.StatusCode.NOT_FOUND
    assert hostile(world, forged(worker.vectors, message, offset=1)) is grpc.StatusCode.INVALID_ARGUMENT
    assert hostile(world) is grpc.StatusCode.OK
    unchanged(world, direct)


def test_the_shard_forgets_memories_when_their_worker_hangs_up(served: tuple[World, Any]) -> None:
    world, _ = served
    gc.collect()
    before = mappings()
    worker = Worker()
    worker.connect(world)
    world.exchange(worker.exchange(1, 0))
    assert mappings() == before + 4
    world.loop.run(world.peers[SHARD].close())
    world.peers[SHARD] = world.peer(SHARD)

    def forgotten(_: object) -> bool:
        gc.collect()
        return mappings() == before + 2

    world.until(SHARD, forgotten)


def test_an_exchange_without_an_answer_is_lost_and_the_next_one_goes_on(world: World) -> None:
    world.serve(SHARD, Silent(), {0: N})
    worker = Worker()
    worker.connect(world)
    with pytest.raises(PeerLost, match="DEADLINE_EXCEEDED"):
        world.loop.run(world.peers[SHARD].exchange(worker.exchange(1), 0.05))
    assert isinstance(world.exchange(worker.exchange(2)), Exchanged)


class Silent:
    """A shard that answers everything but exchange 1."""

    def __init__(self) -> None:
        self._shard = shard()
        self.status = self._shard.status

    def handle(self, now: float, message: Any) -> Any:
        return [] if message.number == 1 else self._shard.handle(now, message)


def test_a_killed_owner_leaves_nothing_and_its_memory_stays_readable() -> None:
    """The child makes a vector of sevens, says where it is, and waits to be killed."""
    program = (
        "import sys; from ps.messages import Exchange; from ps.wire.mailbox import SharedVectors\n"
        f"made = SharedVectors(); v = made.vector({N}).fill_(7.0)\n"
        "print(made.mail(Exchange(0, 1, 0, None, v)).hex(), flush=True)\n"
        "sys.stdin.read()"
    )
    gc.collect()
    before, mapped = set(os.listdir("/dev/shm")), mappings()
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        message = opened().message(bytes.fromhex(child.stdout.readline().decode()))
        child.send_signal(signal.SIGKILL)
        child.wait(SECONDS)
    assert isinstance(message, Exchange)
    assert message.weights_N is not None
    assert torch.equal(message.weights_N, torch.full((N,), 7.0))
    assert set(os.listdir("/dev/shm")) <= before
    assert mappings() == mapped + 1


def test_an_applied_push_through_memory_is_applied_once(served: tuple[World, Any]) -> None:
    world, _ = served
    worker = Worker()
    worker.connect(world)
    first = world.exchange(worker.exchange(1, 0))
    again = world.exchange(worker.exchange(1, 0))
    assert first == Exchanged(1, 0, Outcome.APPLIED, Reading(0, 1), 2, 0)
    assert again == Exchanged(1, 0, Outcome.DUPLICATE, Reading(0, 1), 2, None)
