"""Simulated clock: exactly once under loss, staleness conserved on every schedule, and one seed, one journal."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from cluster.model import SimulateSettings
from ps.journal import LeaseFinished, PushHandled, WorkerTimed
from ps.ledger import LedgerSettings
from ps.messages import LEDGER, Address, Role
from ps.streams import torch_stream
from tests.cluster.simulation import Quadratic, Ran, constant, memoryless, simulated, specification
from workers.program_settings import ProgramSettings

MODELS = {
    "constant": constant(),
    "memoryless": memoryless(),
    "lognormal": SimulateSettings(latency_seconds=0.02, service_seconds=0.003),
    "pareto": SimulateSettings(compute="pareto", tail=1.5, service_seconds=0.01),
    "slow": SimulateSettings(slow_workers=2, slow_factor=5.0),
    "turns": SimulateSettings(turns=2, bandwidth=1e5),
    "lossy": SimulateSettings(life_seconds=2.0, detection_seconds=0.5, rejoin_seconds=0.2),
}


def conserved(ran: Ran, shard: int) -> tuple[int, int]:
    """Both sides of facts A on one shard.

    Left: tau of every update, from the shard. Right: the pulls, from the workers: per update the other pulls then
    open, less the ages of those never applied. Every pull counts as open from its reading on: to its gradient's
    application, to the next pull of its worker, or to the end.
    """
    pushes = ran.pushes(shard)
    updates = len(pushes)
    made = {push.lease: push.version for push in pushes}
    held: dict[int, int] = {}  # worker to version read
    spans: list[tuple[int, int]] = []
    ages = 0
    for exchange in (e for e in ran.exchanges() if e.shard == shard):
        if exchange.worker in held:
            read = held[exchange.worker]
            spans.append((read, exchange.reading.version))
            ages += exchange.reading.version - read if exchange.lease < 0 else 0
        held[exchange.worker] = exchange.reading.version
    applied_unheard = {p.worker: p.version for p in pushes if p.version > held.get(p.worker, updates)}
    for worker, read in held.items():
        closed = applied_unheard.get(worker, updates)
        spans.append((read, closed))
        ages += 0 if worker in applied_unheard else updates - read
    assert len(made) == updates
    others = sum(stop - start for start, stop in spans) - updates
    return sum(push.staleness for push in pushes) + ages, others


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("workers", "shards"), [(1, 1), (7, 3), (32, 2)])
def test_exactly_once_and_staleness_conserved(name: str, workers: int, shards: int) -> None:
    spec = specification(400, workers, shards, ledger=LedgerSettings(lease_seconds=20.0, max_attempts=100))
    ran = simulated(spec, MODELS[name])
    finished = [r for r in ran.journals[LEDGER] if isinstance(r, LeaseFinished)]
    assert sorted(record.lease for record in finished) == list(range(400))
    for shard in range(shards):
        assert sorted(push.lease for push in ran.pushes(shard)) == list(range(400))
        left, right = conserved(ran, shard)
        assert left == right
        if name != "lossy":  # then every worker has exactly one pull open, always
            assert right == (workers - 1) * 400
    assert ran.pieces.ledger.status().ending == "completed"


def test_round_robin_workers_are_all_as_stale() -> None:
    ran = simulated(specification(300, 8), constant())
    assert [push.staleness for push in ran.pushes(0)] == [*range(8), *[7] * 292]
    assert [push.worker for push in ran.pushes(0)] == [i % 8 for i in range(300)]


def test_the_same_seed_is_the_same_journal_and_another_is_another() -> None:
    lossy = MODELS["lossy"]
    a, b, c = (simulated(specification(300, 8, 2, seed=seed), lossy).journals for seed in (1, 1, 2))
    assert a == b
    assert a != c


def test_lost_workers_leases_are_granted_again_and_others_join() -> None:
    ran = simulated(specification(400, 8, 2), replace(MODELS["lossy"], life_seconds=1.0))
    status = ran.pieces.ledger.status()
    assert status.reissued > 0
    assert max(push.worker for push in ran.pushes(0)) >= 8


def test_a_shard_serves_one_exchange_after_the_other() -> None:
    ran = simulated(specification(100, 16), replace(memoryless(0.01), service_seconds=0.05))
    times = [r.now for r in ran.journals[Address(Role.SHARD, 0)] if isinstance(r, PushHandled)]
    assert all(later - earlier >= 0.05 - 1e-9 for earlier, later in pairwise(times))


def test_workers_that_share_cores_wait_for_their_turn() -> None:
    ran = simulated(specification(64, 8), replace(constant(), turns=2))
    assert ran.simulation.now == pytest.approx(32.0)
    timed = [r for r in ran.journals[Address(Role.WORKER)] if isinstance(r, WorkerTimed)]
    assert all(r.compute_seconds == 1.0 for r in timed)
    assert [r.turn_seconds for r in timed[:8]] == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("prefetch", "bandwidth", "waited", "hidden"),
    [
        (False, 512, 0.6 + 0.6, 0.0),  # a vector takes 0.1 + 0.5 s, a message without one 0.1 s
        (True, 512, 0.6 + 0.1, 0.7),  # the push; the pull, 0.1 + 0.6 s, lies within the gradient's second
        (True, 128, 2.1 + 0.1 + 1.2, 1.0),  # a vector takes 2.1 s: of the pull's 2.2 s only one is hidden
    ],
)
def test_prefetch_hides_the_pull_behind_the_gradient(
    prefetch: bool, bandwidth: float, waited: float, hidden: float
) -> None:
    spec = replace(specification(20, 1), program=ProgramSettings(prefetch=prefetch))
    ran = simulated(spec, replace(constant(), latency_seconds=0.1, bandwidth=bandwidth))
    timed = [r for r in ran.journals[Address(Role.WORKER)] if isinstance(r, WorkerTimed)]
    assert [r.lease for r in timed] == list(range(20))
    assert [r.exchange_seconds for r in timed[1:]] == pytest.approx([waited] * 19)  # the first pulls once more
    assert [r.hidden_seconds for r in timed] == pytest.approx([hidden] * 20)


@pytest.mark.parametrize("workers", [1, 4, 9])
def test_with_prefetch_staleness_is_that_of_two_gradients_of_each_worker(workers: int) -> None:
    spec = replace(specification(40 * workers, workers), program=ProgramSettings(prefetch=True))
    ran = simulated(spec, replace(constant(), turns=1))
    settled = [push.staleness for push in ran.pushes(0)[2 * workers : -workers]]
    assert set(settled) == {spec.program.staleness(workers - 1)} == {2 * workers - 1}


@pytest.mark.parametrize("memory_bytes", [1 << 20, 2000, 0])
@pytest.mark.parametrize("name", ["constant", "lognormal", "lossy"])
@pytest.mark.parametrize("prefetch", [False, True])
def test_versions_kept_once_and_spilled_give_the_same_bits(prefetch: bool, name: str, memory_bytes: int) -> None:
    spec = specification(200, 8, 3, ledger=LedgerSettings(lease_seconds=20.0, max_attempts=100))
    spec = replace(spec, program=ProgramSettings(prefetch=prefetch))
    weights_N = torch.randn(64, generator=torch_stream(0, "test/initial"))
    own = simulated(spec, MODELS[name], Quadratic(0.3, 0.1), weights_N)
    shared = simulated(spec, MODELS[name], Quadratic(0.3, 0.1), weights_N, memory_bytes)
    assert shared.journals == own.journals
    for average in (False, True):
        a_N, b_N = torch.empty(64), torch.empty(64)
        own.simulation.read(average, a_N)
        shared.simulation.read(average, b_N)
        assert torch.equal(a_N, b_N)
