"""Actors that come back, in one process and over real gRPC: what they wrote down, what the ledger makes of it, and a
replay that goes back where they did.
"""

from __future__ import annotations

import threading
import time  # noqa: TID251 -- the run is waited for
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cluster import serving
from distbelief import rundir
from distbelief.draft import draft
from distbelief.replay import replay
from distbelief.verify import verify
from ps.averager import AveragerStatus
from ps.ledger import LedgerStatus
from ps.messages import AVERAGER, LEDGER, Address, Read, Role
from ps.shard import ShardStatus
from ps.wire.server import MachineServer
from ps.wire.snapshots import Manifest, publish, write_state
from tests.cluster.world import World, served

FIRST = Address(Role.SHARD, 0)


def wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def version(world: World) -> int:
    status = world.status(FIRST)
    assert isinstance(status, ShardStatus)
    return status.version


def snapshot(world: World, number: int) -> None:
    """As the driver has it written: all shards first, then the averager."""
    folder = world.spec.snapshots
    sha256 = {
        str(address): server.save(number, lambda state, of=str(address): write_state(folder, number, of, state))  # type: ignore[misc]
        for address, server in world.servers.items()
        if address != LEDGER
    }
    publish(folder, Manifest(number, world.spec.cutting, sha256), keep=2)


def come_back(world: World, address: Address, server: MachineServer) -> None:
    """It listens somewhere else; everybody who sends it messages is told, and it is told of the others."""
    world.servers[address] = server
    world.targets[address] = server.start("127.0.0.1")
    for to, other in world.servers.items():
        known = {LEDGER, AVERAGER} if to.role is Role.SHARD else {each for each in world.targets if to == LEDGER}
        other.connect({each: world.targets[each] for each in known - {to} if address in (to, each)})


def save_weights(world: World) -> None:
    """As launch leaves them."""
    weights_N = torch.empty(world.spec.layout.size)
    for name, source in (("latest", None), ("average", AVERAGER)):
        for shard, bound in enumerate(world.spec.bounds):
            message = Read(Address(Role.WORKER, -1), 1000 + shard, shard, weights_N[bound])
            target = source or Address(Role.SHARD, shard)
            world._call(target, lambda peer, message=message: peer.exchange(message, 10.0))  # type: ignore[misc]
        rundir.write_weights(world.spec.folder, name, world.spec.layout, weights_N, {})


@pytest.mark.slow
def test_shard_ledger_and_averager_come_back_and_a_replay_goes_back_with_them(tmp_path: Path) -> None:
    with served(tmp_path / "run", run__epochs=6) as world:
        host = world.host()
        thread = threading.Thread(target=host.run)
        thread.start()
        wait(lambda: version(world) > 100, "it does not begin")
        snapshot(world, 1)
        before = version(world)
        wait(lambda: version(world) > before + 100, "it does not go on")
        weights_N = draft(rundir.config_of(world.spec.folder)).weights_N
        for address in (FIRST, AVERAGER, LEDGER):
            world.servers[address].stop()
            match address.role:
                case Role.SHARD:
                    made = serving.serve_shard(world.spec, 0, weights_N[world.spec.bounds[0]].clone(), again=True)
                case Role.AVERAGER:
                    made = serving.serve_averager(world.spec, again=True)
                case _:
                    made = serving.serve_ledger(world.spec, again=True)
            assert made.notes == ()
            come_back(world, address, made.server)
            host.connect({address: world.targets[address]})
            gone_on = version(world) + 50
            wait(lambda gone_on=gone_on: version(world) > gone_on, f"it does not go on without {address}")  # type: ignore[misc]
        thread.join(100)
        assert not thread.is_alive()
        ledger = world.status(LEDGER)
        assert isinstance(ledger, LedgerStatus)
        assert (ledger.ending, ledger.outstanding) == ("completed", 0)

        def taken() -> bool:
            averager = world.status(AVERAGER)
            assert isinstance(averager, AveragerStatus)
            statuses = [world.status(Address(Role.SHARD, shard)) for shard in range(2)]
            return all(isinstance(status, ShardStatus) and not status.waiting_samples for status in statuses)

        wait(taken, "samples wait for ever")
        save_weights(world)
    found = verify(tmp_path / "run")
    assert (found.verdict, found.problems) == ("exactly once", ())
    assert found.shards[0].undone >= 100
    assert found.ledger.reopened >= 50
    again = replay(tmp_path / "run")
    assert (again.verdict, again.differences) == ("identical", [])
