"""Every consistency mode and program over real gRPC and shared memory, with real gradients: exactly once, and again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distbelief import rundir
from distbelief.replay import replay
from distbelief.verify import EXACTLY_ONCE, verify
from ps.ledger import LedgerStatus
from ps.messages import LEDGER, Address, Role
from ps.shard import ShardStatus
from tests.cluster.world import World, served

CHOICES: dict[str, dict[str, object]] = {
    "bounded": {"consistency__kind": "bounded", "consistency__bound": 1},
    "softsync": {"consistency__kind": "softsync", "consistency__split": 2},
    "sync": {"consistency__kind": "sync"},
    "backup": {"consistency__kind": "backup"},
    "warm": {"consistency__warm_leases": 5},
    "ramp": {"consistency__begin": 1},
    "discard": {"correction__kind": "discard", "correction__limit": 3},
    "gap-aware": {"correction__kind": "gap-aware"},
    "dana": {"correction__kind": "dana"},
    "downpour": {"program__kind": "downpour", "program__push_every": 3},
    "fetching": {"program__kind": "downpour", "program__push_every": 4, "program__fetch_every": 2},
    "local": {"program__kind": "local", "program__push_every": 3},
    "prefetch": {"program__prefetch": True},
    "prefetch over the network": {"program__prefetch": True, "cluster__path": "network", "cluster__wire": "bfloat16"},
    "prefetch, compensated": {"program__prefetch": True, "correction__kind": "dc-asgd"},
    "elastic": {"program__kind": "elastic", "program__push_every": 3},
}


def ran(folder: Path, **values: object) -> tuple[World, LedgerStatus, list[ShardStatus]]:
    with served(folder, cluster__workers=4, cluster__shards=2, run__batch_size=96, **values) as world:
        world.host(turns=2).run()
        rundir.write_weights(folder, "latest", world.spec.layout, world.weights(), {})
        ledger = world.status(LEDGER)
        shards = [world.status(Address(Role.SHARD, shard)) for shard in range(2)]
        assert isinstance(ledger, LedgerStatus)
        return world, ledger, [status for status in shards if isinstance(status, ShardStatus)]


@pytest.mark.parametrize("name", CHOICES)
def test_a_run_completes_with_every_example_applied_once(name: str, tmp_path: Path) -> None:
    world, ledger, shards = ran(tmp_path, **CHOICES[name])
    assert (ledger.ending, ledger.finished, ledger.outstanding) == ("completed", world.spec.plan.leases, 0)
    assert verify(tmp_path).verdict == EXACTLY_ONCE
    assert [shard.samples for shard in shards] == [1437, 1437]
    if name in ("sync", "backup"):
        assert [set(shard.staleness) for shard in shards] == [{0}, {0}]
        assert shards[0].version == -(-world.spec.plan.leases // (4 if name == "sync" else 3))
    if name == "softsync":
        assert all(max(shard.staleness) <= 4 for shard in shards)
    if world.spec.program.pure:
        found = replay(tmp_path)
        assert found.weights["latest"].same
        assert [line.split()[0] for line in found.differences] == ["average.safetensors:"]  # nobody wrote it here


def test_a_synchronous_run_has_the_same_bits_on_one_turn_and_on_two(tmp_path: Path) -> None:
    weights = []
    for turns in (1, 2):
        folder = tmp_path / str(turns)
        with served(folder, consistency__kind="sync", cluster__workers=4, run__batch_size=96) as world:
            world.host(turns=turns).run()
            weights.append(world.weights())
    assert torch.equal(*weights)
