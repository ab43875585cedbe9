"""Runs in one process that are killed, brought to rest, cut into another number of shards, and go on: no Ray."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from cluster import serving
from cluster.cutting import cut_anew
from cluster.spec import RunSpec
from distbelief import rundir
from distbelief.draft import draft
from distbelief.replay import replay
from distbelief.verify import verify
from ps.errors import RunFailed
from ps.journal import LedgerStopped, ShardOpened
from ps.messages import AVERAGER, LEDGER, Address, Role
from ps.shard import ShardStatus
from ps.states import ShardState
from ps.wire.files import read_journal
from ps.wire.snapshots import Manifest, newest, next_number, publish, write_state
from tests.cluster.test_coming_back import FIRST, save_weights, snapshot, version, wait
from tests.cluster.world import World, served

SMALL: dict[str, object] = {"run__batch_size": 16, "run__epochs": 2}  # 180 leases


def of_shards(spec: RunSpec, shards: int) -> RunSpec:
    """The run after it was cut into so many."""
    cluster, layout = replace(spec.cluster, shards=shards), replace(spec.layout, shards=shards)
    return replace(spec, cluster=cluster, layout=layout, cut=spec.cut + 1)


@contextmanager
def again(spec: RunSpec) -> Iterator[World]:
    """The run, taken up by new servers."""
    threads = torch.get_num_threads()
    weights_N = draft(rundir.config_of(spec.folder)).weights_N
    servers = {
        Address(Role.SHARD, shard): serving.serve_shard(spec, shard, weights_N[bound].clone(), again=True).server
        for shard, bound in enumerate(spec.bounds)
    }
    servers |= {
        LEDGER: serving.serve_ledger(spec, again=True, alone=True).server,
        AVERAGER: serving.serve_averager(spec, again=True).server,
    }
    targets = {address: server.start("127.0.0.1") for address, server in servers.items()}
    for address, server in servers.items():
        known = {to for to in targets if to.role is Role.SHARD} if address == LEDGER else {AVERAGER, LEDGER} - {address}
        server.connect({to: targets[to] for to in known} if address != AVERAGER else {})
    try:
        yield World(spec, servers, targets)
    finally:
        for server in servers.values():
            server.stop()
        torch.set_num_threads(threads)


def works(world: World) -> None:
    """New workers do what there is to do."""
    first = serving.next_worker(world.spec)
    world.host(first, range(first, first + 3)).run()

    def taken() -> bool:
        shards = [status for address in world.servers if isinstance(status := world.status(address), ShardStatus)]
        return not any(shard.waiting_samples for shard in shards)

    wait(taken, "samples wait for ever")


def interrupted(folder: Path, **values: object) -> RunSpec:
    """A run of two shards that ends before its time, each shard with a snapshot of another moment."""
    with served(folder, **SMALL, **values) as world:
        host = world.host()
        thread = threading.Thread(target=host.run)
        thread.start()
        sha256 = {}
        for address in (FIRST, Address(Role.SHARD, 1), AVERAGER):
            soon = version(world) + 10
            wait(lambda soon=soon: version(world) > soon, "it does not go on")  # type: ignore[misc]
            write = partial(write_state, world.spec.snapshots, 1, str(address))
            sha256[str(address)] = world.servers[address].save(1, write)
        publish(world.spec.snapshots, Manifest(1, world.spec.cutting, sha256), keep=2)
        host.stop()
        thread.join(100)
    return world.spec


def rest(spec: RunSpec) -> None:
    """Bring it to rest, and write a snapshot of that."""
    with again(replace(spec, resting=True)) as world:
        works(world)
        snapshot(world, next_number(spec.snapshots))


@pytest.mark.parametrize(
    "mode",
    [
        {},
        pytest.param({"consistency__kind": "sync"}, marks=pytest.mark.slow),
        pytest.param({"consistency__kind": "softsync"}, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_is_brought_to_rest_and_goes_on_with_other_shards(
    tmp_path: Path, mode: dict[str, object]
) -> None:
    spec = interrupted(tmp_path / "run", average__every=3, **mode)
    leases = spec.plan.leases
    for shards in (3, 1):
        rest(spec)
        before, spec = spec, of_shards(spec, shards)
        cut_anew(before, spec)
        assert verify(spec.folder).problems == ()
        held = [newest(spec.snapshots, f"shard-{shard}", spec.cutting).state for shard in range(shards)]
        assert len({(state.version, state.applied) for state in held if isinstance(state, ShardState)}) == 1
    ended = [r.reason for r in read_journal(spec.journal / "ledger.journal") if isinstance(r, LedgerStopped)]
    assert ended == ["at rest", "at rest"]
    with again(spec) as world:
        works(world)
        save_weights(world)
    found = verify(spec.folder)
    assert (found.verdict, found.problems, found.cut) == ("exactly once", (), (2, 3, 1))
    assert [count.applied for count in found.shards] == [leases]
    replayed = replay(spec.folder)
    assert (replayed.verdict, replayed.differences) == ("identical", [])
    assert replayed.versions == (spec.plan.leases if not mode else replayed.versions[0],)


@pytest.mark.slow
def test_a_shard_that_is_lost_later_comes_back_from_the_cut_and_one_without_it_says_so(tmp_path: Path) -> None:
    before = interrupted(tmp_path / "run")
    rest(before)
    spec = of_shards(before, 3)
    cut_anew(before, spec)
    for _ in range(2):  # killed before the first snapshot of its own, so all that it did is done again
        with again(spec) as world:
            assert all(world.status(Address(Role.SHARD, shard)) for shard in range(3))
    opened = [r for r in read_journal(spec.journal / "shard-2.journal") if isinstance(r, ShardOpened)]
    assert [(r.cut, r.incarnation, r.version) for r in opened] == [(1, 0, opened[0].version), (1, 1, opened[0].version)]
    with again(spec) as world:
        works(world)
        save_weights(world)
    assert verify(spec.folder).verdict == "exactly once"
    assert replay(spec.folder).verdict == "identical"
    for path in spec.snapshots.glob("*/shard-1.state"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        RunFailed, match=r"^shard-1: got no whole snapshot since the parameters were cut anew, .*cut short"
    ):
        serving.serve_shard(spec, 1, torch.empty(spec.elements[1]), again=True)


def test_what_is_not_at_rest_or_damaged_is_not_cut(tmp_path: Path) -> None:
    before = interrupted(tmp_path / "run")
    with pytest.raises(RunFailed, match=r"^cannot be cut anew: shard 1 is at version \d+, .* not at rest; resume"):
        cut_anew(before, of_shards(before, 3))
    path = before.snapshots / "000001" / "shard-1.state"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RunFailed, match=r"^cannot be cut anew: .*shard-1.state: .* cut short or changed; resume"):
        cut_anew(before, of_shards(before, 3))
    shutil.rmtree(before.snapshots)
    with pytest.raises(RunFailed, match=r"^cannot be cut anew: got no snapshot in .*, expected one"):
        cut_anew(before, of_shards(before, 3))
    assert verify(before.folder).cut == (2,)
