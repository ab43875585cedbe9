"""Read-ahead: what the shelf decides, as scripts without threads; then that threads change no bit and hide no error."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from ps.leases import LeasePlan
from ps.messages import Lease
from workers.augment import Jitter
from workers.batches import Batch, Batches
from workers.datasets import DataSettings, load
from workers.decode import BadImage
from workers.readahead import Place, Read, ReadAhead, Shelf

PLAN = LeasePlan(examples=1437, batch_size=32, epochs=2, seed=3)
MIB = 1 << 20


def read(mebibytes: int = 1) -> Read:
    """A batch of this size; its pages are never touched."""
    return Read(Batch(torch.empty(mebibytes, MIB // 4), torch.zeros(1, dtype=torch.int64), 0))


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    """A shelf for three batches, whose bounds are looked at when the script ends."""
    made = Shelf(leases=100, most=3, most_bytes=10 * MIB)
    yield made
    assert len(made._ready) + len(made._reading) <= 3
    assert not set(made._ready) & made._reading
    assert not (set(made._ready) | made._reading) & set(made._waiting)


# --- the shelf --------------------------------------------------------------------------------------------------------


def test_granted_leases_are_read_in_their_order_up_to_the_bound(shelf: Shelf) -> None:
    for worker in range(5):
        shelf.grant(worker, worker)
    assert [shelf.next() for _ in range(4)] == [0, 1, 2, None]
    assert shelf.find(1) is Place.READING
    first = read()
    shelf.put(0, first)
    assert shelf.next() is None  # what lies ready takes room too
    assert shelf.find(0) is Place.READY
    assert shelf.take(0) is first
    assert shelf.next() == 3


def test_whoever_comes_before_the_readers_reads_for_itself(shelf: Shelf) -> None:
    shelf.grant(0, 0)
    assert shelf.find(0) is Place.NOWHERE
    assert shelf.take(0) is None
    assert shelf.next() is None


def test_a_worker_alone_gets_its_next_lease_guessed_from_the_stride(shelf: Shelf) -> None:
    shelf.grant(0, 0)
    shelf.take(0)
    assert shelf.next() is None  # one lease has no stride
    shelf.grant(0, 3)
    shelf.take(3)
    assert shelf.next() == 6
    guess = read()
    shelf.put(6, guess)
    assert shelf.next() is None
    shelf.grant(0, 6)
    assert shelf.next() is None
    assert shelf.take(6) is guess
    assert shelf.next() == 9


def test_granted_comes_before_guessed(shelf: Shelf) -> None:
    for id in (0, 1):
        shelf.grant(0, id)
        shelf.take(id)
    shelf.grant(1, 2)
    shelf.grant(2, 3)
    assert [shelf.next(), shelf.next(), shelf.next()] == [2, 3, None]
    shelf.put(2, read())
    shelf.put(3, read())
    assert shelf.next() is None  # somebody waits still: no need to guess
    shelf.take(2)
    shelf.take(3)
    shelf.grant(0, 4)
    shelf.take(4)
    assert shelf.next() == 7  # worker 0's last two are 1 and 4


def test_a_wrong_guess_is_dropped_when_the_ledger_has_gone_past_it(shelf: Shelf) -> None:
    for id in (0, 2):
        shelf.grant(0, id)
        shelf.take(id)
    assert shelf.next() == 4
    shelf.put(4, read())
    shelf.grant(0, 5)
    assert shelf.find(4) is Place.NOWHERE


def test_a_wrong_guess_is_dropped_while_it_is_being_read(shelf: Shelf) -> None:
    for id in (0, 2):
        shelf.grant(0, id)
        shelf.take(id)
    assert shelf.next() == 4
    shelf.grant(0, 5)
    shelf.put(4, read())
    assert shelf.find(4) is Place.NOWHERE


def test_a_guess_that_may_still_come_true_stays(shelf: Shelf) -> None:
    for id in (0, 2):
        shelf.grant(0, id)
        shelf.take(id)
    assert shelf.next() == 4
    shelf.put(4, read())
    shelf.grant(0, 3)
    shelf.take(3)
    assert shelf.find(4) is Place.READY
    assert shelf.next() is None  # the stride is one now, and lease 4 is there


def test_nothing_is_guessed_past_the_end_nor_backwards() -> None:
    shelf = Shelf(leases=5, most=3, most_bytes=MIB)
    for id in (0, 3):
        shelf.grant(0, id)
        shelf.take(id)
    assert shelf.next() is None
    shelf.grant(0, 1)  # granted again
    shelf.take(1)
    assert shelf.next() is None


def test_bytes_are_bounded_by_what_batches_have_taken(shelf: Shelf) -> None:
    for worker in range(4):
        shelf.grant(worker, worker)
    assert shelf.next() == 0
    shelf.put(0, read(6))
    assert shelf.next() is None  # a second one of 6 would be over 10
    shelf.take(0)
    assert shelf.next() == 1


def test_one_batch_may_be_larger_than_the_bound(shelf: Shelf) -> None:
    shelf.grant(0, 0)
    shelf.grant(1, 1)
    assert shelf.next() == 0
    shelf.put(0, read(20))
    assert shelf.next() is None
    shelf.take(0)
    assert shelf.next() == 1


# --- the threads ------------------------------------------------------------------------------------------------------


def digits() -> Batches:
    return Batches(load(DataSettings(), "train"), PLAN, Jitter(15.0, 0.2, 1 / 8))


def test_batches_are_the_same_with_read_ahead_or_without() -> None:
    reading, plain = ReadAhead(PLAN, digits().batch, threads=2), digits()
    try:
        for id in [*range(0, 40, 2), 17, *range(41, 60)]:
            lease = PLAN.lease(id, 1, 9.0)
            reading.granted(0, lease)
            found, expected = reading.batch(lease), plain.batch(lease)
            assert torch.equal(found.images_BCHW, expected.images_BCHW)
            assert torch.equal(found.labels_B, expected.labels_B)
    finally:
        reading.close()


def test_the_next_lease_is_read_while_this_one_is_computed() -> None:
    read_by: dict[int, str] = {}
    third = threading.Event()

    def note(lease: Lease) -> Batch:
        read_by[lease.id] = threading.current_thread().name
        if lease.id == 2:
            third.set()
        return Batch(torch.zeros(1), torch.zeros(1), 0)

    reading = ReadAhead(PLAN, note, threads=1)
    try:
        for id in (0, 1):
            reading.granted(0, PLAN.lease(id, 0, 0.0))
            reading.batch(PLAN.lease(id, 0, 0.0))
        assert third.wait(20)  # before anyone granted it
        reading.granted(0, PLAN.lease(2, 0, 0.0))
        reading.batch(PLAN.lease(2, 0, 0.0))
    finally:
        reading.close()
    assert read_by[2] == "reader-0"
    assert sorted(read_by)[:3] == [0, 1, 2]
    assert len(read_by) <= 4


def test_an_error_surfaces_where_its_batch_is_asked_for_and_nowhere_else() -> None:
    tried = threading.Event()

    def fail(lease: Lease) -> Batch:
        if lease.id == 0:
            tried.set()
            raise BadImage("a.jpg: got nothing")
        return Batch(torch.full((1,), float(lease.id)), torch.zeros(1), 0)

    reading = ReadAhead(PLAN, fail, threads=1)
    try:
        reading.granted(0, PLAN.lease(0, 0, 0.0))
        reading.granted(1, PLAN.lease(1, 0, 0.0))
        assert tried.wait(20)
        assert reading.batch(PLAN.lease(1, 0, 0.0)).images_BCHW.item() == 1.0
        with pytest.raises(BadImage, match=r"a\.jpg"):
            reading.batch(PLAN.lease(0, 0, 0.0))
    finally:
        reading.close()


def test_threads_end_with_it_and_batches_can_still_be_had() -> None:
    reading = ReadAhead(PLAN, digits().batch, threads=3)
    own = list(reading._threads)
    reading.granted(0, PLAN.lease(0, 0, 0.0))
    reading.close()
    assert not any(thread.is_alive() for thread in own)
    assert len(reading.batch(PLAN.lease(5, 0, 0.0)).labels_B) == 32
    assert len(reading.batch(PLAN.lease(0, 0, 0.0)).labels_B) == 32
