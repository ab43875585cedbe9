"""Standbys in one process and over real gRPC: one goes on in the place of its shard, another is brought up for it, and
a replay goes across.
"""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from cluster import standby
from distbelief import rundir
from distbelief.draft import draft
from distbelief.replay import replay
from distbelief.verify import verify
from ps.journal import ShardOpened
from ps.messages import AVERAGER, LEDGER, Address, Role
from ps.shard import ShardStatus
from ps.snapshot import decode, encode
from ps.standby import Seed
from ps.states import ShardState
from ps.wire.files import read_journal
from ps.wire.replicas import ReplicaServer
from tests.cluster.test_coming_back import FIRST, save_weights, snapshot, version, wait
from tests.cluster.world import World, served


def bring_up(world: World) -> tuple[ReplicaServer, str]:
    """A standby of the first shard, as the driver brings one up; where it listens."""
    leader = world.servers[FIRST]
    assert isinstance(leader, ReplicaServer)
    weights_N = draft(rundir.config_of(world.spec.folder)).weights_N
    made = standby.serve_standby(world.spec, 0, weights_N[world.spec.bounds[0]].clone())
    target = made.start("127.0.0.1")
    seed = leader.seed(target)
    state = decode(b"".join(encode(seed.state)), "seed")
    assert isinstance(state, ShardState)
    made.follow(Seed(seed.number, seed.written, state))
    return made, target


def in_step(world: World) -> bool:
    status = world.status(FIRST)
    assert isinstance(status, ShardStatus)
    return status.standby == "in step"


def shards_rest(world: World) -> bool:
    """Whether the averager has all that it was sent."""
    statuses = [world.status(Address(Role.SHARD, shard)) for shard in range(2)]
    return all(isinstance(status, ShardStatus) and not status.waiting_samples for status in statuses)


def succeed(world: World, heir: ReplicaServer, target: str) -> None:
    """Its shard is gone: it goes on, and everybody is told."""
    heir.connect({to: world.targets[to] for to in (LEDGER, AVERAGER)})
    standby.succeed(world.spec, 0, heir)
    world.servers[FIRST] = heir
    world.targets[FIRST] = target
    world.servers[LEDGER].connect({FIRST: target})


@pytest.mark.slow
@pytest.mark.parametrize("correction", ["none", "dc-asgd", "dana"])
def test_standbys_go_on_one_after_the_other_and_a_replay_goes_with_them(tmp_path: Path, correction: str) -> None:
    values: dict[str, object] = {"correction__kind": correction, "cluster__replicas": 1, "run__epochs": 4}
    with served(tmp_path / "run", average__every=3, **values) as world:
        heir, target = bring_up(world)
        host = world.host()
        thread = threading.Thread(target=host.run)
        thread.start()
        for number in (1, 2):
            gone_on = version(world) + 60
            wait(lambda gone_on=gone_on: version(world) > gone_on and in_step(world), "it does not go on")  # type: ignore[misc]
            snapshot(world, number)
            world.servers[FIRST].stop()
            succeed(world, heir, target)
            host.connect({FIRST: world.targets[FIRST]})
            heir, target = bring_up(world)
        thread.join(100)
        assert not thread.is_alive()
        wait(lambda: shards_rest(world), "samples wait for ever")
        leader = world.servers[FIRST]
        assert isinstance(leader, ReplicaServer)
        assert leader.digest() == heir.digest()
        save_weights(world)
        heir.stop()
    found = verify(tmp_path / "run")
    assert (found.verdict, found.problems) == ("exactly once", ())
    assert [count.undone for count in found.shards] == [0, 0]
    records = list(read_journal(tmp_path / "run" / "journal" / "shard-0.journal"))
    openings = [record for record in records if isinstance(record, ShardOpened)]
    assert [(each.incarnation, each.promoted) for each in openings] == [(0, False), (1, True), (2, True)]
    again = replay(tmp_path / "run")
    assert (again.verdict, again.differences) == ("identical", [])
