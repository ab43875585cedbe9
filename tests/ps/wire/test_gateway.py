"""The one port for processes outside: what goes through it is what goes to the actors themselves, and only members and
those with the token get anything done.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from itertools import count
from typing import Any

import pytest
import torch

from ps.errors import BadInput, PeerLost, PeerRefused
from ps.journal import LeaseReturned, Record, WorkerTimed
from ps.ledger import Ledger, LedgerSettings
from ps.messages import LEDGER, Exchanged, Granted, NextLease, Outcome, Reading, Wire
from ps.wire import gateway_pb2 as pb
from ps.wire import tls
from ps.wire.client import Peer
from ps.wire.files import SUFFIX, JournalWriter, read_journal
from ps.wire.gateway import Gateway, Invitation
from ps.wire.mailbox import SharedVectors
from ps.wire.membership import Membership, resize
from ps.wire.tls import Identity
from tests.ps.wire.test_server import PLAN, SECONDS, SHARD, TOKEN_HERE, N, World, answer_of, exchange, shard, world

__all__ = ["world"]  # a fixture

DOOR = tls.made()
INVITED = Invitation("the run", "[run]\nseed = 7\n", "1.2", 2 * N, "of the data")
FIRST = 2


class House:
    """A shard and a ledger that speak without TLS, and a gateway in front of them."""

    def __init__(self, world: World) -> None:
        self.world = world
        world.serve(SHARD, shard(), {0: N})
        world.serve(LEDGER, Ledger(PLAN, 1, LedgerSettings(), FIRST), {})
        world.servers[LEDGER].connect({SHARD: world.targets[SHARD]})
        self.workers = 4
        self.gateway = Gateway(INVITED, TOKEN_HERE, DOOR, None, count(FIRST), world.folder, self.resized)
        self.gateway.connect(world.targets)
        self.target = self.gateway.start("127.0.0.1")
        self.guests: list[Membership] = []

    def resized(self, add: int) -> Future[int]:
        """As a run does it that has four workers."""
        answer: Future[int] = Future()
        if self.workers + add < 1:
            answer.set_exception(BadInput(f"workers: got {add:+} for {self.workers}, expected 1 or more afterwards"))
        else:
            self.workers += add
            answer.set_result(self.workers)
        return answer

    def member(self, token: str = TOKEN_HERE, door: Identity = DOOR) -> Membership:
        self.guests.append(Membership(self.target, token, door))
        return self.guests[-1]

    def left(self, guest: Membership) -> None:
        self.guests.remove(guest)
        guest.leave()

    def peer(self, actor: str, token: str = TOKEN_HERE, door: Identity | None = DOOR, **more: Any) -> Peer:
        return self.world.loop.call(lambda: Peer(self.target, token, identity=door, actor=actor, **more))

    def exchange(self, peer: Peer, number: int, lease: int | None, version: int = 0) -> Any:
        try:
            return self.world.loop.run(peer.exchange(exchange(number, lease, version), SECONDS))
        finally:
            self.world.loop.run(peer.close())


@pytest.fixture
def house(world: World) -> Iterator[House]:
    made = House(world)
    yield made
    for guest in made.guests:
        guest.leave()
    made.gateway.close()


# --- calls that are passed on ----------------------------------------------------------------------------------------


def test_an_exchange_through_the_gateway_is_the_actor_s_own_to_the_bit(house: House) -> None:
    peer, direct = house.peer("shard-0", vectors=SharedVectors()), shard()
    for number, (lease, version) in enumerate([(None, 0), (0, 0), (0, 0), (1, 9), (1, 1)]):
        through, beside = exchange(number, lease, version), exchange(number, lease, version)
        assert house.world.loop.run(peer.exchange(through, SECONDS)) == answer_of(direct, beside)
        assert through.weights_N is not None
        assert beside.weights_N is not None
        assert torch.equal(through.weights_N.nan_to_num(7.0), beside.weights_N.nan_to_num(7.0))
    assert house.world.loop.run(peer.status(SECONDS)) == direct.status()
    house.world.loop.run(peer.close())


def test_narrow_vectors_pass_too(house: House) -> None:
    answer = house.exchange(house.peer("shard-0", wire=Wire.BFLOAT16), 1, 0)
    assert answer == Exchanged(1, 0, Outcome.APPLIED, Reading(0, 1), 2, 0)


def test_a_refusal_comes_back_as_the_actor_said_it(house: House) -> None:
    peer = house.peer("ledger")
    with pytest.raises(PeerRefused, match=r"shard 0.*INVALID_ARGUMENT"):
        house.exchange(peer, 1, 0)


@pytest.mark.parametrize("actor", ["", "shard-1", "somebody"])
def test_a_call_for_nobody_is_refused(house: House, actor: str) -> None:
    with pytest.raises(PeerRefused, match=r"expected x-distbelief-actor to be one of shard-0, ledger"):
        house.exchange(house.peer(actor), 1, 0)


def test_an_actor_that_moved_is_found_again(house: House) -> None:
    house.gateway.connect({SHARD: "127.0.0.1:1"})
    with pytest.raises(PeerLost, match="UNAVAILABLE"):
        house.exchange(house.peer("shard-0"), 1, 0)
    house.gateway.connect({SHARD: house.world.targets[SHARD]})
    assert isinstance(house.exchange(house.peer("shard-0"), 1, 0), Exchanged)


@pytest.mark.parametrize("token", ["", "another", TOKEN_HERE + " "])
def test_without_the_token_nothing_passes(house: House, token: str) -> None:
    with pytest.raises(PeerRefused, match="UNAUTHENTICATED"):
        house.exchange(house.peer("shard-0", token), 1, 0)
    with pytest.raises(PeerRefused, match="wrong or missing run token"):
        house.member(token).join(1, "1.2")
    assert house.world.status(SHARD).version == 0


def test_plaintext_and_another_certificate_are_lost(house: House) -> None:
    for door in (None, tls.made(), replace(DOOR, name="elsewhere")):
        with pytest.raises(PeerLost, match="UNAVAILABLE"):
            house.exchange(house.peer("shard-0", door=door), 1, 0)
    with pytest.raises(PeerLost):
        house.member(door=tls.made()).join(1, "1.2")
    assert house.world.status(SHARD).version == 0


# --- members ---------------------------------------------------------------------------------------------------------


def test_a_member_is_told_what_it_needs_and_its_journal_is_kept(house: House) -> None:
    guest = house.member()
    assert guest.join(3, "1.2") == (INVITED, FIRST)
    records: list[Record] = [WorkerTimed(1.0, FIRST, 4, 0.1, 0.2, 0.3, 0.4, 0.5)]
    own = house.world.folder / "own"
    journal = JournalWriter(own, "the run", f"host-{FIRST}")
    journal.write(records)
    journal.close()
    data = own.read_bytes()
    guest.send(data[:9])
    guest.send(data[9:])
    house.left(guest)
    assert list(read_journal(house.world.folder / f"host-{FIRST}{SUFFIX}")) == records


class Narrow(BytesIO):
    """A file that takes three bytes at once, as one without a buffer may."""

    def write(self, data: Any) -> int:
        return super().write(bytes(data[:3]))


def test_a_journal_is_kept_whole_also_where_a_write_takes_only_a_part(house: House) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b"ten bytes.", b"", b"and more"):
            yield pb.Guest(journal=piece).SerializeToString()

    journal = Narrow()
    house.world.loop.run(house.gateway._take_down(pieces(), journal))
    assert journal.getvalue() == b"ten bytes.and more"


def test_an_errand_that_fails_is_logged(house: House, caplog: pytest.LogCaptureFixture) -> None:
    async def failing() -> None:
        raise KeyError("ledger")

    house.gateway._loop.call(lambda: house.gateway._run_errand(failing()))
    while house.gateway._loop.call(lambda: len(house.gateway._errands)):
        pass
    assert [record.message for record in caplog.records] == ["KeyError('ledger')"]


def test_members_get_ids_of_their_own(house: House) -> None:
    guests = [house.member() for _ in range(2)]
    firsts = [guest.join(2, "1.2")[1] for guest in guests]
    assert firsts == [FIRST, FIRST + 2]


@pytest.mark.parametrize("how", ["leave", "die"])
def test_whoever_goes_gives_its_leases_back(house: House, how: str) -> None:
    guest = house.member()
    _, worker = guest.join(1, "1.2")
    peer = house.peer("ledger")
    granted = house.world.loop.run(peer.ask(NextLease(worker, 1, None, 0), SECONDS))
    assert isinstance(granted, Granted)
    if how == "leave":
        house.left(guest)
    else:
        guest._loop.call(guest._stream.cancel)  # what the gateway sees of a process that was killed
    file = house.world.folder / f"ledger{SUFFIX}"
    house.world.until(
        LEDGER,
        lambda status: status.workers == 0 and any(isinstance(r, LeaseReturned) for r in read_journal(file)),
    )
    again = house.world.ask(LEDGER, NextLease(0, 1, None, 0))
    assert isinstance(again, Granted)
    assert (again.lease.id, again.lease.attempt) == (granted.lease.id, 1)
    house.world.loop.run(peer.close())


def test_another_version_of_the_program_is_refused(house: House) -> None:
    guest = house.member()
    with pytest.raises(PeerRefused, match=r"version: got distbelief 1.3, expected 1.2"):
        guest.join(1, "1.3")


@pytest.mark.parametrize("workers", [0, -1, 1 << 40])
def test_a_senseless_number_of_workers_is_refused(house: House, workers: int) -> None:
    guest = house.member()
    with pytest.raises(PeerRefused, match="workers: got"):
        guest.join(workers, "1.2")


def test_a_member_sees_the_end_of_the_gateway(house: House) -> None:
    guest = house.member()
    guest.join(1, "1.2")
    assert not guest.ended
    house.gateway._loop.run(house.gateway._server.stop(None))  # type: ignore[union-attr]  # at once, as a kill does
    with suppress(PeerLost):
        while not guest.ended:
            guest.send(b"more")
    with pytest.raises(PeerLost, match="gateway is gone"):
        guest.send(b"more")


def test_a_port_that_is_taken_is_said(house: House) -> None:
    host, _, port = house.target.rpartition(":")
    other = Gateway(INVITED, TOKEN_HERE, DOOR, None, count(), house.world.folder, house.resized)
    with pytest.raises(OSError, match=f"cannot listen on {host}:{port}"):
        other.start(host, int(port))
    other.close()


def test_a_run_is_told_to_have_more_workers_or_fewer(house: House) -> None:
    assert resize(house.target, TOKEN_HERE, DOOR, 3) == 7
    assert resize(house.target, TOKEN_HERE, DOOR, -5) == 2
    with pytest.raises(PeerRefused, match=r"^workers: got -2 for 2, expected 1 or more afterwards$"):
        resize(house.target, TOKEN_HERE, DOOR, -2)
    with pytest.raises(PeerRefused, match="wrong or missing run token"):
        resize(house.target, "another", DOOR, 3)
    with pytest.raises(PeerLost):
        resize(house.target, TOKEN_HERE, tls.made(), 3)
    assert house.workers == 2


def test_where_no_gateway_is_nobody_is_told(house: House) -> None:
    host, _, _ = house.target.rpartition(":")
    with pytest.raises(PeerLost):
        resize(f"{host}:1", TOKEN_HERE, DOOR, 3)
