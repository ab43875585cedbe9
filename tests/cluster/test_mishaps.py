"""Faults in virtual time: each kind, where it was planned, and what the run makes of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.faults import Fault, FaultPlan
from cluster.mishaps import FaultySimulation
from cluster.model import ClusterModel, SimulateSettings
from cluster.pieces import with_gradients
from cluster.simulated import Simulation
from cluster.vectors import OwnVectors
from ps.consistency import ConsistencySettings
from ps.journal import FaultFired, LeaseGranted, PushHandled
from ps.ledger import LedgerSettings
from ps.messages import AVERAGER, LEDGER, Address, Outcome, Role
from tests.cluster import schedules
from tests.cluster.schedules import ELEMENTS, INITIAL_N, WORKER, Ran, Scheduled, check
from tests.cluster.simulation import Quadratic, Records, specification

ASYNC = ConsistencySettings()
STEADY = SimulateSettings(compute="constant", compute_seconds=1.0, latency_seconds=0.01, detection_seconds=0.5)


def simulated(
    *faults: Fault,
    model: SimulateSettings = STEADY,
    workers: int = 3,
    updates: int = 30,
    mode: ConsistencySettings = ASYNC,
) -> Ran:
    """A run of two shards with these faults, checked."""
    spec = specification(updates, workers, 2, ELEMENTS, ledger=LedgerSettings(20.0, max_attempts=100))
    spec = replace(spec, consistency=mode)
    ran = schedules.carried_out(Scheduled(spec, model, FaultPlan(faults), call_seconds=30.0))
    check(ran)
    return ran


def fired(ran: Ran, address: Address) -> list[tuple[str, int, str, str]]:
    found = [record for record in ran.journals[address] if isinstance(record, FaultFired)]
    return [(record.actor, record.event, record.do, record.message) for record in found]


def test_without_faults_it_is_the_very_same_run() -> None:
    spec = specification(30, 3, 2, ELEMENTS)
    plain = [Address(Role.SHARD, 0), Address(Role.SHARD, 1), LEDGER, AVERAGER, WORKER]
    journals = []
    for faulty in (False, True):
        records = {address: Records() for address in plain}
        pieces = with_gradients(spec, INITIAL_N, OwnVectors(ELEMENTS, Quadratic()), records)
        model = ClusterModel(STEADY, 0)

        run = FaultySimulation(pieces, model, 3, FaultPlan()) if faulty else Simulation(pieces, model, 3)
        run.run()
        journals.append(repr(records))
    assert journals[0] == journals[1]


SHARD, OTHER = Address(Role.SHARD, 0), Address(Role.SHARD, 1)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lost_message_is_sent_again_and_applied_once(when: str) -> None:
    ran = simulated(Fault("shard-0", "drop", event=6, when=when))
    assert fired(ran, SHARD) == [("shard-0", 6, "drop", "Exchange")]
    pushes = [record.outcome for record in ran.journals[SHARD] if isinstance(record, PushHandled)]
    assert pushes.count(Outcome.DUPLICATE) == (1 if when == "after" else 0)


@pytest.mark.parametrize("slow", ["delay", "stop"])
def test_a_fault_that_takes_time_hides_no_other_at_the_same_event(slow: str) -> None:
    slowed = Fault("shard-0", slow, event=6, seconds=2.0)
    ran = simulated(slowed, Fault("shard-0", "drop", event=6))
    assert [(event, do) for _, event, do, _ in fired(ran, SHARD)] == [(6, slow), (6, "drop")]
    ran = simulated(slowed, Fault("shard-0", "drop", event=6, when="after"))
    pushes = [record.outcome for record in ran.journals[SHARD] if isinstance(record, PushHandled)]
    assert pushes.count(Outcome.DUPLICATE) == 1, "it came late, was applied, and its answer was lost"


def test_a_message_that_comes_twice_is_applied_once() -> None:
    ran = simulated(Fault("shard-0", "duplicate", event=6), Fault("worker-1", "duplicate", event=9))
    pushes = [record.outcome for record in ran.journals[SHARD] if isinstance(record, PushHandled)]
    assert pushes.count(Outcome.DUPLICATE) >= 1
    assert len(fired(ran, WORKER)) == 1


def test_a_corrupted_gradient_is_refused_there_and_its_lease_finished_by_another() -> None:
    ran = simulated(Fault("shard-1", "corrupt", event=5))
    assert [what[2] for what in fired(ran, OTHER)] == ["corrupt"]
    granted = [record for record in ran.journals[LEDGER] if isinstance(record, LeaseGranted)]
    again = [record for record in granted if record.attempt == 1]
    first = [record for record in granted if record.lease == again[0].lease and record.attempt == 0]
    assert len(again) == 1
    assert first[0].worker != again[0].worker


def test_a_killed_worker_costs_one_lease_that_another_takes() -> None:
    ran = simulated(Fault("worker-1", "kill", event=7))
    assert ran.simulation.status().ledger.reissued == 1
    assert fired(ran, WORKER) == [("worker-1", 7, "kill", "Exchange")]


KINDS = {
    "shard-0": {"Exchange", "SampleTaken", "TakeInventory", "WhoHas"},
    "ledger": {"NextLease", "Has", "Inventory", "WorkerLost"},
    "averager": {"Sample"},
}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("actor", KINDS)
def test_an_actor_that_is_killed_at_any_event_comes_back_and_nothing_is_lost(actor: str, when: str) -> None:
    """Two more things go wrong, so that every kind of message reaches it; `check` counts, and replays each run."""
    struck: set[str] = set()
    others = [Fault("worker-1", "kill", event=9)]
    if actor != "ledger":
        others.append(Fault("ledger", "kill", event=25))
    if actor != "shard-0":
        others.append(Fault("shard-1", "kill", event=12))
    for event in range(1, 40):
        ran = simulated(Fault(actor, "kill", event=event, when=when), *others, updates=20)
        address = {"shard-0": SHARD, "ledger": LEDGER, "averager": AVERAGER}[actor]
        struck.update(message for _, at, do, message in fired(ran, address) if do == "kill" and at == event)
    assert struck >= KINDS[actor]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_shard_that_is_killed_where_a_round_is_closed_makes_up_for_it(when: str) -> None:
    struck = set()
    for event in range(1, 40):
        ran = simulated(Fault("shard-0", "kill", event=event, when=when), updates=20, mode=ConsistencySettings("sync"))
        struck.update(message for _, _, _, message in fired(ran, SHARD))
    assert struck >= {"Exchange", "CloseRound"}


def test_an_answer_that_is_lost_does_not_upset_a_replay() -> None:
    """Its worker is told of another version when it asks again, and the journals say both."""
    ran = simulated(*(Fault("shard", "drop", every=4.0, when="after"),))  # `check` replays it
    assert len(fired(ran, SHARD)) > 3


def pace(ran: Ran, workers: range) -> float:
    """Leases per virtual second that these workers were granted before anybody had to wait for the end."""
    granted = [r for r in ran.journals[LEDGER] if isinstance(r, LeaseGranted) and r.worker in workers]
    half = granted[: len(granted) // 2]
    return len(half) / (half[-1].now - half[0].now)


@pytest.mark.parametrize(
    ("fault", "model"),
    [
        (Fault("worker-0", "stop", event=8, seconds=60.0), STEADY),
        (None, SimulateSettings(compute="constant", compute_seconds=1.0, slow_workers=1, slow_factor=100.0)),
        (Fault("worker-0", "corrupt", every=1.0), STEADY),
    ],
    ids=["stands still for a minute", "100 times slower", "sends NaN"],
)
def test_a_worker_that_lags_does_not_slow_the_others(fault: Fault | None, model: SimulateSettings) -> None:
    workers, updates = 8, 400
    undisturbed = pace(simulated(workers=workers, updates=updates), range(1, workers))
    ran = simulated(*([fault] if fault else []), model=model, workers=workers, updates=updates)
    assert pace(ran, range(1, workers)) >= 0.95 * undisturbed
    assert ran.simulation.status().ledger.reissued >= 1, "its lease was taken by another"


def test_a_worker_that_sends_nan_is_quarantined_after_its_first_lease_is_finished_by_another() -> None:
    ran = simulated(Fault("worker-0", "corrupt", every=1.0), workers=4, updates=60)
    assert ran.simulation.status().ledger.quarantined == (0,)
    granted = [r.worker for r in ran.journals[LEDGER] if isinstance(r, LeaseGranted)]
    assert granted.count(0) <= 4
