"""A shard and its standby behind real gRPC: what is answered is held twice, however it travelled, and the standby goes
on where the other was cut off.
"""

from __future__ import annotations

import asyncio
import time  # noqa: TID251 -- servers are waited for
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
import torch

from ps.errors import PeerLost, PeerRefused
from ps.journal import Arithmetic, PullHandled, PushHandled, Record, ShardOpened, ShardSaved
from ps.layout import Segment
from ps.messages import LEDGER, Claim, Exchange, Exchanged, Message, Outcome, Push, Read, ReadDone, Reading, Wire
from ps.pairs import Pairs
from ps.rules import Momentum
from ps.schedule import ScheduleSettings
from ps.shard import Outbox, Shard, ShardStatus
from ps.snapshot import decode, encode
from ps.standby import HANDLED, Replica, Seed, Standing
from ps.states import ShardState, State
from ps.streams import torch_stream
from ps.wire.client import Loop, Peer
from ps.wire.files import JournalWriter, read_journal, take_over
from ps.wire.replicas import ReplicaServer
from ps.wire.server import Gate, MachineServer

TOKEN = "t"
SECONDS = 30.0
SMALL, LARGE = 40, 300_001  # elements: in one piece, and on a stream
CONSTANT = ScheduleSettings(rate=0.1).build(1000, 1000)
FIRST = Arithmetic(0.0, "torch", "", "", "", 1, "")


class Judge:
    """A ledger that does nothing but rule."""

    def __init__(self) -> None:
        self._pairs = Pairs()

    def handle(self, now: float, message: Message) -> Outbox:
        return self._pairs.ruled(now, message, 0) if isinstance(message, Claim) else []

    def status(self) -> ShardStatus:
        raise NotImplementedError


class Pair:
    """Two servers of one shard, and a ledger; the second follows the first once it is seeded."""

    def __init__(self, folder: Path, elements: int) -> None:
        self.elements = elements
        self.path = folder / "shard-0.journal"
        self.loop = Loop("test")
        self.clock = count(1)
        self.peers: list[Peer] = []
        self.leader = self._server(True)
        self.standby = self._server(False)
        self.leads, self.follows = (server.start("127.0.0.1") for server in (self.leader, self.standby))
        journal = JournalWriter(folder / "ledger.journal", "run", "ledger")
        self.ledger = MachineServer(Judge(), Gate(TOKEN, {}), journal, lambda: 0.0)
        self.rules = self.ledger.start("127.0.0.1")
        self.leader.connect({LEDGER: self.rules})
        self.peer = self.connected(self.leads)

    def _server(self, leads: bool) -> ReplicaServer:
        rule, segment = Momentum(0.5), Segment(0, self.elements, 1.0, 1.0)
        shard = Shard(0, 1, torch.zeros(self.elements), (segment,), rule, 0.0, CONSTANT, 0)
        journal = JournalWriter(self.path, "run", "shard-0") if leads else None
        gate = Gate(TOKEN, {0: self.elements})
        return ReplicaServer(Replica(shard, leads), gate, journal, lambda: float(next(self.clock)))

    def connected(self, target: str, wire: Wire = Wire.FLOAT32) -> Peer:
        peer = self.loop.call(lambda: Peer(target, TOKEN, wire=wire))
        self.peers.append(peer)
        return peer

    def seed(self) -> None:
        seed = self.leader.seed(self.follows)
        state = decode(b"".join(encode(seed.state)), "seed")
        assert isinstance(state, ShardState)
        self.standby.follow(Seed(seed.number, seed.written, state))

    def exchange(self, message: Exchange, peer: Peer | None = None, seconds: float = SECONDS) -> Exchanged:
        answer = self.loop.run((peer or self.peer).exchange(message, seconds))
        assert isinstance(answer, Exchanged)
        return answer

    def go_alone(self) -> None:
        self.leader.part()
        wait(lambda: self.leader.standing() is Standing.ALONE)

    def succeed(self) -> Peer:
        self.standby.connect({LEDGER: self.rules})
        self.standby.claim()
        end, recorded = take_over(self.path, HANDLED)
        self.standby.succeed(JournalWriter(self.path, "run", "shard-0", again=True, end=end), recorded, FIRST)
        return self.connected(self.follows)

    def records(self) -> list[Record]:
        return list(read_journal(self.path))

    def standing(self) -> str:
        status = self.loop.run(self.peer.status(SECONDS))
        assert isinstance(status, ShardStatus)
        return status.standby

    def close(self) -> None:
        for peer in self.peers:
            self.loop.run(peer.close())
        self.loop.close()
        for server in (self.leader, self.standby, self.ledger):
            server.stop()


@pytest.fixture(params=[SMALL, LARGE])
def pair(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Pair]:
    made = Pair(tmp_path, request.param)
    yield made
    made.close()


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def push(pair: Pair, lease: int, version: int = 0) -> Exchange:
    gradient_N = torch.randn(pair.elements, generator=torch_stream(0, f"gradient/{lease}"))
    reading = (Reading(0, version),)
    return Exchange(0, lease + 1, 0, Push(lease, 0, 1, reading, gradient_N), torch.empty(pair.elements))


@pytest.mark.parametrize("wire", [Wire.FLOAT32, Wire.BFLOAT16, Wire.FLOAT16])
def test_what_is_answered_is_held_twice_to_the_last_bit(pair: Pair, wire: Wire) -> None:
    peer = pair.connected(pair.leads, wire)
    pair.exchange(push(pair, 0), peer)
    assert pair.standing() == "none"
    pair.seed()
    for lease in range(1, 12):
        assert pair.exchange(push(pair, lease, lease), peer).reading.version == lease + 1
        assert lease < 2 or pair.leader.digest()[0] <= pair.standby.digest()[0]
    assert pair.standing() == "in step"
    assert pair.leader.digest() == pair.standby.digest()


def test_many_at_once_are_forwarded_in_their_order(pair: Pair) -> None:
    pair.seed()
    pair.exchange(push(pair, 100))

    async def all_at_once() -> list[object]:
        return await asyncio.gather(*[pair.peer.exchange(push(pair, lease), SECONDS) for lease in range(20)])

    answers = pair.loop.run(all_at_once())
    assert {answer.outcome for answer in answers if isinstance(answer, Exchanged)} == {Outcome.APPLIED}
    assert pair.leader.digest() == pair.standby.digest()


def test_a_shard_whose_standby_does_not_answer_answers_nobody_until_it_is_told_that_it_is_alone(pair: Pair) -> None:
    pair.seed()
    pair.exchange(push(pair, 0))
    pair.standby.stop()
    with pytest.raises(PeerLost):
        pair.exchange(push(pair, 1), seconds=0.5)
    out_N = torch.empty(pair.elements)
    with pytest.raises(PeerLost):
        pair.loop.run(pair.peer.exchange(Read(LEDGER, 1, 0, out_N), 0.5))
    assert [type(record) for record in pair.records()] == [PushHandled], "nor is it written down"
    pair.go_alone()
    assert pair.exchange(push(pair, 1)).outcome is Outcome.DUPLICATE
    assert isinstance(pair.loop.run(pair.peer.exchange(Read(LEDGER, 2, 0, out_N), SECONDS)), ReadDone)
    pair.standby = pair._server(False)
    pair.follows = pair.standby.start("127.0.0.1")
    pair.seed()
    pair.exchange(push(pair, 2))
    pair.exchange(push(pair, 3))
    assert pair.leader.digest() == pair.standby.digest()


def test_the_standby_goes_on_where_the_other_was_cut_off_and_fences_it(pair: Pair) -> None:
    pair.seed()
    for lease in range(5):
        pair.exchange(push(pair, lease))
    before = pair.records()
    peer = pair.succeed()
    assert pair.exchange(push(pair, 4), peer).outcome is Outcome.DUPLICATE
    answer = pair.exchange(push(pair, 5, version=5), peer)
    assert (answer.outcome, answer.reading) == (Outcome.APPLIED, Reading(1, 6))
    with pytest.raises(PeerLost):  # the other waits for a word that never comes
        pair.exchange(push(pair, 6), seconds=0.5)
    pair.leader.part()
    wait(lambda: pair.leader._replica.granted is False)
    with pytest.raises(ValueError, match="its standby went on in its place"):
        pair.leader.seed(pair.leads)
    records = pair.records()
    assert records[: len(before)] == before
    assert [type(record) for record in records[len(before) :]] == [Arithmetic, ShardOpened, PushHandled, PushHandled]
    opened = records[len(before) + 1]
    assert isinstance(opened, ShardOpened)
    assert (opened.incarnation, opened.version, opened.promoted) == (1, 5, True)


def test_a_standby_whose_shard_went_on_alone_cannot_take_its_place(pair: Pair) -> None:
    pair.seed()
    pair.exchange(push(pair, 0))
    pair.exchange(push(pair, 1))
    pair.go_alone()
    pair.standby.connect({LEDGER: pair.rules})
    with pytest.raises(ValueError, match="the ledger let that one go on alone before"):
        pair.standby.claim()
    assert pair.exchange(push(pair, 2)).outcome is Outcome.APPLIED


def test_what_was_not_in_the_journal_yet_is_added_by_the_standby(pair: Pair) -> None:
    pair.seed()
    pair.exchange(push(pair, 0))
    pair.exchange(push(pair, 1))
    whole = pair.records()
    pair.path.write_bytes(pair.path.read_bytes()[:-3])  # as if it had been cut off in the middle of a record
    pair.succeed()
    records = pair.records()
    assert [each for each in records if isinstance(each, PushHandled)] == whole


def test_a_snapshot_is_written_where_the_standby_holds_it_too(pair: Pair) -> None:
    pair.seed()
    pair.exchange(push(pair, 0))
    states: list[State] = []
    pair.leader.save(1, states.append)
    pair.exchange(Exchange(0, 9, 0, None, torch.empty(pair.elements)))
    assert [type(record) for record in pair.records()] == [PushHandled, ShardSaved, PullHandled]
    assert isinstance(states[0], ShardState)
    assert states[0].version == 1


def test_a_worker_that_reaches_a_standby_is_refused(pair: Pair) -> None:
    pair.seed()
    with pytest.raises(PeerRefused, match="standby of shard 0 got Exchange, expected Forward"):
        pair.exchange(push(pair, 0), pair.connected(pair.follows))
