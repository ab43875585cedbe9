"""Shards with standbys, under every order of events that a seed can draw: whichever of the two is lost, nothing that
was answered is.

The cluster of `test_lost_memory`, with two replicas of each shard. A replica that is lost may live on for a while as a
zombie: messages still reach it, and what it says still arrives. Two that both live may each think that the other is
gone: one of them goes on, as the ledger says, and the other never does.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import cast

import pytest

from ps.consistency import ConsistencySettings
from ps.corrections import Correction, DelayCompensation
from ps.journal import PullHandled, PushHandled, Record, ShardOpened
from ps.messages import (
    JOURNAL,
    LEDGER,
    Address,
    Exchange,
    Exchanged,
    Forward,
    Forwarded,
    Message,
    Outcome,
    Refused,
    Role,
    Ruling,
    WorkerLost,
)
from ps.rules import Momentum
from ps.shard import Outbox, Shard
from ps.snapshot import decode, encode
from ps.standby import Replica, Seed, Standing, records_handled
from ps.states import ShardState
from tests.ps.test_exactly_once import MODES, Pull, Sent
from tests.ps.test_lost_memory import Forgetful, check

MOST_LOSSES = 8
STANDBY = Address(Role.STANDBY, 0)


@dataclass(slots=True)
class Between(Sent):
    """What goes between the two replicas of a shard. `seed`: in the place of a message."""

    sender: Replica | None = None
    receiver: Replica | None = None
    seed: Seed | None = None


class Paired(Forgetful):
    """A cluster whose shards have standbys. `both`: whether a shard may be lost while it has none in step."""

    def __init__(
        self,
        seed: int,
        shards: int,
        consistency: ConsistencySettings | None = None,
        both: bool = False,
        corrected: bool = False,
    ) -> None:
        self.both = both
        self.corrected = corrected
        self.leaders: list[Replica] = []
        self.standbys: dict[int, Replica] = {}
        self.zombies: list[Replica] = []
        self.mail: dict[tuple[int, int, int], Exchange] = {}
        self.fallen_back: dict[int, int] = {}  # by shard that lost both: the incarnation that began from what was saved
        super().__init__(seed, shards, consistency or ConsistencySettings())
        self.leaders = [Replica(shard) for shard in self.shards]
        for index in range(shards):
            self.bring_up(index)

    def new_shard(self, index: int) -> Shard:
        if not self.corrected:
            return super().new_shard(index)
        weights_N = self.weights_N[self.bounds[index]].clone()
        correction: Correction = DelayCompensation(0.04, weights_N.numel())
        segments = self.layout.segments(index)
        return Shard(index, len(self.bounds), weights_N, segments, Momentum(0.5), 0.0, self.schedule, 3, correction)

    # --- messages ----------------------------------------------------------------------------------------------------

    def handle(self, sent: Sent) -> None:
        if isinstance(sent, Between):
            self.between(sent)
        elif sent.to.role is Role.SHARD:
            zombies = [zombie for zombie in self.zombies if zombie.shard.index == sent.to.index]
            if zombies and self.faults and self.draws.random() < 0.3:  # it may not answer, and then it is asked again
                self.ask(zombies[-1], sent.message)
                self.happened["zombie asked"] += 1
            else:
                self.ask(self.leaders[sent.to.index], sent.message)
        else:
            super().handle(sent)

    def ask(self, replica: Replica, message: Message) -> None:
        if isinstance(message, Exchange):
            self.mail[id(replica), message.worker, message.number] = message
        try:
            self.said(replica, replica.handle(self.now, message))
        except ValueError:
            self.happened["refused"] += 1

    def between(self, sent: Between) -> None:
        receiver = sent.receiver
        assert receiver is not None
        living = receiver in [*self.leaders, *self.standbys.values(), *self.zombies]
        if not living:
            return
        if sent.seed is not None:
            self.said(receiver, receiver.follow(sent.seed), sent.sender)
            return
        if isinstance(sent.message, Forward) and self.draws.random() < 0.1:
            self.flying.append(sent)  # it arrives twice
        try:
            self.said(receiver, receiver.handle(self.now, sent.message), sent.sender)
        except ValueError:
            assert receiver.leads, "only one that leads refuses"
            self.happened["fenced"] += 1

    def said(self, replica: Replica, outbox: Outbox, asker: Replica | None = None) -> None:
        index = replica.shard.index
        standby = self.standbys.get(index)
        leads = replica is self.leaders[index]
        for to, item in outbox:
            if to == JOURNAL:
                if leads:  # a zombie writes to a file that nobody reads
                    self.journals.setdefault(Address(Role.SHARD, index), []).append(cast(Record, item))
                continue
            if isinstance(item, Forward):
                receiver = standby if leads else self.leaders[index]
                self.flying.append(Between(to, item, sender=replica, receiver=receiver))
            elif isinstance(item, Forwarded):
                self.flying.append(Between(to, item, sender=replica, receiver=asker or self.leaders[index]))
            elif isinstance(item, Exchanged | Refused):
                self.answer(replica, to, item)
            else:
                self.flying.append(Sent(to, cast(Message, item)))

    def answer(self, replica: Replica, to: Address, item: Exchanged | Refused) -> None:
        message = self.mail.pop((id(replica), to.index, item.number))
        index = replica.shard.index
        if isinstance(item, Refused):
            self.flying.append(Sent(to, item))
            return
        other = self.standbys.get(index) if replica is self.leaders[index] else self.leaders[index]
        if replica.standing is Standing.IN_STEP and other is not None:
            undone = item.reading.incarnation < self.fallen_back.get(index, 0)  # a zombie says what both had once
            assert undone or item.reading.version <= other.shard.version, "nobody hears what the other does not hold"
        assert message.weights_N is not None
        self.flying.append(Sent(to, item, pulled=Pull(to.index, item.reading.version, message.weights_N)))

    # --- losses ------------------------------------------------------------------------------------------------------

    def bring_up(self, index: int) -> None:
        """A new standby, whose seed is on its way."""
        standby = self.standbys[index] = Replica(self.new_shard(index), leads=False)
        leader = self.leaders[index]
        seed, outbox = leader.seed(self.now)
        copied = decode(b"".join(encode(seed.state)), "seed")
        assert isinstance(copied, ShardState)
        seed = Seed(seed.number, seed.written, copied)
        self.flying.append(Between(STANDBY, WorkerLost(0), sender=leader, receiver=standby, seed=seed))
        self.said(leader, outbox)

    def mishap(self) -> None:
        kind = ("usual", "leader", "standby", "split", "both", "save")[
            int(self.draws.choice(6, p=[0.5, 0.3, 0.04, 0.06, 0.02, 0.08]))
        ]
        index = int(self.draws.integers(len(self.shards)))
        if kind in ("leader", "split") and self.standbys[index].standing is not Standing.IN_STEP:
            kind = "usual"
        if kind == "usual" or self.happened[kind] == MOST_LOSSES or (kind in ("both", "save") and not self.both):
            super(Forgetful, self).mishap()
            return
        self.happened[kind] += 1
        match kind:
            case "leader":
                self.lose_leader(index)
            case "standby":
                self.lose_standby(index)
            case "split":
                self.split(index)
            case "save":
                address, leader = Address(Role.SHARD, index), self.leaders[index]
                if not leader.holds_back(leader.number):
                    self.states[address] = self.saved(leader.state())
            case "both":
                self.lose_both(index)

    def granted(self, replica: Replica) -> bool:
        """Whether the ledger lets this one go on without the other."""
        ((to, claim),) = replica.claim()
        assert to == LEDGER
        for to, item in self.ledger.handle(self.now, cast(Message, claim)):
            if to == JOURNAL:
                self.journals.setdefault(LEDGER, []).append(cast(Record, item))
            elif isinstance(item, Ruling):
                self.said(replica, replica.handle(self.now, item))
            else:
                self.flying.append(Sent(to, cast(Message, item)))
        assert replica.granted is not None
        return replica.granted

    def split(self, index: int) -> None:
        """Neither hears the other any more: which one goes on is drawn."""
        leader, standby = self.leaders[index], self.standbys[index]
        if self.draws.random() < 0.5:
            self.lose_leader(index)
            if not leader._claimed:
                assert not self.granted(leader)
        else:
            assert self.granted(leader)
            assert not self.granted(standby)
            with pytest.raises(ValueError, match="the ledger has not granted it"):
                standby.succeed(self.now, 0)
            self.bring_up(index)

    def lose_leader(self, index: int) -> None:
        old, standby = self.leaders[index], self.standbys[index]
        assert self.granted(standby)
        del self.standbys[index]
        self.zombies.append(old)
        journal = self.journals.setdefault(Address(Role.SHARD, index), [])
        outbox = standby.succeed(self.now, records_handled(journal))
        self.leaders[index], self.shards[index] = standby, standby.shard
        self.said(standby, outbox)
        self.bring_up(index)
        self.resend()

    def lose_standby(self, index: int) -> None:
        del self.standbys[index]
        leader = self.leaders[index]
        assert self.granted(leader)
        assert leader.standing is Standing.ALONE
        self.bring_up(index)

    def lose_both(self, index: int) -> None:
        """What neither remembers any more is taken up from what was saved."""
        address = Address(Role.SHARD, index)
        old = self.leaders[index]
        self.crash_shard(address)
        assert self.shards[index].incarnation == old.shard.incarnation + 1
        self.fallen_back[index] = self.shards[index].incarnation
        self.leaders[index] = Replica(self.shards[index], written=records_handled(self.journals[address]))
        self.bring_up(index)


def check_pairs(cluster: Paired) -> None:
    check(cluster)
    for index, standby in cluster.standbys.items():
        leader = cluster.leaders[index]
        assert standby.standing is leader.standing is Standing.IN_STEP
        assert b"".join(encode(standby.state())) == b"".join(encode(leader.state())), "the same to the last bit"


def promotions(cluster: Paired) -> list[ShardOpened]:
    records = [record for shard in cluster.shards for record in cluster.journals[Address(Role.SHARD, shard.index)]]
    return [record for record in records if isinstance(record, ShardOpened) and record.promoted]


def assert_no_gap(cluster: Paired) -> None:
    for shard in cluster.shards:
        version = 0
        for record in cluster.journals[Address(Role.SHARD, shard.index)]:
            if isinstance(record, ShardOpened | PullHandled):
                assert record.version == version, "nothing is undone"
            if isinstance(record, PushHandled):
                version += record.outcome is Outcome.APPLIED
                assert record.version == version


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_whichever_is_lost_nothing_is(seed: int, shards: int) -> None:
    cluster = Paired(seed, shards)
    cluster.run()
    check_pairs(cluster)
    assert_no_gap(cluster)
    assert promotions(cluster)
    assert cluster.happened["standby"]
    assert cluster.happened["split"]
    assert cluster.happened["zombie asked"]


@pytest.mark.parametrize("seed", range(4))
def test_likewise_with_weights_that_a_correction_remembers(seed: int) -> None:
    cluster = Paired(seed, 1, corrected=True)
    cluster.run()
    check_pairs(cluster)
    assert_no_gap(cluster)
    assert promotions(cluster)


@pytest.mark.parametrize("seed", range(1))
@pytest.mark.parametrize("mode", MODES)
def test_likewise_in_every_mode(mode: str, seed: int) -> None:
    cluster = Paired(seed, 2, MODES[mode])
    cluster.run()
    check_pairs(cluster)
    assert promotions(cluster)


@pytest.mark.parametrize("seed", range(3))
def test_where_both_are_lost_every_lease_still_counts_once(seed: int) -> None:
    cluster = Paired(seed, 2, both=True)
    cluster.run()
    check_pairs(cluster)


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("mode", ["async", *MODES])
def test_likewise_under_as_many_schedules_as_are_wanted(mode: str, both: bool) -> None:
    """DISTBELIEF_SEEDS of each mode; a seed that fails is named, and fails again."""
    for seed in range(100, 100 + int(os.environ.get("DISTBELIEF_SEEDS", "50"))):
        cluster = Paired(
            seed,
            1 + seed % 3,
            MODES.get(mode, ConsistencySettings()),
            both,
            corrected=mode == "async" and seed % 2 == 1,
        )
        try:
            cluster.run()
            check_pairs(cluster)
        except Exception as error:
            raise AssertionError(f"seed {seed}, mode {mode}, both {both}") from error
