"""Where the pieces of a run go: shards apart, workers everywhere."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.placement import Node, for_driver, for_shard, for_standby, rounds, seats
from cluster.spec import ClusterSettings
from ps.errors import RunFailed

HEAD = Node("h", "10.0.0.1", 2, driver=True)
ONE, TWO = Node("a", "10.0.0.2", 2), Node("b", "10.0.0.3", 4)
ALL = [HEAD, ONE, TWO]
CORES = ClusterSettings()


def test_shards_go_to_machines_of_their_own_and_the_driver_s_comes_last() -> None:
    assert [for_shard(ALL, shard) for shard in range(4)] == [ONE, TWO, HEAD, ONE]


def test_one_machine_has_everything() -> None:
    assert [for_shard([HEAD], shard) for shard in range(2)] == [HEAD, HEAD]
    assert for_driver([HEAD]) == HEAD


def test_where_machines_are_kept_for_shards_no_other_gets_one() -> None:
    kept = Node("c", "10.0.0.4", 2, keeps_shards=True)
    assert [for_shard([*ALL, kept], shard) for shard in range(3)] == [kept] * 3


def test_after_a_loss_the_shard_goes_elsewhere() -> None:
    assert for_shard([HEAD, TWO], 0) == TWO
    assert for_shard([HEAD], 0) == HEAD


def test_a_standby_is_on_another_machine_than_its_shard_if_there_is_one() -> None:
    assert [for_standby(ALL, shard, for_shard(ALL, shard)) for shard in range(4)] == [TWO, HEAD, ONE, TWO]
    assert for_standby(ALL, 0, TWO) == HEAD, "where it goes on, its own standby does not come"
    assert for_standby([HEAD], 0, HEAD) == HEAD
    kept = Node("c", "10.0.0.4", 2, keeps_shards=True)
    assert for_standby([HEAD, kept], 0, kept) == HEAD, "another machine matters more than what it is kept for"


def test_ledger_and_averager_are_with_the_driver() -> None:
    assert for_driver(ALL) == HEAD
    assert for_driver([ONE, TWO]) == ONE  # a driver outside: any machine


def test_workers_are_on_all_machines_as_evenly_as_their_cores() -> None:
    places = seats(ALL, 16, CORES)
    assert [seat.node for seat in places] == [HEAD, ONE, TWO, HEAD, ONE, TWO, TWO, TWO]
    assert [seat.host for seat in places] == list(range(8))
    assert [worker for seat in places for worker in seat.workers] == list(range(16))
    assert {len(seat.workers) for seat in places} == {2}


def test_few_workers_are_spread() -> None:
    assert [seat.node for seat in seats(ALL, 3, CORES)] == ALL
    assert [list(seat.workers) for seat in seats(ALL, 2, CORES)] == [[0], [1]]


def test_gradients_with_threads_take_that_many_cores() -> None:
    assert [seat.node for seat in seats(ALL, 9, replace(CORES, threads=4))] == [TWO]
    with pytest.raises(RunFailed, match="no node of the cluster has the 8 cores"):
        seats(ALL, 9, replace(CORES, threads=8))
    assert len(seats(ALL, 9, replace(CORES, threads=8, turns=1))) == 3


def test_machines_with_gpus_come_first() -> None:
    gpu = Node("g", "10.0.0.9", 2, gpus=1)
    assert seats([*ALL, gpu], 1, CORES)[0].node == gpu


@pytest.mark.parametrize(
    ("share", "turns", "expected"), [(0.25, 0, 8), (1.0, 0, 2), (2.0, 0, 1), (0.25, 3, 3), (1.0, 5, 2)]
)
def test_where_gradients_are_computed_on_gpus_these_are_what_is_shared_out(
    share: float, turns: int, expected: int
) -> None:
    gpu = Node("g", "10.0.0.9", 64, gpus=2)
    cluster = ClusterSettings(gpus_per_worker=share, turns=turns)
    assert rounds(gpu, cluster) == expected
    assert [seat.node for seat in seats([*ALL, gpu], 100, cluster)] == [gpu] * expected


def test_a_cluster_without_enough_gpus_is_said() -> None:
    with pytest.raises(RunFailed, match=r"no node of the cluster has the 0.5 GPUs that cluster.gpus_per_worker asks"):
        seats(ALL, 4, ClusterSettings(gpus_per_worker=0.5))
