"""A run without faults, from its journals: exactly once on every shard, and the law of staleness."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from ps.journal import (
    LeaseFinished,
    SampleAveraged,
    SampleSent,
    SampleSkipped,
    WorkerTimed,
)
from ps.ledger import LedgerStatus
from ps.messages import LEDGER, Outcome
from ps.wire.files import journals, read_journal
from tests.cluster.world import World, served
from tests.journals import both_sides_of_conservation, pushes
from workers.evaluation import Evaluator


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Eight workers on two hosts, two epochs of digits with a short last batch, three shards; ended."""
    folder = tmp_path_factory.mktemp("run")
    with served(folder, cluster__workers=8, cluster__shards=3, run__epochs=2, run__batch_size=32) as world:
        first, second = world.host(0, range(5), turns=1), world.host(1, range(5, 8), turns=1)
        other = threading.Thread(target=second.run)
        other.start()
        first.run()
        other.join()
        status = world.status(LEDGER)
        assert isinstance(status, LedgerStatus)
        assert (status.ending, status.finished, status.outstanding) == ("completed", world.spec.plan.leases, 0)
    return world


def test_every_example_of_every_epoch_is_applied_exactly_once_on_every_shard(run: World) -> None:
    plan = run.spec.plan
    for shard in range(3):
        seen: dict[int, Counter[int]] = defaultdict(Counter)
        for push in pushes(run.spec.journal, shard):
            assert push.outcome is Outcome.APPLIED
            lease = plan.lease(push.lease, push.attempt, 0.0)
            assert push.samples == lease.count
            seen[lease.epoch].update(plan.order(lease.epoch)[lease.first : lease.first + lease.count].tolist())
        assert set(seen) == {0, 1}
        for epoch in seen:
            assert seen[epoch] == Counter(range(plan.examples))


def test_every_lease_is_finished_once_in_the_ledger_s_journal(run: World) -> None:
    finished = [r for r in read_journal(run.spec.journal / "ledger.journal") if isinstance(r, LeaseFinished)]
    assert sorted(record.lease for record in finished) == list(range(run.spec.plan.leases))
    assert sum(record.samples for record in finished) == run.spec.plan.samples


@pytest.mark.parametrize("shard", [0, 1, 2])
def test_staleness_is_conserved(run: World, shard: int) -> None:
    shards_side, workers_side = both_sides_of_conservation(run.spec.journal, shard)
    assert shards_side == workers_side
    applied = pushes(run.spec.journal, shard)
    assert sum(push.staleness for push in applied) > 4 * len(applied)  # eight workers: stale indeed


def test_workers_pull_right_after_their_push(run: World) -> None:
    """So each version that a push makes is the one that its worker's next gradient was computed from."""
    for shard in range(3):
        made: dict[int, int] = {}
        for push in pushes(run.spec.journal, shard):
            assert push.pulled
            if push.worker in made:
                assert push.read[shard].version == made[push.worker]
            made[push.worker] = push.version


def test_the_average_is_defined_over_every_kth_version(run: World) -> None:
    every, updates = run.spec.average.every, run.spec.plan.leases
    taken = [r for r in read_journal(run.spec.journal / "averager.journal") if isinstance(r, SampleAveraged)]
    for shard in range(3):
        records = list(read_journal(run.spec.journal / f"shard-{shard}.journal"))
        sent = [record.version for record in records if isinstance(record, SampleSent)]
        skipped = [record.version for record in records if isinstance(record, SampleSkipped)]
        assert sorted(sent + skipped) == list(range(every, updates + 1, every))
        averaged = [record.version for record in taken if record.shard == shard and record.counted]
        assert averaged == sent[: len(averaged)]
        assert len(averaged) >= len(sent) - 2


def test_every_lease_s_time_is_accounted_for(run: World) -> None:
    timed = [
        record
        for path in journals(run.spec.journal)
        for record in read_journal(path)
        if isinstance(record, WorkerTimed)
    ]
    assert sorted(record.lease for record in timed) == list(range(run.spec.plan.leases))
    assert all(record.compute_seconds > 0 and record.exchange_seconds > 0 for record in timed)


def test_a_run_learns(tmp_path: Path) -> None:
    with served(tmp_path / "run", cluster__workers=1, run__epochs=4) as world:
        world.host(turns=1).run()
        status, weights_N = world.status(LEDGER), world.weights()
    assert isinstance(status, LedgerStatus)
    assert status.recent_loss < 1.5
    evaluator = Evaluator(world.spec.model, world.spec.data, world.spec.layout)
    assert evaluator.evaluate(weights_N).top1_error < 0.4
